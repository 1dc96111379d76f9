"""The nine calls at the door: what the use cases are asked, and what is answered."""

from __future__ import annotations

import json
import unicodedata
from dataclasses import asdict, replace
from typing import Any

import pytest

from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.snapshot import CaptureMode, MemoryStatus
from stillframe.operations.requests import DiskRef, SnapshotPage, VmRef
from support.http_door import (
    ADMIN,
    CALLER,
    CLUSTER,
    DISK_SNAPSHOT,
    ENVELOPE,
    MEMORY,
    PNG,
    SIGNER,
    SNAPSHOT,
    TENANT,
    VM,
    VOLUME,
    DoorClient,
    a_memory,
    a_snapshot,
    an_info,
    identified,
    must_fail,
    refused,
)

BASE = "/v1/compute/vsd/snapshot"
REF = VmRef(CLUSTER, TENANT, VM)
WHERE = {"cluster_uuid": CLUSTER, "tenant": TENANT, "compute_uuid": VM}


@pytest.fixture
def door() -> DoorClient:
    return DoorClient(listen="127.0.0.1:8080")


def test_list_asks_for_everything_by_default(door: DoorClient) -> None:
    door.get(f"{BASE}/list", **WHERE)
    assert door.stub.asked == [("list_snapshots", REF, "", 0, 0)]


@pytest.mark.parametrize(
    ("params", "page"),
    [
        ({"page_number": "2", "page_size": "5"}, (2, 5)),
        ({"page_num": "3", "page_size": "5"}, (3, 5)),
        ({"page_num": "3", "page_number": "0", "page_size": "5"}, (0, 5)),
        ({"page_number": "1", "page_size": "-1"}, (1, -1)),
        ({"page_number": str(1 << 53), "page_size": str(1 << 52)}, (2, 1 << 52)),
    ],
)
def test_paging(door: DoorClient, params: dict[str, str], page: tuple[int, int]) -> None:
    door.get(f"{BASE}/list", **WHERE, **params)
    assert door.stub.asked == [("list_snapshots", REF, "", *page)]


@pytest.mark.parametrize(
    "params",
    [
        {"page_number": "-1"},
        {"page_num": "-1"},
        {"page_number": "one"},
        {"page_number": ""},
        {"page_number": "1.0"},
        {"page_number": "１"},
        {"page_size": "0x10"},
        {"page_size": str((1 << 53) + 1)},
        {"page_size": "9" * 5000},
        {"page_number": str((1 << 53) + 1)},
        {"compute_uuid": "not-a-uuid"},
        {"compute_uuid": VM.replace("-", "")},
        {"compute_uuid": VM + "\n"},
        {"cluster_uuid": "elsewhere"},
        {"tenant": "a\0b"},
        {"filter_name": "a\0b"},
    ],
)
def test_malformed_parameters_are_named(door: DoorClient, params: dict[str, str]) -> None:
    desc = must_fail(door.get(f"{BASE}/list", **{**WHERE, **params}), ErrorCase.PARAMETER_MALFORMED)
    assert desc.startswith(f"{next(iter(params))}: expected ")
    assert door.stub.asked == []


@pytest.mark.parametrize("call", ["list", "get", "tree", "head"])
@pytest.mark.parametrize("name", ["cluster_uuid", "compute_uuid"])
def test_missing_parameters_are_named(door: DoorClient, call: str, name: str) -> None:
    params = {key: value for key, value in {**WHERE, "name": "origin"}.items() if key != name}
    assert must_fail(door.get(f"{BASE}/{call}", **params), ErrorCase.PARAMETER_MISSING).startswith(name)


def test_empty_is_missing_where_it_says_nothing(door: DoorClient) -> None:
    must_fail(door.get(f"{BASE}/head", **{**WHERE, "compute_uuid": ""}), ErrorCase.PARAMETER_MISSING)
    must_fail(door.get(f"{BASE}/get", **WHERE, name=""), ErrorCase.PARAMETER_MISSING)
    must_fail(door.get(f"{BASE}/get", **WHERE), ErrorCase.PARAMETER_MISSING)
    assert door.get(f"{BASE}/head", cluster_uuid="", tenant="", compute_uuid=VM)["scode"] == 0


def test_repeated_parameters_are_refused(door: DoorClient) -> None:
    response = door.request("GET", f"{BASE}/head?cluster_uuid=&compute_uuid={VM}&compute_uuid={VM}")
    assert "compute_uuid" in must_fail(response.json(), ErrorCase.PARAMETER_MALFORMED)


