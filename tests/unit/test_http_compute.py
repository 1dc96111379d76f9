"""The neighbouring calls and Stillframe's own, at the door."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from stillframe.domain.errors import ErrorCase
from stillframe.operations.requests import GuestSpec, VmQuery, VmRef
from support.http_door import CALLER, CLUSTER, ENVELOPE, TENANT, VM, DoorClient, a_row, an_info, identified, must_fail

OWN = "/v1/stillframe"


@pytest.fixture
def door() -> DoorClient:
    return DoorClient()


def test_the_list_of_vms(door: DoorClient) -> None:
    data = door.get("/v1/compute/list")["data"]
    assert list(data) == ["domains", "total_count", "each_range_list_state"]
    assert data["domains"] == [asdict(a_row())]
    (state,) = data["each_range_list_state"]
    assert (state["cluster_uuid"], state["cluster_name"], state["total_count"]) == (CLUSTER, "stillframe", 1)
    assert list(state["result"]) == ENVELOPE
    assert door.stub.asked == [("list_vms", VmQuery())]


def test_every_filter_arrives(door: DoorClient) -> None:
    door.get(
        "/v1/compute/list", cluster_uuid=CLUSTER.upper(), tenant=TENANT, filter_name="测", filter_uuid="ABC",
        filter_state="running", filter_action="noaction", filter_fuzzy="0", page_num="1", page_size="2",
    )  # fmt: skip
    query = VmQuery(CLUSTER, TENANT, "测", "abc", "running", "noaction", fuzzy=False, page_number=1, page_size=2)
    assert door.stub.asked == [("list_vms", query)]


@pytest.mark.parametrize(
    ("given", "meant"), [("true", True), ("True", True), ("1", True), ("false", False), ("0", False)]
)
def test_fuzzy_is_a_boolean(door: DoorClient, given: str, meant: bool) -> None:
    door.get("/v1/compute/list", filter_fuzzy=given)
    assert door.stub.asked[0][1].fuzzy is meant


@pytest.mark.parametrize(
    "params", [{"filter_fuzzy": "maybe"}, {"filter_fuzzy": ""}, {"filter_state": "asleep"}, {"filter_action": "x"}]
)
def test_unknown_filter_values_are_refused(door: DoorClient, params: dict[str, str]) -> None:
    desc = must_fail(door.get("/v1/compute/list", **params), ErrorCase.PARAMETER_MALFORMED)
    assert desc.startswith(next(iter(params)))


def test_inspect_is_the_whole_configuration(door: DoorClient) -> None:
    data = door.get("/v1/compute/inspect", cluster_uuid="", compute_uuid=VM)["data"]
    assert data == asdict(an_info())
    assert list(data) == list(asdict(an_info()))
    assert door.stub.asked == [("inspect", VmRef("", "", VM))]


@pytest.mark.parametrize("call", ["start", "shutdown", "shutoff"])
def test_power(door: DoorClient, call: str) -> None:
    assert door.post(f"/v1/compute/{call}", identified(vm_type="GCD"))["data"] == {}
    assert door.stub.asked == [(call, VmRef(CLUSTER, TENANT, VM), replace(CALLER, mark="GCD"))]


def test_assign(door: DoorClient) -> None:
    door.post(f"{OWN}/vm/assign", {"compute_uuid": VM, "tenant": TENANT.upper(), "tenant_name": "研发"})
    assert door.stub.asked == [("assign_vm", VmRef("", "", VM), TENANT, "研发", "", CALLER)]


@pytest.mark.parametrize(
    ("change", "case"),
    [
        ({"tenant": ""}, ErrorCase.PARAMETER_MISSING),
        ({"tenant": None}, ErrorCase.PARAMETER_MISSING),
        ({"tenant": "a\x01"}, ErrorCase.PARAMETER_MALFORMED),
        ({"tenant": "a\uffff"}, ErrorCase.PARAMETER_MALFORMED),
        ({"tenant_name": "x" * 257}, ErrorCase.PARAMETER_MALFORMED),
        ({"namespace_uuid": 1}, ErrorCase.PARAMETER_MALFORMED),
    ],
)
def test_assign_takes_only_what_xml_can_hold(door: DoorClient, change: dict[str, Any], case: ErrorCase) -> None:
    envelope = door.post(f"{OWN}/vm/assign", {"compute_uuid": VM, "tenant": "t", **change})
    assert must_fail(envelope, case).startswith(next(iter(change)))
    assert door.stub.asked == []


@pytest.mark.parametrize(
    ("body", "spec"),
    [
        ({"name": "g"}, GuestSpec("g")),
        ({"name": "g", "memory_mib": 64}, GuestSpec("g", memory_mib=64, fill_mib=16)),
        (
            {"name": "a.b_c-1", "memory_mib": 1024, "fill_mib": 976, "disks": 8, "dirty_pages": 0},
            GuestSpec("a.b_c-1", 1024, 976, 8, 0),
        ),
    ],
)
def test_a_guest_is_made(door: DoorClient, body: dict[str, Any], spec: GuestSpec) -> None:
    assert door.post(f"{OWN}/guest/create", body)["data"] == {"uuid": VM}
    assert door.stub.asked == [("create_guest", spec, CALLER)]


@pytest.mark.parametrize(
    "change",
    [
        {"name": "a/b"},
        {"name": "a" * 49},
        {"name": "客"},
        {"name": ".."},
        {"name": "a\n"},
        {"memory_mib": 63},
        {"memory_mib": 65537},
        {"memory_mib": "256"},
        {"memory_mib": 256.5},
        {"fill_mib": -1},
        {"fill_mib": 209},
        {"disks": 0},
        {"disks": 9},
        {"dirty_pages": -1},
    ],
)
def test_a_guest_has_limits(door: DoorClient, change: dict[str, Any]) -> None:
    envelope = door.post(f"{OWN}/guest/create", {"name": "g", **change})
    assert must_fail(envelope, ErrorCase.PARAMETER_MALFORMED).startswith(next(iter(change)))
    assert door.stub.asked == []


def test_a_guest_is_deleted_and_its_console_found(door: DoorClient) -> None:
    assert door.post(f"{OWN}/guest/delete", {"name": "g"})["data"] == {}
    assert door.get(f"{OWN}/guest/console", name="g")["data"] == {"path": "/run/console.log"}
    assert door.stub.asked == [("delete_guest", "g", CALLER), ("guest_console", "g")]
    must_fail(door.post(f"{OWN}/guest/delete", {"name": ""}), ErrorCase.PARAMETER_MISSING)
    must_fail(door.get(f"{OWN}/guest/console", name="../x"), ErrorCase.PARAMETER_MALFORMED)


def test_version(door: DoorClient) -> None:
    data = door.get(f"{OWN}/version")["data"]
    assert data["version"]
    assert (data["cluster_uuid"], data["cluster_name"]) == (CLUSTER, "stillframe")
