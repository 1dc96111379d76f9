"""A block job that the guest's owner has begun on its disk: a merge leaves it alone, and is done when it has gone."""

from __future__ import annotations

import re

import pytest

from stillframe.domain.errors import ErrorCase
from support.ground import Ground, ask, fill, nothing_lost, settle
from support.service import Vm, eventually

pytestmark = pytest.mark.guest


@pytest.fixture
def vm(ground: Ground) -> Vm:
    """Its head stands on "doomed", which stands on its first file."""
    vm = ground.running(f"owned-{len(ground.vms)}")
    vm.create("doomed")
    vm.await_ticks(3)
    return vm


def await_ready(ground: Ground, vm: Vm) -> None:
    eventually(lambda: "ready='yes'" in ground.virsh("dumpxml", vm.name), "the owner's job mirrors")


def test_an_owners_copy_is_not_pivoted(ground: Ground, vm: Vm) -> None:
    assert vm.console is not None
    copy = vm.console.with_name("copy.qcow2")
    with nothing_lost(vm):
        ground.virsh("blockcopy", vm.name, "vda", str(copy), "--transient-job")
        await_ready(ground, vm)
        desc = ask(vm, "delete", name="doomed").must_fail(ErrorCase.LEFT_BEHIND)
        assert "somebody else" in desc
        assert str(copy) not in ground.virsh("domblklist", vm.name)
        assert "Block Copy" in ground.virsh("blockjob", vm.name, "vda", "--raw")
        ground.virsh("blockjob", vm.name, "vda", "--abort")
        settle(ground.service)
    assert vm.names() == []


def test_an_owners_commit_into_another_file_is_not_pivoted(ground: Ground, vm: Vm) -> None:
    vm.create("kept")
    (*_above, lowest) = re.findall(r"<source file='([^']*disk-0[^']*)'", ground.virsh("dumpxml", vm.name))
    ground.virsh("blockcommit", vm.name, "vda", "--active", "--base", lowest)
    await_ready(ground, vm)
    desc = ask(vm, "delete", name="kept").must_fail(ErrorCase.LEFT_BEHIND)
    assert "somebody else" in desc
    assert lowest not in ground.virsh("domblklist", vm.name)
    ground.virsh("blockjob", vm.name, "vda", "--abort")
    settle(ground.service)
    vm.await_ticks(5)
    assert vm.witness().torn() == []


def test_an_owners_commit_keeps_a_pull_from_beginning(ground: Ground) -> None:
    """There is more in the head than in what it stands on, which would be copied up."""
    vm = ground.vm("owned-pull")
    lowest = vm.disk_path()
    vm.create("first")
    vm.create("doomed")
    fill(vm.disk_path(), 16)
    vm.start()
    vm.await_ticks(3)
    ground.virsh("blockcommit", vm.name, "vda", "--active", "--base", lowest)
    await_ready(ground, vm)
    desc = ask(vm, "delete", name="doomed").must_fail(ErrorCase.LEFT_BEHIND)
    assert ": pull: " in desc
    assert "somebody else" in desc
    assert lowest not in ground.virsh("domblklist", vm.name)
    ground.virsh("blockjob", vm.name, "vda", "--abort")
    settle(ground.service)
    assert vm.names() == ["first"]
    vm.await_ticks(5)
    assert vm.witness().torn() == []