def test_uuids_and_names_come_in_one_form(door: DoorClient) -> None:
    decomposed = unicodedata.normalize("NFD", "é版本")
    upper = {"cluster_uuid": CLUSTER.upper(), "tenant": TENANT.upper(), "compute_uuid": VM.upper()}
    door.get(f"{BASE}/get", **upper, name=decomposed)
    door.post(f"{BASE}/delete", {**upper, "name": decomposed})
    door.get(f"{BASE}/list", **upper, filter_name=decomposed)
    assert door.stub.asked == [
        ("get_snapshot", REF, "é版本"),
        ("delete", REF, "é版本", CALLER),
        ("list_snapshots", REF, "é版本", 0, 0),
    ]


def test_create_takes_the_name_as_given(door: DoorClient) -> None:
    door.post(f"{BASE}/create", identified(name="", vm_type="GDT", domain_memory=True, description="写"))
    door.post(f"{BASE}/create", identified(name="e\u0301", description=None, domain_memory=None, vm_type="other"))
    assert door.stub.asked == [
        ("create", REF, "", "写", True, replace(CALLER, mark="GDT")),
        ("create", REF, "e\u0301", "", False, CALLER),
    ]


def test_modify_without_a_description_clears_it(door: DoorClient) -> None:
    assert door.post(f"{BASE}/modify", identified(name="a"))["data"] == {}
    assert door.stub.asked == [("modify", REF, "a", "", CALLER)]


@pytest.mark.parametrize("call", ["create", "modify", "rollback", "delete"])
@pytest.mark.parametrize("change", [{"name": None}, {"compute_uuid": None}, {"compute_uuid": ""}])
def test_null_is_missing(door: DoorClient, call: str, change: dict[str, Any]) -> None:
    desc = must_fail(door.post(f"{BASE}/{call}", identified(**{"name": "a", **change})), ErrorCase.PARAMETER_MISSING)
    assert desc.startswith(next(iter(change)))
    assert door.stub.asked == []


@pytest.mark.parametrize("call", ["modify", "rollback", "delete"])
def test_an_empty_name_is_missing(door: DoorClient, call: str) -> None:
    must_fail(door.post(f"{BASE}/{call}", identified(name="")), ErrorCase.PARAMETER_MISSING)


@pytest.mark.parametrize(
    ("change", "desc"),
    [
        ({"domain_memory": "true"}, "domain_memory: expected true or false"),
        ({"domain_memory": 1}, "domain_memory: expected true or false"),
        ({"multiple": "no"}, "multiple: expected true or false"),
        ({"name": 7}, "name: expected a string"),
        ({"description": ["x"]}, "description: expected a string"),
        ({"tenant": {}}, "tenant: expected a string"),
        ({"compute_uuid": "zz"}, "compute_uuid: expected a uuid of the form 8-4-4-4-12 hexadecimal digits"),
    ],
)
def test_wrong_types_are_named(door: DoorClient, change: dict[str, Any], desc: str) -> None:
    envelope = door.post(f"{BASE}/create", identified(**{"name": "a", **change}))
    assert must_fail(envelope, ErrorCase.PARAMETER_MALFORMED) == desc
    assert door.stub.asked == []


def test_unknown_fields_are_ignored(door: DoorClient) -> None:
    assert door.post(f"{BASE}/delete", identified(name="a", extra={"deep": [1]}))["scode"] == 0


def test_a_plain_snapshot(door: DoorClient) -> None:
    data = door.get(f"{BASE}/get", **WHERE, name="origin")["data"]
    assert data["attr"] is None
    assert data["vm_detail"] is None
    assert (data["screenshot_url"], data["domain_remote_url"]) == ("", "")
    assert "screenshot_url_ssl" not in data


def test_a_snapshot_with_everything(door: DoorClient) -> None:
    detail = asdict(an_info())
    door.stub.outcomes["rollback"] = a_snapshot(
        vm_detail=json.dumps(detail), memory=a_memory(), screenshot_checksum="blake3:1"
    )
    data = door.post(f"{BASE}/rollback", identified(name="origin", domain_memory=True))["data"]
    assert data["vm_detail"] == detail
    assert (
        data["screenshot_url"]
        == f"http://127.0.0.1:8080{BASE}/screenshot/{SNAPSHOT}.png?{SIGNER.query('screenshot', SNAPSHOT)}"
    )
    assert data["domain_remote_url"] == f"file:///state/memory/{MEMORY}"
    assert data["attr"] == {
        "status": "available",
        "progress": "100",
        "memory_uuid": MEMORY,
        "memory_bytes": "4096",
        "capture_mode": "background-snapshot",
        "checksum": "blake3:abc",
    }
    assert door.stub.asked == [("rollback", REF, "origin", True, CALLER)]


