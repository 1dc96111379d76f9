"""Every answer is the envelope: refusals, unreadable requests, unknown calls and crashes, with an id and no secrets."""

from __future__ import annotations

import logging
import re
import threading
import uuid
from functools import partial
from typing import Any

import anyio
import httpx
import pytest

from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.http.door import LOOKING_THREADS, SPARE_ACTING_THREADS
from support.http_door import ADMIN_KEY, CLUSTER, VM, DoorClient, an_info, as_envelope, identified, must_fail, refused

BASE = "/v1/compute/vsd/snapshot"
WHERE = {"cluster_uuid": CLUSTER, "compute_uuid": VM}
FRAME = re.compile(r"host:[^,]+,pid:\d+,module:[a-z_.]+,code:\d+,filename:[a-z_]+\.py,func:[A-Za-z_<>]+,line:\d+")


@pytest.fixture
def door() -> DoorClient:
    return DoorClient()


@pytest.mark.parametrize("case", ErrorCase)
def test_every_case_is_http_200_by_default_and_its_own_status_when_asked(case: ErrorCase) -> None:
    # what is no HTTP is told so by HTTP's own means
    handled = 400 if case is ErrorCase.REQUEST_BROKEN else 200
    for setting, status in (("ok", handled), ("semantic", case.value.http_status)):
        door = DoorClient(http_errors=setting)
        door.stub.outcomes["head_snapshot"] = refused(case, "about this")
        response = door.request("GET", f"{BASE}/head", params=WHERE)
        assert response.status_code == status
        assert must_fail(as_envelope(response), case) == "about this"


def test_the_stack_is_the_projects_own_frames_innermost_first(door: DoorClient) -> None:
    door.stub.outcomes["head_snapshot"] = _raise_inside
    stack = door.get(f"{BASE}/head", **WHERE)["stack"]
    assert all(FRAME.fullmatch(frame) for frame in stack)
    assert "module:http.fields,code:22002,filename:fields.py,func:canonical_uuid," in stack[0]
    assert ["func:look," in frame for frame in stack].count(True) == 1
    assert any("module:http.snapshots," in frame for frame in stack)
    assert all("module:http." in frame for frame in stack)


def _raise_inside(ref: Any) -> None:
    from stillframe.http.fields import canonical_uuid  # noqa: PLC0415

    try:
        canonical_uuid("no")
    except ValueError as error:
        raise StillframeError(ErrorCase.VM_UNKNOWN).with_traceback(error.__traceback__) from None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/console"),
        ("GET", "/v1/nothing"),
        ("GET", f"{BASE}/list/"),
        ("DELETE", f"{BASE}/list"),
        ("GET", f"{BASE}/create"),
        ("OPTIONS", f"{BASE}/create"),
        ("PROPFIND", "/v1/compute/list"),
        ("GET", "/docs"),
        ("GET", "/redoc"),
        ("GET", "/v1/%ff%00/..%2f"),
    ],
)
def test_unknown_calls(door: DoorClient, method: str, path: str) -> None:
    response = door.request(method, path)
    assert response.status_code == 200
    assert must_fail(as_envelope(response), ErrorCase.CALL_UNKNOWN).startswith(f"{method} /")


def test_a_wrong_method_is_told_the_right_one(door: DoorClient) -> None:
    assert door.request("OPTIONS", f"{BASE}/create").headers["allow"] == "POST"


def test_head_answers_like_get_without_the_body(door: DoorClient) -> None:
    response = door.request("HEAD", f"{BASE}/head", params=WHERE)
    assert (response.status_code, response.content) == (200, b"")
    assert int(response.headers["content-length"]) > 100


