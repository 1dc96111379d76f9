"""A merge copies the smaller of two layers: down into the file below it, or up into the one that stands on it."""

from __future__ import annotations

from typing import Any

import pytest

from integration.conftest import Take
from support.damage import layers_of, occupied
from support.ledger import checksums, head_checksums, layer_paths
from support.offline import outweigh, write
from support.service import Vm


def merges(vm: Vm, name: str) -> Any:
    where = {"cluster_uuid": "", "compute_uuid": vm.uuid, "name": name}
    return vm.service.get("/v1/stillframe/snapshot/consequences", **where)["delete"]["merges"]


def files(vm: Vm) -> set[str]:
    return {layer.path for layer in layers_of(vm)}


def three_layers(vm: Vm, doomed_mib: int, tip_mib: int) -> None:
    """Below the head are base, doomed and tip, and so much was written for each."""
    for name, pattern, length in (("base", 1, 1), ("doomed", 2, doomed_mib), ("tip", 3, tip_mib)):
        write(vm.disk_path(), pattern, offset=f"{pattern}M", length=f"{length}M")
        vm.create(name)


@pytest.mark.parametrize("up", [True, False], ids=["up", "down"])
def test_the_smaller_layer_is_copied(take: Take, up: bool) -> None:
    vm = take("one")
    three_layers(vm, *(2, 6) if up else (6, 2))
    doomed, tip = (layer_paths(vm)[name]["vda"][0] for name in ("doomed", "tip"))
    smaller, larger = (doomed, tip) if up else (tip, doomed)
    exact, head, before = checksums(vm), head_checksums(vm), files(vm)
    assert merges(vm, "doomed") == [{"disk": "vda", "bytes": occupied(smaller)}]
    vm.delete("doomed")
    assert files(vm) == before - {smaller}
    assert layer_paths(vm)["tip"]["vda"][0] == larger
    assert checksums(vm) == {name: exact[name] for name in ("base", "tip")}
    assert head_checksums(vm) == head
    findings = vm.service.get("/v1/stillframe/doctor")["findings"]
    assert [finding for finding in findings if vm.uuid in str(finding)] == []


def test_what_stands_on_the_users_own_file_goes_down_into_it(take: Take) -> None:
    vm = take("one")
    own = vm.disk_path()
    vm.create("only")
    write(vm.disk_path(), 5, length="6M")
    heads = head_checksums(vm)
    vm.delete("only")
    assert files(vm) == {own} == {vm.disk_path()}
    vm.create("again")
    assert checksums(vm)["again"] == heads


@pytest.mark.guest
@pytest.mark.parametrize("kind", ["two", "raw"])
def test_a_running_guest_is_written_under_and_does_not_notice(take: Take, kind: str) -> None:
    vm = take(kind)
    vm.create("base")
    for target in ("vda", "vdb"):
        write(vm.disk_path(target), 7, offset="8M", length="6M")
        write(vm.disk_path(target), 0, offset="20M", length="6M")
    vm.create("doomed")
    vm.start()
    vm.await_ticks(10)
    heads = {target: vm.disk_path(target) for target in ("vda", "vdb")}
    doomed = {target: path for target, (path, _format) in layer_paths(vm)["doomed"].items()}
    for target, path in heads.items():
        outweigh(path, doomed[target])
    ticks = len(vm.witness().ticks())
    before = files(vm)
    costs = {merge["disk"]: merge["bytes"] for merge in merges(vm, "doomed")}
    assert costs == {target: occupied(path) for target, path in doomed.items()}
    vm.delete("doomed")
    assert files(vm) == before - set(doomed.values())
    assert {target: vm.disk_path(target) for target in heads} == heads
    vm.await_ticks(20)
    since = vm.witness().ticks()[ticks:]
    boot, first = since[0]
    assert since == [(boot, first + number) for number in range(len(since))]
    assert vm.witness().torn() == []
    # libvirt knows the chain as it is: the next snapshot and the next merge go through it
    vm.create("next")
    vm.await_ticks(5)
    vm.delete("base")
    vm.delete("next")
    vm.await_ticks(5)
    vm.shutoff()
    vm.start()
    vm.await_ticks(5)
    assert vm.witness().torn() == []


@pytest.mark.guest
def test_below_a_running_guest_data_goes_down_whatever_its_size(take: Take) -> None:
    """Libvirt pulls into the file that the guest writes to, and into no other."""
    vm = take("one")
    three_layers(vm, 2, 6)
    vm.start()
    vm.await_ticks(5)
    doomed, tip = (layer_paths(vm)[name]["vda"][0] for name in ("doomed", "tip"))
    exact = checksums(vm)
    assert merges(vm, "doomed") == [{"disk": "vda", "bytes": occupied(tip)}]
    vm.delete("doomed")
    assert layer_paths(vm)["tip"]["vda"][0] == doomed
    assert checksums(vm) == {name: exact[name] for name in ("base", "tip")}
    vm.await_ticks(5)
    assert vm.witness().torn() == []
