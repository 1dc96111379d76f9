"""Deleting never changes a byte that the VM or another snapshot can read, whether the VM runs or not."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from support.ledger import checksums, head_checksums, owned_files, unchanged
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm


class Survivors:
    """The checksums of every snapshot, to be compared after each delete."""

    def __init__(self, vm: Vm) -> None:
        self.vm = vm
        self.exact = checksums(vm)

    def delete(self, name: str, parents: dict[str, str]) -> None:
        """Delete it; the tree is then ``parents`` and every other snapshot reads what it read."""
        self.vm.delete(name)
        del self.exact[name]
        assert self.vm.tree()["Parents"] == parents
        assert checksums(self.vm) == self.exact


def directory_of(vm: Vm) -> Path:
    assert vm.console is not None
    return vm.console.parent


def check_nothing_of_ours_is_left(vm: Vm, targets: tuple[str, ...]) -> None:
    """The VM is on its own files again and none of ours lies beside them."""
    assert vm.tree()["Parents"] == {"head": ""}
    own = [str(directory_of(vm) / f"disk-{number}.qcow2") for number in range(len(targets))]
    assert [vm.disk_path(target) for target in targets] == own
    assert owned_files(directory_of(vm)) == []


@pytest.mark.guest
def test_deleting_on_a_running_vm_until_nothing_is_left(take: Take) -> None:
    """s1 - s2 - (s3 | s4 - s5 - head): a middle, one with two children, a cousin, the root and the head's snapshot."""
    vm = take("two", boot=True)
    for name in ("s1", "s2", "s3"):
        vm.create(name)
        vm.await_ticks(10)
    vm.rollback("s2")
    vm.start()
    vm.await_ticks(20)
    for name in ("s4", "s5"):
        vm.create(name, memory=name == "s5")
        vm.await_ticks(10)
    assert vm.tree()["Parents"] == {"s1": "", "s2": "s1", "s3": "s2", "s4": "s2", "s5": "s4", "head": "s5"}
    rest = Survivors(vm)
    ticks = len(vm.witness().ticks())

    rest.delete("s4", {"s1": "", "s2": "s1", "s3": "s2", "s5": "s2", "head": "s5"})
    vm.await_ticks(20)
    desc = must_refuse_post(vm, ErrorCase.SNAPSHOT_HAS_CHILDREN, f"{SNAPSHOT}/delete", name="s2")
    assert '"s3"' in desc
    assert '"s5"' in desc
    assert checksums(vm) == rest.exact
    rest.delete("s3", {"s1": "", "s2": "s1", "s5": "s2", "head": "s5"})
    rest.delete("s1", {"s2": "", "s5": "s2", "head": "s5"})
    vm.await_ticks(20)
    rest.delete("s5", {"s2": "", "head": "s2"})
    rest.delete("s2", {"head": ""})
    check_nothing_of_ours_is_left(vm, ("vda", "vdb"))
    vm.await_ticks(20)
    assert vm.state() == "running"
    assert vm.witness().torn() == []
    since = vm.witness().ticks()[ticks:]
    assert since == consecutive(since)
    check_that_it_boots_on_what_it_wrote(vm)


def consecutive(ticks: list[tuple[str, int]]) -> list[tuple[str, int]]:
    boot, first = ticks[0]
    return [(boot, first + number) for number in range(len(ticks))]


def check_that_it_boots_on_what_it_wrote(vm: Vm) -> None:
    """Its disks hold the last records that the witness told, up to the tick that was cut."""
    vm.shutoff()
    boot, last = vm.witness().ticks()[-1]
    vm.start()
    vm.await_ticks(5)
    found = vm.witness().boots()[-1].split()[-1]
    for word in found.split(","):
        _target, _, record = word.partition("=")
        assert record.partition(":")[0] == boot
        assert int(record.partition(":")[2]) in (last, last + 1)
    assert vm.witness().torn() == []


@pytest.mark.guest
def test_rollback_with_memory_works_after_a_middle_was_deleted(take: Take) -> None:
    vm = take("one", boot=True)
    for name in ("old", "middle", "new"):
        vm.create(name, memory=name != "middle")
        vm.await_ticks(10)
    vm.delete("middle")
    for name in ("new", "old", "new"):
        mark = len(vm.witness().lines())
        vm.rollback(name, memory=True)
        vm.await_ticks(20)
        vm.witness().resumption(mark)
    assert vm.witness().torn() == []
    assert len(vm.witness().boots()) == 1


def branched(take: Take) -> Vm:
    """Shut off: r - (a - b - c | d - e - head), each with data of its own on both disks."""
    vm = take("two")

    def snapshot(name: str, step: int) -> None:
        write(vm.disk_path("vda"), step, f"{step}M", "700k")
        write(vm.disk_path("vdb"), step + 100, f"{step % 3}M", "2M")  # overlaps what older ones wrote
        vm.create(name)

    for step, name in enumerate("rabc", start=1):
        snapshot(name, step)
    vm.rollback("r")
    for step, name in enumerate("de", start=5):
        snapshot(name, step)
    write(vm.disk_path("vda"), 77, "9M")
    return vm


def test_deleting_on_a_shut_off_vm_until_nothing_is_left(take: Take) -> None:
    vm = branched(take)
    rest, heads = Survivors(vm), head_checksums(vm)
    with unchanged(vm):
        desc = must_refuse_post(vm, ErrorCase.SNAPSHOT_HAS_CHILDREN, f"{SNAPSHOT}/delete", name="r")
        assert '"a"' in desc
        assert '"d"' in desc
    rest.delete("b", {"r": "", "a": "r", "c": "a", "d": "r", "e": "d", "head": "e"})
    rest.delete("d", {"r": "", "a": "r", "c": "a", "e": "r", "head": "e"})
    rest.delete("c", {"r": "", "a": "r", "e": "r", "head": "e"})
    rest.delete("e", {"r": "", "a": "r", "head": "r"})
    assert head_checksums(vm) == heads
    # the head is a child in the tree's lists, but the rule counts snapshots
    rest.delete("r", {"a": "", "head": ""})
    assert head_checksums(vm) == heads
    rest.delete("a", {"head": ""})
    check_nothing_of_ours_is_left(vm, ("vda", "vdb"))
    # nothing of ours: a new snapshot adopts the same volumes again, with the same contents
    vm.create("again")
    assert checksums(vm)["again"] == heads


def test_deleting_what_the_head_stands_on_keeps_the_head(take: Take) -> None:
    vm = branched(take)
    exact, heads = checksums(vm), head_checksums(vm)
    vm.rollback("c")
    assert head_checksums(vm) == exact["c"]
    for name in ("c", "b", "a"):
        vm.delete(name)
        assert head_checksums(vm) == exact["c"]
    assert checksums(vm) == {name: exact[name] for name in "rde"}
    vm.rollback("e")
    assert head_checksums(vm) == exact["e"] != heads


def test_a_name_is_free_again_after_its_delete(take: Take) -> None:
    vm = take("one")
    first = vm.create("again")["uuid"]
    vm.delete("again")
    must_refuse_post(vm, ErrorCase.SNAPSHOT_UNKNOWN, f"{SNAPSHOT}/delete", name="again")
    assert vm.create("again")["uuid"] != first