@pytest.mark.parametrize(
    "raw",
    [
        b"{",
        b"nothing",
        b'{"name": NaN}',
        b'{"extra": -Infinity}',
        b'{"name": "\\ud800"}',
        b'{"\\udfff": 1}',
        b'{"name": "\xff"}',
        b'\xef\xbb\xbf{"name": "a"}',
        b"[" * 100_000,
        b'{"a":' * 50_000 + b"1" + b"}" * 50_000,
        b'{"memory_mib": ' + b"9" * 5000 + b"}",
        b"[]",
        b'"text"',
        b"7",
        b"\0",
    ],
    ids=range(15),
)
def test_what_is_not_json_is_malformed(door: DoorClient, raw: bytes) -> None:
    desc = must_fail(door.post_raw(f"{BASE}/create", raw), ErrorCase.PARAMETER_MALFORMED)
    assert desc.startswith("body: expected ")
    assert door.stub.asked == []


@pytest.mark.parametrize(("raw", "missing"), [(b"", "body"), (b"null", "body"), (b"{}", "compute_uuid")])
def test_nothing_in_the_body_is_missing(door: DoorClient, raw: bytes, missing: str) -> None:
    assert must_fail(door.post_raw(f"{BASE}/create", raw), ErrorCase.PARAMETER_MISSING).startswith(missing)


@pytest.mark.parametrize("content_type", ["", "text/plain", "application/x-www-form-urlencoded", "multipart/form-data"])
def test_other_content_types_are_refused(door: DoorClient, content_type: str) -> None:
    envelope = door.post_raw(f"{BASE}/delete", b'{"name": "a"}', content_type)
    assert must_fail(envelope, ErrorCase.PARAMETER_MALFORMED).startswith("Content-Type: expected application/json")


def test_a_content_type_may_have_parameters(door: DoorClient) -> None:
    raw = f'{{"compute_uuid": "{VM}", "name": "b"}}'.encode()
    door.post_raw(f"{BASE}/delete", raw, "Application/JSON; charset=utf-8")
    assert door.stub.asked[0][2] == "b"


@pytest.mark.parametrize("again", ['"name": "b"', '"x": [{"name": 1, "name": 1}]', '"n\\u0061me": "b"'])
def test_a_key_that_is_given_twice_is_refused(door: DoorClient, again: str) -> None:
    raw = f'{{"name": "a", "compute_uuid": "{VM}", {again}}}'.encode()
    desc = must_fail(door.post_raw(f"{BASE}/delete", raw, "application/json"), ErrorCase.PARAMETER_MALFORMED)
    assert "'name' is given repeatedly" in desc
    assert door.stub.asked == []


def test_a_crash_tells_the_client_an_id_and_the_log_everything(
    door: DoorClient, caplog: pytest.LogCaptureFixture
) -> None:
    door.stub.outcomes["inspect"] = ZeroDivisionError("the secret detail")
    with caplog.at_level(logging.INFO, "stillframe.http"):
        response = door.request("GET", "/v1/compute/inspect", params=WHERE)
    request_id = response.headers["X-Request-Id"]
    assert response.status_code == 200
    assert must_fail(as_envelope(response), ErrorCase.INTERNAL) == f"request {request_id}"
    assert "secret" not in response.text
    (record,) = caplog.records
    assert request_id in record.getMessage()
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], ZeroDivisionError)


def test_a_crash_is_500_when_asked() -> None:
    door = DoorClient(http_errors="semantic")
    door.stub.outcomes["list_vms"] = RuntimeError()
    response = door.request("GET", "/v1/compute/list")
    assert response.status_code == 500
    must_fail(as_envelope(response), ErrorCase.INTERNAL)


def test_each_error_is_one_log_line_under_the_answers_id(door: DoorClient, caplog: pytest.LogCaptureFixture) -> None:
    door.stub.outcomes["delete"] = refused(ErrorCase.VM_BUSY, "line one\nline two")
    with caplog.at_level(logging.INFO, "stillframe.http"):
        response = door.request("POST", f"{BASE}/delete", json=identified(name="a"))
        door.request("GET", "/v1/no%0Asuch")
    first, second = (record.getMessage() for record in caplog.records)
    assert first.startswith(f"request {response.headers['X-Request-Id']} 'POST {BASE}/delete': VM_BUSY 23002: ")
    assert "\n" not in first + second