def test_memory_that_is_not_there_has_no_address(door: DoorClient) -> None:
    failed = a_memory(status=MemoryStatus.FAILED, mode=CaptureMode.LIVE, reason="disk full", checksum="")
    saving = a_memory(status=MemoryStatus.SAVING, progress=7, checksum="")
    snapshots = (a_snapshot(memory=failed), a_snapshot(memory=saving))
    door.stub.outcomes["list_snapshots"] = SnapshotPage(snapshots, 9)
    data = door.get(f"{BASE}/list", **WHERE)["data"]
    first, second = data["list"]
    assert data["total_count"] == 9
    assert (first["domain_remote_url"], first["attr"]["status"], first["attr"]["reason"]) == ("", "failed", "disk full")
    assert second["domain_remote_url"] == f"file:///state/memory/{MEMORY}"
    assert (second["attr"]["progress"], second["screenshot_url_ssl"]) == ("7", "")
    assert "reason" not in second["attr"]


def test_a_vm_without_snapshots_has_no_head(door: DoorClient) -> None:
    door.stub.outcomes["head_snapshot"] = None
    assert door.get(f"{BASE}/head", **WHERE)["data"] == {}


ENTRY = {"VolumeUuid": VOLUME.upper(), "SnapshotUuid": DISK_SNAPSHOT, "DiskDrive": "sda"}
BATCH = "/v1/compute/volume/snapshot/rollback"


def test_a_batch_says_each_outcome_about_the_entry_as_requested(door: DoorClient) -> None:
    no = Refused(ErrorCase.VOLUME_UNKNOWN, "no such volume")
    door.stub.outcomes["rollback_volumes"] = lambda ref, entries, caller: [entries[0], no]
    bad = {"VolumeUuid": "nonsense", "SnapshotUuid": "", "DiskDrive": "vdz"}
    envelope = door.post(BATCH, identified(disk_snapshot_list=[ENTRY, bad]))
    data = envelope["data"]
    assert (envelope["scode"], data["success"], data["fail"]) == (0, 1, 1)
    assert [list(result) for result in data["results"]] == [ENVELOPE, ENVELOPE]
    assert [result["data"] for result in data["results"]] == [ENTRY, bad]
    assert [result["scode"] for result in data["results"]] == [0, ErrorCase.VOLUME_UNKNOWN.code]
    assert data["results"][0]["stack"] is None
    assert data["results"][1]["stack"]
    entries = [DiskRef(VOLUME, DISK_SNAPSHOT, "sda"), DiskRef("nonsense", "", "vdz")]
    assert door.stub.asked == [("rollback_volumes", REF, entries, CALLER)]


@pytest.mark.parametrize(
    ("entries", "case"),
    [
        (None, ErrorCase.PARAMETER_MISSING),
        ([], ErrorCase.PARAMETER_MISSING),
        ([{"VolumeUuid": VOLUME, "SnapshotUuid": DISK_SNAPSHOT}], ErrorCase.PARAMETER_MISSING),
        ("sda", ErrorCase.PARAMETER_MALFORMED),
        ([ENTRY, 7], ErrorCase.PARAMETER_MALFORMED),
        ([ENTRY, None], ErrorCase.PARAMETER_MALFORMED),
        ([{**ENTRY, "DiskDrive": 1}], ErrorCase.PARAMETER_MALFORMED),
    ],
)
def test_a_malformed_batch_is_refused_as_a_whole(door: DoorClient, entries: Any, case: ErrorCase) -> None:
    desc = must_fail(door.post(BATCH, identified(disk_snapshot_list=entries)), case)
    assert desc.startswith("disk_snapshot_list")
    assert door.stub.asked == []


def test_a_screenshot_is_a_picture_to_keep(door: DoorClient) -> None:
    response = door.request("GET", f"{BASE}/screenshot/{SNAPSHOT.upper()}.png")
    assert (response.status_code, response.content) == (200, PNG)
    assert response.headers["content-type"] == "image/png"
    assert "immutable" in response.headers["cache-control"]
    assert door.stub.asked == [("screenshot", SNAPSHOT)]
    assert door.stub.viewers == [ADMIN]


