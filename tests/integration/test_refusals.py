"""Bad input over HTTP: a clear envelope, never a 5xx, and no snapshot, tree or file changed by it."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from integration.conftest import Shop, Take
from stillframe.domain.errors import ErrorCase
from support.ledger import unchanged
from support.offline import write
from support.refusal import must_refuse, must_refuse_post
from support.service import SNAPSHOT, CallFailedError, Service, Vm

BATCH = "/v1/compute/volume/snapshot/rollback"
NOBODY = "11111111-2222-4333-8444-555555555555"
POSTS = ("create", "modify", "rollback", "delete")


@pytest.fixture(scope="module")
def settled(shop: Shop) -> Vm:
    """A shut-off VM with the tree a - (b | c - head) that no refused call may change."""
    shop.service.ensure_started()
    vm = shop.take("two")
    write(vm.disk_path(), 1)
    vm.create("a")
    vm.create("b")
    vm.rollback("a")
    vm.create("c")
    return vm


@pytest.fixture
def vm(settled: Vm, service: Service) -> Iterator[Vm]:
    with unchanged(settled):
        yield settled


@pytest.mark.parametrize("call", ["list", "get", "tree", "head", *POSTS])
def test_an_unknown_vm(vm: Vm, call: str) -> None:
    where = {"cluster_uuid": "", "compute_uuid": NOBODY, "name": "a"}
    way: dict[str, Any] = {"json": where} if call in POSTS else {"params": where}
    desc = must_refuse(
        vm.service, ErrorCase.VM_UNKNOWN, "POST" if call in POSTS else "GET", f"{SNAPSHOT}/{call}", **way
    )
    assert NOBODY in desc


@pytest.mark.parametrize("bad", ["x", "b6b0e5b9dacd432b9b83c3e89799009d", "../../etc/passwd", "' OR 1=1 --", "é" * 36])
def test_malformed_uuids(vm: Vm, bad: str) -> None:
    service = vm.service
    for where in ({"cluster_uuid": "", "compute_uuid": bad}, {"cluster_uuid": bad, "compute_uuid": vm.uuid}):
        must_refuse(service, ErrorCase.PARAMETER_MALFORMED, "GET", f"{SNAPSHOT}/tree", params=where)
        must_refuse(service, ErrorCase.PARAMETER_MALFORMED, "POST", f"{SNAPSHOT}/delete", json={**where, "name": "b"})


def test_an_unknown_cluster_and_a_wrong_tenant(vm: Vm) -> None:
    for call in ("list", "tree", "head"):
        where = {"cluster_uuid": NOBODY, "compute_uuid": vm.uuid}
        must_refuse(vm.service, ErrorCase.CLUSTER_UNKNOWN, "GET", f"{SNAPSHOT}/{call}", params=where)
        where = {"cluster_uuid": "", "compute_uuid": vm.uuid, "tenant": NOBODY}
        must_refuse(vm.service, ErrorCase.TENANT_WRONG, "GET", f"{SNAPSHOT}/{call}", params=where)
    for call in POSTS:
        must_refuse_post(vm, ErrorCase.CLUSTER_UNKNOWN, f"{SNAPSHOT}/{call}", name="b", cluster_uuid=NOBODY)
        must_refuse_post(vm, ErrorCase.TENANT_WRONG, f"{SNAPSHOT}/{call}", name="b", tenant=NOBODY)
    assert vm.list(tenant="default")["total_count"] == 3


@pytest.mark.parametrize("call", POSTS)
def test_missing_fields_and_wrong_types(vm: Vm, call: str) -> None:
    path = f"{SNAPSHOT}/{call}"
    must_refuse(vm.service, ErrorCase.PARAMETER_MISSING, "POST", path, json={"name": "b"})
    must_refuse(vm.service, ErrorCase.PARAMETER_MISSING, "POST", path, json={"compute_uuid": vm.uuid})
    must_refuse(vm.service, ErrorCase.PARAMETER_MISSING, "POST", path, content=b"")
    for wrong in (7, ["b"], {"b": 1}, True):
        assert "name" in must_refuse_post(vm, ErrorCase.PARAMETER_MALFORMED, path, name=wrong)
    if call in ("create", "rollback"):
        must_refuse_post(vm, ErrorCase.PARAMETER_MALFORMED, path, name="b", domain_memory="true")
    must_refuse(vm.service, ErrorCase.PARAMETER_MALFORMED, "POST", path, json=[1, 2])


@pytest.mark.parametrize(
    "name", ["", "head", "x" * 129, "a/b", "tab\there", "new\nline", "nul\0", "del\x7f", "\u2028", "/", "..//"]
)
def test_illegal_names(vm: Vm, name: str) -> None:
    must_refuse_post(vm, ErrorCase.NAME_ILLEGAL, f"{SNAPSHOT}/create", name=name)


@pytest.mark.parametrize(
    "body", [b"{", b"nope", b"\xff\xfe", b'{"a": NaN}', b"[" * 100_000, b'{"a":' * 5000, b'"\\ud800"']
)
def test_what_is_no_json(vm: Vm, body: bytes) -> None:
    headers = {"Content-Type": "application/json"}
    for path in (f"{SNAPSHOT}/create", BATCH):
        must_refuse(vm.service, ErrorCase.PARAMETER_MALFORMED, "POST", path, content=body, headers=headers)


def test_deep_json_in_a_field_that_nobody_reads(vm: Vm) -> None:
    """Deep, but short of what the interpreter reads: whatever it is told, it is an envelope and changes nothing."""
    body = f'{{"compute_uuid":"{vm.uuid}","name":"a","x":{"[" * 900}{"]" * 900}}}'
    answer = vm.service.raw(
        "POST", f"{SNAPSHOT}/create", content=body.encode(), headers={"Content-Type": "application/json"}
    )
    assert answer["scode"] in (ErrorCase.NAME_TAKEN.code, ErrorCase.PARAMETER_MALFORMED.code)


def test_a_body_of_ten_megabytes(vm: Vm) -> None:
    must_refuse_post(vm, ErrorCase.BODY_TOO_LARGE, f"{SNAPSHOT}/create", name="big", description="x" * (10 << 20))
    must_refuse_post(vm, ErrorCase.PARAMETER_MALFORMED, f"{SNAPSHOT}/create", name="big", description="x" * 5000)


def test_negative_and_senseless_pages(vm: Vm) -> None:
    where = {"cluster_uuid": "", "compute_uuid": vm.uuid}
    for page in ({"page_number": "-1"}, {"page_num": "-7"}, {"page_number": "one"}, {"page_size": "1.5"}):
        must_refuse(vm.service, ErrorCase.PARAMETER_MALFORMED, "GET", f"{SNAPSHOT}/list", params={**where, **page})


def test_unknown_calls_and_methods(vm: Vm) -> None:
    for method, path in (
        ("GET", "/v1/nothing"),
        ("POST", "/v1/compute/vsd/snapshot/explode"),
        ("DELETE", f"{SNAPSHOT}/delete"),
        ("GET", f"{SNAPSHOT}/create"),
    ):
        must_refuse(vm.service, ErrorCase.CALL_UNKNOWN, method, path)


def test_names_that_are_taken_in_any_spelling(vm: Vm) -> None:
    must_refuse_post(vm, ErrorCase.NAME_TAKEN, f"{SNAPSHOT}/create", name="b")


def test_snapshots_that_this_vm_does_not_have(settled: Vm, take: Take) -> None:
    vm, other = settled, take("one")
    theirs = other.create("theirs")["disk_snapshot_list"][0]
    with unchanged(vm, other):
        for call in ("modify", "rollback", "delete"):
            desc = must_refuse_post(vm, ErrorCase.SNAPSHOT_UNKNOWN, f"{SNAPSHOT}/{call}", name="theirs")
            assert "theirs" in desc
        where = {"cluster_uuid": "", "compute_uuid": vm.uuid, "name": "theirs"}
        must_refuse(vm.service, ErrorCase.SNAPSHOT_UNKNOWN, "GET", f"{SNAPSHOT}/get", params=where)
        batch = vm.post(BATCH, disk_snapshot_list=[theirs])
        assert (batch["success"], batch["fail"]) == (0, 1)
        assert batch["results"][0]["scode"] == ErrorCase.VOLUME_UNKNOWN.code


def test_batches_that_are_no_batch(vm: Vm) -> None:
    entry = vm.get("a")["disk_snapshot_list"][0]
    for wrong in ([], [{}], [{**entry, "DiskDrive": None}]):
        must_refuse_post(vm, ErrorCase.PARAMETER_MISSING, BATCH, disk_snapshot_list=wrong)
    for wrong in (entry, "vda", [7], [{**entry, "DiskDrive": 1}]):
        must_refuse_post(vm, ErrorCase.PARAMETER_MALFORMED, BATCH, disk_snapshot_list=wrong)
    for wrong in ({**entry, "DiskDrive": "vdz"}, {**entry, "VolumeUuid": "x"}, {**entry, "SnapshotUuid": ""}):
        (result,) = vm.post(BATCH, disk_snapshot_list=[wrong])["results"]
        assert result["scode"] == ErrorCase.VOLUME_UNKNOWN.code
        assert result["data"] == wrong


def test_memory_of_a_vm_that_is_off(vm: Vm) -> None:
    must_refuse_post(vm, ErrorCase.VM_NOT_RUNNING, f"{SNAPSHOT}/create", name="with memory", domain_memory=True)
    must_refuse_post(vm, ErrorCase.SNAPSHOT_WITHOUT_MEMORY, f"{SNAPSHOT}/rollback", name="a", domain_memory=True)
    must_refuse_post(vm, ErrorCase.VM_NOT_RUNNING, "/v1/compute/shutdown")
    must_refuse_post(vm, ErrorCase.VM_NOT_RUNNING, "/v1/compute/shutoff")


def test_names_of_every_kind_work_in_urls_too(take: Take) -> None:
    vm = take("one")
    names = ["升级前", "快照 1（重要）", "🚀🇨🇳👩‍👩‍👧", "a&b=c?d#e%20+", "\\ \"'`$()", " ", "x" * 128, "HEAD", "..", "é"]
    for name in names:
        vm.create(name, description=name)
    for name in names:
        assert vm.get(name)["name"] == name
        assert vm.get(name)["description"] == name
        raw = vm.service.raw(
            "GET", str(httpx.URL(f"{SNAPSHOT}/get", params={"cluster_uuid": "", "compute_uuid": vm.uuid, "name": name}))
        )
        assert raw["data"]["name"] == name
    assert set(vm.tree()["Parents"]) == {*names, "head"}
    assert [row["name"] for row in vm.list(filter_name="🚀")["list"]] == [names[2]]
    for name in names:
        vm.modify(name, description="neu")
    for name in names[::2]:
        vm.delete(name)
    assert set(vm.names()) == set(names[1::2])


def test_a_name_is_the_same_in_every_normal_form(take: Take) -> None:
    vm = take("one")
    composed, decomposed = "Müller-한국", "Mu\u0308ller-\u1112\u1161\u11ab\u1100\u116e\u11a8"
    vm.create(decomposed)
    assert vm.names() == [composed]
    for spelling in (composed, decomposed):
        assert vm.get(spelling)["name"] == composed
        must_refuse_post(vm, ErrorCase.NAME_TAKEN, f"{SNAPSHOT}/create", name=spelling)
    vm.modify(decomposed, description="x")
    assert vm.rollback(decomposed)["description"] == "x"
    vm.delete(decomposed)
    assert vm.names() == []


def test_of_racing_creates_of_one_name_exactly_one_wins(take: Take) -> None:
    vm = take("one")
    for number in range(5):
        name = f"race {number}"
        outcomes: list[int] = []
        start = threading.Barrier(4)

        def create(name: str = name, start: threading.Barrier = start, outcomes: list[int] = outcomes) -> None:
            start.wait()
            try:
                vm.create(name)
                outcomes.append(0)
            except CallFailedError as refusal:
                outcomes.append(refusal.scode)

        racers = [threading.Thread(target=create) for _ in range(4)]
        for racer in racers:
            racer.start()
        for racer in racers:
            racer.join()
        assert outcomes.count(0) == 1
        assert set(outcomes) <= {0, ErrorCase.NAME_TAKEN.code, ErrorCase.VM_BUSY.code}
        assert vm.list(filter_name=name)["total_count"] == 1


def test_two_vms_are_worked_on_at_the_same_time(take: Take) -> None:
    """The slot is per VM: no create of one is refused because of the other's."""
    vms = [take("one"), take("one")]
    failures: list[BaseException] = []

    def work(vm: Vm) -> None:
        try:
            for number in range(5):
                vm.create(f"s{number}")
            vm.rollback("s1")
            vm.delete("s3")
        except BaseException as error:  # noqa: BLE001 -- told by the test's own thread
            failures.append(error)

    workers = [threading.Thread(target=work, args=(vm,)) for vm in vms]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert failures == []
    assert all(len(vm.names()) == 4 for vm in vms)


def test_a_description_may_be_any_text(take: Take) -> None:
    vm = take("one")
    text = "第一行\nzweite Zeile\t<b>&amp;</b> 🚀 \"'\\ --"
    vm.create("a", description=text)
    assert vm.get("a")["description"] == text
    vm.modify("a", description="x" * 4096)
    with unchanged(vm):
        must_refuse_post(vm, ErrorCase.PARAMETER_MALFORMED, f"{SNAPSHOT}/modify", name="a", description="x" * 4097)
        must_refuse_post(vm, ErrorCase.SNAPSHOT_UNKNOWN, f"{SNAPSHOT}/modify", name=str(uuid.uuid4()))
    vm.modify("a")
    assert vm.get("a")["description"] == ""