def test_a_failures_log_has_its_cause(door: DoorClient, caplog: pytest.LogCaptureFixture) -> None:
    door.stub.outcomes["start"] = Failed(ErrorCase.HYPERVISOR_FAILED, "its words")
    must_fail(door.post("/v1/compute/start", identified()), ErrorCase.HYPERVISOR_FAILED)
    assert caplog.records[0].exc_info is not None


def test_a_lone_surrogate_cannot_break_an_answer(door: DoorClient) -> None:
    door.stub.outcomes["start"] = Failed(ErrorCase.HYPERVISOR_FAILED, "bad \ud800 name")
    assert must_fail(door.post("/v1/compute/start", identified()), ErrorCase.HYPERVISOR_FAILED) == "bad ? name"


def test_errors_list_at_most_a_few_fields(door: DoorClient) -> None:
    fields = ("cluster_uuid", "cluster_name", "tenant", "multiple", "vm_type", "owner", "name")
    wrong = identified(**{field: [] for field in fields})
    desc = must_fail(door.post(f"{BASE}/create", wrong), ErrorCase.PARAMETER_MALFORMED)
    assert desc.endswith("; and 2 more")


def _client(door: DoorClient) -> httpx.AsyncClient:
    return httpx.AsyncClient(
        transport=httpx.ASGITransport(app=door.app), base_url="http://door", headers={"ApiKey": ADMIN_KEY}
    )


def test_a_departing_client_does_not_cut_a_mutation(door: DoorClient) -> None:
    begun, may_end, ended = threading.Event(), threading.Event(), threading.Event()

    def slow(*args: Any) -> None:
        begun.set()
        may_end.wait(10)
        ended.set()

    door.stub.outcomes["delete"] = slow

    async def leave() -> None:
        async with _client(door) as client, anyio.create_task_group() as group:
            group.start_soon(lambda: client.post(f"{BASE}/delete", json=identified(name="a")))
            await anyio.to_thread.run_sync(begun.wait)
            group.cancel_scope.cancel()
            assert not ended.is_set()
            may_end.set()

    anyio.run(leave)
    assert ended.is_set()


def test_long_mutations_leave_reads_alone(door: DoorClient) -> None:
    may_end = threading.Event()
    door.stub.outcomes["delete"] = lambda *args: may_end.wait(20)
    door.stub.outcomes["inspect"] = an_info()

    async def crowd() -> int:
        async with _client(door) as client, anyio.create_task_group() as group:
            for _ in range(door.settings.max_operations + SPARE_ACTING_THREADS + 5):
                body = identified(name="a", compute_uuid=str(uuid.uuid4()))  # of one VM only a few get a thread
                group.start_soon(partial(client.post, f"{BASE}/delete", json=body))
            await anyio.sleep(0.2)
            with anyio.fail_after(10):
                answers = [await client.get("/v1/compute/inspect", params=WHERE) for _ in range(LOOKING_THREADS + 1)]
            may_end.set()
            return sum(answer.json()["scode"] == 0 for answer in answers)

    assert anyio.run(crowd) == LOOKING_THREADS + 1


@pytest.mark.parametrize(("seconds", "header"), [(0.004, "1"), (1.0, "1"), (1.01, "2"), (None, None)])
def test_when_to_repeat_is_in_a_header_whatever_the_status(seconds: float | None, header: str | None) -> None:
    for setting in ("ok", "semantic"):
        door = DoorClient(http_errors=setting)
        door.stub.outcomes["head_snapshot"] = Refused(ErrorCase.RATE_LIMITED, retry_after_s=seconds)
        response = door.request("GET", f"{BASE}/head", params=WHERE)
        must_fail(as_envelope(response), ErrorCase.RATE_LIMITED)
        assert response.headers.get("retry-after") == header
