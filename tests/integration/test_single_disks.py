"""volume/snapshot/rollback: single disks of a shut-off VM, each entry with its own result."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from support.ledger import checksums, head_checksums, unchanged
from support.offline import write
from support.refusal import must_refuse_post
from support.service import Vm

BATCH = "/v1/compute/volume/snapshot/rollback"


def three_disks(take: Take) -> Vm:
    """Snapshots a and b with different data on each disk, and data since."""
    vm = take("three")
    for step, name in enumerate(("a", "b", ""), start=1):
        for number, target in enumerate(("vda", "vdb", "vdc")):
            write(vm.disk_path(target), 16 * step + number, f"{step}M", "200k")
        if name:
            vm.create(name)
    return vm


def entries_of(vm: Vm, name: str) -> dict[str, dict[str, str]]:
    return {entry["DiskDrive"]: entry for entry in vm.get(name)["disk_snapshot_list"]}


def roll_back(vm: Vm, *entries: dict[str, str]) -> list[int]:
    """The scodes of the entries, after checking what holds for every answer."""
    data = vm.post(BATCH, disk_snapshot_list=list(entries))
    scodes = [result["scode"] for result in data["results"]]
    assert data["success"] == scodes.count(0)
    assert data["fail"] == len(scodes) - scodes.count(0)
    assert [result["data"] for result in data["results"]] == list(entries)
    for result in data["results"]:
        assert (result["stack"] is None) == (result["scode"] == 0)
    return scodes


def test_a_batch_with_bad_entries_does_the_good_ones(take: Take) -> None:
    vm = three_disks(take)
    other = three_disks(take)
    a, b, foreign = entries_of(vm, "a"), entries_of(vm, "b"), entries_of(other, "a")
    exact, heads, tree, detail = checksums(vm), head_checksums(vm), vm.tree(), vm.inspect()
    assert heads["vda"] != exact["a"]["vda"]
    unknown, others = ErrorCase.VOLUME_UNKNOWN.code, head_checksums(other)
    scodes = roll_back(
        vm,
        {**a["vda"], "VolumeUuid": str(uuid.uuid4())},  # a volume that does not exist
        a["vda"],
        {**a["vdb"], "DiskDrive": "vda"},  # a disk that the volume is not
        foreign["vdc"],  # another VM's
        {**a["vdc"], "SnapshotUuid": a["vdb"]["SnapshotUuid"]},  # a snapshot of another volume
    )
    assert scodes == [unknown, 0, unknown, unknown, unknown]
    assert head_checksums(vm) == {**heads, "vda": exact["a"]["vda"]}
    assert head_checksums(other) == others
    assert vm.tree() == tree
    assert vm.head()["name"] == "b"
    assert checksums(vm) == exact
    assert configuration(vm.inspect()) == configuration(detail)

    assert roll_back(vm, b["vdc"], b["vda"]) == [0, 0]
    assert head_checksums(vm) == {"vda": exact["b"]["vda"], "vdb": heads["vdb"], "vdc": exact["b"]["vdc"]}
    assert checksums(vm) == exact


def configuration(detail: dict[str, Any]) -> dict[str, Any]:
    """All but the names of the files that the disks are on."""
    disks = [
        {**disk, "disk_vsd_source": {**disk["disk_vsd_source"], "pool_name": "", "volume_name": ""}}
        for disk in detail["disks"]
    ]
    return {**detail, "disks": disks}


def test_a_volume_that_is_named_again_fails_there_and_only_there(take: Take) -> None:
    vm = three_disks(take)
    a, b = entries_of(vm, "a"), entries_of(vm, "b")
    exact, heads = checksums(vm), head_checksums(vm)
    twice = ErrorCase.VOLUME_REPEATED.code
    assert roll_back(vm, a["vda"], a["vdb"], b["vda"]) == [0, 0, twice]
    assert head_checksums(vm) == {**heads, "vda": exact["a"]["vda"], "vdb": exact["a"]["vdb"]}
    with unchanged(vm):
        assert roll_back(vm, {**a["vda"], "SnapshotUuid": "no uuid"}) == [ErrorCase.VOLUME_UNKNOWN.code]
        assert roll_back(vm, {**a["vda"], "DiskDrive": "sdz"}) == [ErrorCase.VOLUME_UNKNOWN.code]


def test_what_follows_a_single_disk_rollback_is_bit_exact(take: Take) -> None:
    """The disk's tree differs from the VM's tree now: snapshots and deletes still keep every byte."""
    vm = take("two")
    for step, name in enumerate(("a", "b"), start=1):
        write(vm.disk_path("vda"), step, f"{step}M")
        write(vm.disk_path("vdb"), step + 8, f"{step}M")
        vm.create(name)
    assert roll_back(vm, entries_of(vm, "a")["vda"]) == [0]
    vm.create("c")
    exact = checksums(vm)
    assert exact["c"] == {"vda": exact["a"]["vda"], "vdb": exact["b"]["vdb"]}
    assert vm.tree()["Parents"] == {"a": "", "b": "a", "c": "b", "head": "c"}
    vm.delete("b")
    assert checksums(vm) == {"a": exact["a"], "c": exact["c"]}
    vm.delete("a")
    assert checksums(vm) == {"c": exact["c"]}
    vm.rollback("c")
    assert head_checksums(vm) == exact["c"]


@pytest.mark.guest
def test_a_running_vm_is_refused_and_a_rolled_back_disk_boots(take: Take) -> None:
    vm = take("two", boot=True)
    vm.create("a")
    entries = entries_of(vm, "a")
    vm.await_ticks(20)
    must_refuse_post(vm, ErrorCase.VM_NOT_SHUTOFF, BATCH, disk_snapshot_list=list(entries.values()))
    vm.await_ticks(20)
    vm.shutoff()
    exact = checksums(vm)["a"]
    assert roll_back(vm, entries["vda"]) == [0]
    heads = head_checksums(vm)
    assert heads["vda"] == exact["vda"]
    assert heads["vdb"] != exact["vdb"]
    boot, last = vm.witness().ticks()[-1]
    vm.start()
    vm.await_ticks(20)
    words = vm.witness().boots()[-1].split()[-1].split(",")
    n = {word[:3]: int(word.rpartition(":")[2]) for word in words}
    assert all(word[4:].startswith(boot) for word in words)
    assert n["vda"] < last - 30
    assert n["vdb"] >= last - 1
    assert vm.witness().torn() == []
