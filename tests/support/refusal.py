"""A call that must be refused: the whole promise of an error answer, checked in one place."""

from __future__ import annotations

from typing import Any

from stillframe.domain.errors import ErrorCase
from support.service import Service, Vm

ENVELOPE = ["scode", "desc", "message", "message_cn", "stack", "data"]


def must_refuse(service: Service, case: ErrorCase, method: str, path: str, **kwargs: Any) -> str:
    """The call ends in this case; returns ``desc``.

    HTTP 200, the envelope in its order, both languages, a stack of our own frames without directories, no traceback,
    and an id in the answer under which the service's log has the story.
    """
    response = service.response(method, path, **kwargs)
    answer = response.json()
    assert answer["scode"] == case.code, answer
    assert response.status_code == 200
    assert list(answer) == ENVELOPE
    assert (answer["message"], answer["message_cn"]) == (case.value.message, case.value.message_cn)
    assert answer["data"] == {}
    assert answer["stack"]
    assert all(frame.startswith("host:") and "/" not in frame for frame in answer["stack"])
    assert "Traceback" not in response.text
    request_id = response.headers["X-Request-Id"]
    assert any(
        request_id in line and str(case.code) in line for line in service.log_path.read_text("utf-8").splitlines()
    ), request_id
    desc: str = answer["desc"]
    return desc


def must_refuse_post(vm: Vm, case: ErrorCase, path: str, **body: Any) -> str:
    """The same for a POST about this VM."""
    whole = {"cluster_uuid": "", "compute_uuid": vm.uuid, **body}
    return must_refuse(vm.service, case, "POST", path, json=whole)
