"""What schemathesis checks beside its own checks: that every answer is the envelope, with no undocumented field."""

from __future__ import annotations

import os
import re
from typing import Any

import schemathesis

# the machine that requests are about which name one in their bodies; of those that do in their queries the configuration tells
VM = os.environ.get("FUZZED_VM", "")
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_ENVELOPE = ["scode", "desc", "message", "message_cn", "stack", "data"]


@schemathesis.check
def is_an_envelope(ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """Every answer but pictures, events and the document itself."""
    del ctx
    media_type = response.headers.get("content-type", [""])[0].partition(";")[0]
    if case.path == "/openapi.json" or media_type in ("image/png", "image/svg+xml", "text/event-stream"):
        return
    envelope = response.json()
    assert list(envelope) == _ENVELOPE, envelope
    assert (envelope["scode"] == 0) == (response.status_code == 200), envelope


@schemathesis.hook
def map_body(context: schemathesis.HookContext, body: Any) -> Any:
    """A well-formed uuid becomes one that there is; what is malformed stays so."""
    del context
    if VM and isinstance(body, dict) and _UUID.fullmatch(str(body.get("compute_uuid", ""))):
        return {**body, "compute_uuid": VM}
    return body
