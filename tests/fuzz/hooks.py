"""What schemathesis checks beside its own checks: that every answer is the envelope, with no undocumented field."""

from __future__ import annotations

import schemathesis

_ENVELOPE = ["scode", "desc", "message", "message_cn", "stack", "data"]


@schemathesis.check
def is_an_envelope(ctx: schemathesis.CheckContext, response: schemathesis.Response, case: schemathesis.Case) -> None:
    """Every answer but a picture and the document itself."""
    del ctx
    if case.path == "/openapi.json" or response.headers.get("content-type", [""])[0] == "image/png":
        return
    envelope = response.json()
    assert list(envelope) == _ENVELOPE, envelope
    assert (envelope["scode"] == 0) == (response.status_code == 200), envelope