def test_a_link_stands_for_a_key_and_is_kept_as_long_as_it_is_good(door: DoorClient) -> None:
    response = door.request("GET", f"{BASE}/screenshot/{SNAPSHOT}.png?expires=17&signature=ab", key="")
    assert (response.status_code, response.content) == (200, PNG)
    assert "max-age=60," in response.headers["cache-control"]
    assert door.stub.asked == [("screenshot_by_link", SNAPSHOT, "17", "ab")]


def test_a_link_that_is_not_good_is_a_403(door: DoorClient) -> None:
    door.stub.outcomes["screenshot_by_link"] = refused(ErrorCase.LINK_INVALID)
    response = door.request("GET", f"{BASE}/screenshot/{SNAPSHOT}.png", key="")
    assert response.status_code == 403
    must_fail(response.json(), ErrorCase.LINK_INVALID)


def test_a_wrong_key_is_not_saved_by_a_good_link(door: DoorClient) -> None:
    response = door.request("GET", f"{BASE}/screenshot/{SNAPSHOT}.png?expires=17&signature=ab", key="wrong")
    must_fail(response.json(), ErrorCase.NOT_AUTHENTICATED)
    assert door.stub.asked == []


def test_links_by_tls_are_named_where_there_is_tls() -> None:
    door = DoorClient(public_url="https://vms.example/")
    door.stub.outcomes["list_snapshots"] = SnapshotPage((a_snapshot(screenshot_checksum="blake3:1"),), 1)
    (row,) = door.get(f"{BASE}/list", cluster_uuid="", compute_uuid=VM)["data"]["list"]
    assert row["screenshot_url_ssl"] == row["screenshot_url"]
    assert row["screenshot_url_ssl"].startswith("https://vms.example/v1/")


@pytest.mark.parametrize("name", [SNAPSHOT, "nonsense", "%2e%2e"])
def test_a_screenshot_that_is_not_there_is_a_404_with_an_envelope(door: DoorClient, name: str) -> None:
    door.stub.outcomes["screenshot"] = refused(ErrorCase.SNAPSHOT_UNKNOWN)
    response = door.request("GET", f"{BASE}/screenshot/{name}.png")
    assert response.status_code == 404
    assert response.headers["cache-control"] == "no-store"
    must_fail(response.json(), ErrorCase.SNAPSHOT_UNKNOWN)


def test_what_created_a_snapshot_is_in_attr(door: DoorClient) -> None:
    door.stub.outcomes["get_snapshot"] = a_snapshot(operation_uuid="o-1")
    assert door.get(f"{BASE}/get", **WHERE, name="origin")["data"]["attr"] == {"operation_uuid": "o-1"}
    door.stub.outcomes["get_snapshot"] = a_snapshot(operation_uuid="o-1", memory=a_memory())
    attributes = door.get(f"{BASE}/get", **WHERE, name="origin")["data"]["attr"]
    assert (attributes["operation_uuid"], attributes["status"]) == ("o-1", "available")


@pytest.mark.parametrize("call", ["delete", "rollback", "modify"])
@pytest.mark.parametrize("name", ["x" * 257, "e\u0301" * 200, "x" * 100_000])
def test_a_name_that_nothing_can_have_is_refused_before_it_is_noted_anywhere(
    door: DoorClient, call: str, name: str
) -> None:
    desc = must_fail(door.post(f"{BASE}/{call}", identified(name=name)), ErrorCase.PARAMETER_MALFORMED)
    assert desc == "name: expected at most 256 characters"
    assert door.stub.asked == []


def test_a_batch_and_its_words_are_bounded(door: DoorClient) -> None:
    long_batch = identified(disk_snapshot_list=[ENTRY] * 257)
    assert "at most 256 entries" in must_fail(door.post(BATCH, long_batch), ErrorCase.PARAMETER_MALFORMED)
    for field in ("VolumeUuid", "SnapshotUuid", "DiskDrive"):
        long_word = identified(disk_snapshot_list=[{**ENTRY, field: "x" * 257}])
        assert "at most 256 characters" in must_fail(door.post(BATCH, long_word), ErrorCase.PARAMETER_MALFORMED)
    assert door.stub.asked == []
