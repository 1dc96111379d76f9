"""The operation log at the door: the call that lists it, and the attempts that are refused before a use case begins."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fastapi import APIRouter

from stillframe.domain.access import Need, Principal, Role
from stillframe.domain.errors import ErrorCase
from stillframe.http.access import needs
from stillframe.http.ledger import logged_calls
from stillframe.http.parsing import StrictRoute
from stillframe.operations.log import LogPage, LogQuery
from stillframe.operations.refusals import RefusedCall
from stillframe.operations.requests import Caller
from support.http_door import (
    ADMIN,
    CLUSTER,
    LINE,
    OPERATION,
    TENANT,
    VM,
    DoorClient,
    a_line,
    as_envelope,
    identified,
    must_fail,
    refused,
)

BASE = "/v1/compute/vsd/snapshot"
LOG = f"{BASE}/log/list"
CREATE = f"{BASE}/create"
READER = Principal("1" * 12, Role.READER, TENANT)
OTHER = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def door() -> DoorClient:
    client = DoorClient(max_body_bytes=10_000)
    client.stub.principals["reader"] = READER
    return client


def the_one(door: DoorClient) -> RefusedCall:
    (noted,) = door.stub.noted
    return noted


# --- the list --------------------------------------------------------------------------------------------------------


def test_a_page_of_lines(door: DoorClient) -> None:
    door.stub.outcomes["list_log"] = LogPage((a_line(), a_line(uuid=OTHER, scode=23002, who="")), OTHER)
    data = door.get(LOG)["data"]
    assert data["next"] == OTHER
    first, second = data["list"]
    assert first == {
        "id": LINE,
        "at": 1631166673,
        "key_id": "0123456789ab",
        "tenant": TENANT,
        "address": "192.0.2.7",
        "call": "create",
        "compute_uuid": VM,
        "compute_name": "测试",
        "mark": "GCD",
        "snapshot": "origin",
        "scode": 0,
        "desc": "",
        "duration_ms": 812,
        "operation_uuid": OPERATION,
    }
    assert (second["id"], second["scode"], second["key_id"]) == (OTHER, 23002, "")
    assert door.stub.asked == [("list_log", LogQuery())]
    assert door.stub.viewers == [ADMIN]


def test_every_filter_arrives(door: DoorClient) -> None:
    who = {"tenant": TENANT, "key_id": "0123456789ab", "compute_uuid": VM.upper()}
    what = {"call": "rollback", "snapshot": "e\u0301", "operation_uuid": OPERATION, "scode": 23002, "failed": "true"}
    door.get(LOG, cluster_uuid=CLUSTER, **who, **what, since=0, until=1700000000, after=LINE.upper(), limit=1000)
    query = LogQuery(
        *(CLUSTER, VM, TENANT, "0123456789ab", "rollback", "\u00e9", OPERATION, 23002, True, 0, 1700000000, LINE, 1000)
    )
    assert door.stub.asked == [("list_log", query)]


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"limit": 0}, "limit: expected at least 1"),
        ({"limit": 1001}, "limit: expected at most 1000"),
        ({"scode": "all"}, "scode: expected an integer"),
        ({"scode": -1}, "scode: expected at least 0"),
        ({"failed": "maybe"}, "failed: expected true or false"),
        ({"key_id": "sfk_0123456789ab"}, "key_id: expected text that matches"),
        ({"since": "yesterday"}, "since: expected an integer"),
        ({"after": "1"}, "after: expected a uuid"),
        ({"operation_uuid": "1"}, "operation_uuid: expected a uuid"),
        ({"call": "a\0"}, "call: expected text without NUL"),
    ],
)
def test_a_malformed_filter_is_named(door: DoorClient, filters: dict[str, Any], named: str) -> None:
    assert named in must_fail(door.get(LOG, **filters), ErrorCase.PARAMETER_MALFORMED)
    assert door.stub.asked == []


def test_a_reader_may_look_as_what_it_is(door: DoorClient) -> None:
    assert as_envelope(door.request("GET", LOG, key="reader"))["scode"] == 0
    assert door.stub.viewers == [READER]
    must_fail(as_envelope(door.request("GET", LOG, key="")), ErrorCase.NOT_AUTHENTICATED)


# --- refused attempts ------------------------------------------------------------------------------------------------


def test_a_readers_mutation_is_noted_with_what_it_named(door: DoorClient) -> None:
    body = identified(name="升级前", vm_type="GDT")
    must_fail(as_envelope(door.request("POST", f"{BASE}/delete", key="reader", json=body)), ErrorCase.NOT_ALLOWED)
    noted = the_one(door)
    assert (noted.principal, noted.address, noted.call) == (READER, "192.0.2.7", "delete")
    assert (noted.vm_uuid, noted.snapshot, noted.mark) == (VM, "升级前", "GDT")
    assert noted.case is ErrorCase.NOT_ALLOWED
    assert READER.key_id in noted.desc
    assert noted.duration_ms >= 0
    assert door.stub.asked == []


@pytest.mark.parametrize(
    "body",
    [
        b"", b"not JSON", b"[]", b"[" * 500, b'{"compute_uuid": 7}', b'{"compute_uuid": "x", "name": "a"}',
        b'{"name": "a", "vm_type": "GCD"}', b"\xff", b'{"compute_uuid": "\\udc00"}',
    ],
)  # fmt: skip
def test_of_a_body_that_names_no_machine_nothing_is_noted(door: DoorClient, body: bytes) -> None:
    door.request("POST", CREATE, key="reader", content=body)
    noted = the_one(door)
    assert (noted.call, noted.vm_uuid, noted.snapshot, noted.mark) == ("create", "", "", "")


@pytest.mark.parametrize("odd", [{"name": 5}, {"name": None}, {"vm_type": "ROOT"}, {"vm_type": ["GCD"]}])
def test_odd_claims_are_no_claims(door: DoorClient, odd: dict[str, Any]) -> None:
    door.request("POST", CREATE, key="reader", json={"compute_uuid": VM, **odd})
    noted = the_one(door)
    assert (noted.vm_uuid, noted.snapshot, noted.mark) == (VM, "", "")


@pytest.mark.parametrize(
    ("content", "case"),
    [
        (b"{", ErrorCase.PARAMETER_MALFORMED),
        (b"", ErrorCase.PARAMETER_MISSING),
        (json.dumps(identified()).encode(), ErrorCase.PARAMETER_MISSING),
        (json.dumps(identified(name=5)).encode(), ErrorCase.PARAMETER_MALFORMED),
        (b" " * 10_001, ErrorCase.BODY_TOO_LARGE),
    ],
)
def test_a_bad_body_of_a_mutating_call_is_noted_once(door: DoorClient, content: bytes, case: ErrorCase) -> None:
    must_fail(door.post_raw(CREATE, content), case)
    noted = the_one(door)
    assert (noted.principal, noted.call, noted.case) == (ADMIN, "create", case)
    assert door.stub.asked == []


def test_a_repeated_parameter_and_another_media_type_are_noted(door: DoorClient) -> None:
    must_fail(door.post(f"{CREATE}?a=1&a=2", identified(name="a")), ErrorCase.PARAMETER_MALFORMED)
    must_fail(door.post_raw(CREATE, b"{}", "text/plain"), ErrorCase.PARAMETER_MALFORMED)
    assert [noted.call for noted in door.stub.noted] == ["create", "create"]


def test_what_a_use_case_wrote_a_line_about_is_not_noted_again(door: DoorClient) -> None:
    def logged_and_refused(*args: Any) -> None:
        caller: Caller = args[-1]
        caller.noted()
        raise refused(ErrorCase.VM_BUSY)

    door.stub.outcomes["create"] = logged_and_refused
    must_fail(door.post(CREATE, identified(name="a", vm_type="GCD")), ErrorCase.VM_BUSY)
    assert door.stub.noted == []


@pytest.mark.parametrize("error", [refused(ErrorCase.VM_UNKNOWN), ZeroDivisionError("a crash")])
def test_what_a_use_case_did_not_write_a_line_about_is_noted(door: DoorClient, error: Exception) -> None:
    door.stub.outcomes["create"] = error
    assert door.post(CREATE, identified(name="a"))["scode"] != 0
    case = ErrorCase.INTERNAL if isinstance(error, ZeroDivisionError) else ErrorCase.VM_UNKNOWN
    assert the_one(door).case is case
    assert "a crash" not in the_one(door).desc


def test_what_went_well_or_changes_nothing_is_not_noted(door: DoorClient) -> None:
    assert door.post(CREATE, identified(name="a"))["scode"] == 0
    must_fail(door.get(f"{BASE}/list"), ErrorCase.PARAMETER_MISSING)
    must_fail(door.post(f"{BASE}/nothing", {}), ErrorCase.CALL_UNKNOWN)
    must_fail(door.get(CREATE), ErrorCase.CALL_UNKNOWN)
    assert door.request("HEAD", CREATE).status_code == 200
    assert door.stub.noted == []


def test_who_asks_to_see_what_it_may_not_is_noted(door: DoorClient) -> None:
    must_fail(as_envelope(door.request("GET", "/v1/stillframe/key/list", key="reader")), ErrorCase.NOT_ALLOWED)
    noted = the_one(door)
    assert (noted.principal, noted.call, noted.case) == (READER, "", ErrorCase.NOT_ALLOWED)


def test_a_tenants_look_at_what_does_not_exist_for_it_is_noted(door: DoorClient) -> None:
    door.stub.outcomes["tree"] = refused(ErrorCase.VM_UNKNOWN)
    where = {"cluster_uuid": "", "compute_uuid": VM}
    must_fail(as_envelope(door.request("GET", f"{BASE}/tree", key="reader", params=where)), ErrorCase.VM_UNKNOWN)
    assert (the_one(door).principal, the_one(door).call) == (READER, "")
    must_fail(door.get(f"{BASE}/tree", **where), ErrorCase.VM_UNKNOWN)
    assert len(door.stub.noted) == 1, "an administrator's is no attempt at anything"


def test_a_stranger_is_noted_whatever_it_asks_for_and_what_it_sends_is_not_looked_at(door: DoorClient) -> None:
    for method, path in (("POST", CREATE), ("GET", LOG), ("GET", "/v1/%0Aforged"), ("POST", "/nowhere")):
        response = door.request(method, path, key="", json=identified(name="a", vm_type="GCD"))
        must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)
    assert [noted.call for noted in door.stub.noted] == ["create", "", "", ""]
    for noted in door.stub.noted:
        assert (noted.principal, noted.address) == (None, "192.0.2.7")
        assert (noted.vm_uuid, noted.snapshot, noted.mark) == ("", "", "")
        assert "forged" not in noted.desc


def test_a_mutation_of_a_key_that_asks_too_often_is_noted_as_its_own_and_a_look_is_not() -> None:
    door = DoorClient(requests_per_s=0.5)  # a bucket of one request
    door.stub.principals["reader"] = READER
    assert as_envelope(door.request("GET", LOG, key="reader"))["scode"] == 0
    must_fail(as_envelope(door.request("GET", LOG, key="reader")), ErrorCase.RATE_LIMITED)
    must_fail(
        as_envelope(door.request("POST", CREATE, key="reader", json=identified(name="a"))), ErrorCase.RATE_LIMITED
    )
    noted = the_one(door)
    assert (noted.principal, noted.call, noted.case) == (READER, "create", ErrorCase.RATE_LIMITED)
    assert (noted.vm_uuid, noted.snapshot) == ("", ""), "what it sent is not looked at"


def test_an_expired_link_is_no_attempt_to_change_something(door: DoorClient) -> None:
    door.stub.outcomes["screenshot_by_link"] = refused(ErrorCase.LINK_INVALID)
    assert door.request("GET", f"{BASE}/screenshot/{VM}.png", key="").status_code == 403
    assert door.stub.noted == []


def test_a_name_and_an_address_are_no_way_to_say_more(door: DoorClient) -> None:
    """A trusted proxy may give any text as its client's address."""
    door.client_host = "203.0.113.9\nforged"
    door.request("POST", CREATE, key="reader", json=identified(name="a"))
    door.client_host = "2001:DB8::1"
    door.request("POST", CREATE, key="reader", json=identified(name="a"))
    assert [noted.address for noted in door.stub.noted] == ["", "2001:db8::1"]


def test_every_call_that_changes_something_has_its_name_in_the_log(door: DoorClient) -> None:
    """And is noted under it, when a reader attempts it."""
    paths = {path for path, methods in door.app.openapi()["paths"].items() if "post" in methods}
    posts = sorted(paths - {"/v1/stillframe/session/open", "/v1/stillframe/session/end"})  # anybody's, and any key's
    for path in posts:
        must_fail(as_envelope(door.request("POST", path, key="reader", json={})), ErrorCase.NOT_ALLOWED)
    names = [noted.call for noted in door.stub.noted]
    assert len(names) == len(posts)
    assert len(set(names)) == len(names)
    assert all(names)


def test_one_that_does_not_declare_its_name_cannot_be_served() -> None:
    router = APIRouter(route_class=StrictRoute)

    @router.post("/v1/nameless")
    @needs(Need.ACT)
    async def nameless() -> None: ...

    with pytest.raises(LookupError, match="nameless does not declare its name"):
        logged_calls([router])
