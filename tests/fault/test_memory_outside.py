"""A rollback with memory that was interrupted, and a VM that somebody started, paused or ended before it went on.

A guest that runs is one of two: it came out of the saved memory, or it was booted on the rolled-back disks. Memory and disks
of different moments never come together, and no task says that the memory is back when it is not.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import Lab, boots, interrupt, last_task, settle, virsh
from support.ledger import check_census
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm
from support.struck import At

pytestmark = pytest.mark.guest
OFF = At("rollback", "power off", "noted")
RESTORED = At("rollback", "restore memory", "acted")
MOVE = At("rollback", "move the heads", "before")


@pytest.fixture
def vm(lab: Lab) -> Iterator[Vm]:
    """It runs, and is sound at the end, whatever was done to it: the memory can be rolled back to."""
    vm = lab.running
    yield vm
    settle(lab.service)
    lab.check_exact(vm)
    check_census(lab.service)
    assert lab.service.get("/v1/stillframe/doctor")["findings"] == []
    started = boots(vm)
    vm.rollback("goal", memory=True)
    vm.await_ticks(5)
    assert (boots(vm), vm.witness().torn()) == (started, [])
    assert last_task(vm) == ("done", "")


def roll_back(lab: Lab, vm: Vm, at: At) -> None:
    interrupt(lab.service, vm, at, f"{SNAPSHOT}/rollback", name="goal", domain_memory=True)


def go_on(lab: Lab) -> None:
    lab.service.start()
    settle(lab.service)


@pytest.mark.parametrize("at", [At("rollback", "commit", "before"), OFF], ids=["to be undone", "to be finished"])
@pytest.mark.parametrize("then", ["running", "paused", "off"])
def test_a_booted_guest_is_not_taken_for_the_restored_one(lab: Lab, vm: Vm, then: str, at: At) -> None:
    if at is not OFF:
        vm.shutoff()
    roll_back(lab, vm, at)
    virsh(lab.daemon, "start", vm.name)
    vm.await_ticks(5)
    if then != "running":
        virsh(lab.daemon, {"paused": "suspend", "off": "destroy"}[then], vm.name)
    started = boots(vm)
    go_on(lab)
    state, words = last_task(vm)
    assert state == "done"
    assert "memory was not restored" in words
    assert vm.state() == {"running": "running", "paused": "paused", "off": "shutoff"}[then]
    assert vm.head()["name"] == "goal"
    if then == "paused":
        virsh(lab.daemon, "resume", vm.name)
    if then != "off":
        vm.await_ticks(5)
        assert boots(vm) == started, "it goes on"


def test_what_is_known_of_the_memory_is_not_forgotten_when_the_service_dies_once_more(lab: Lab, vm: Vm) -> None:
    roll_back(lab, vm, OFF)
    virsh(lab.daemon, "start", vm.name)
    vm.await_ticks(5)
    lab.service.strike(kill=MOVE)
    lab.service.fork()
    lab.service.await_death()
    lab.service.spare()
    go_on(lab)
    state, words = last_task(vm)
    assert state == "done"
    assert "memory was not restored" in words


@pytest.mark.parametrize("then", ["goes on", "suspended", "resumed", "saved"])
def test_a_restored_guest_is_known_whatever_its_owner_did_to_it(lab: Lab, vm: Vm, then: str) -> None:
    """Also by a libvirt that was restarted since."""
    started = boots(vm)
    roll_back(lab, vm, RESTORED)
    vm.await_ticks(5)
    if then in ("suspended", "resumed"):
        virsh(lab.daemon, "suspend", vm.name)
    if then == "resumed":
        virsh(lab.daemon, "resume", vm.name)
    if then == "saved":
        virsh(lab.daemon, "managedsave", vm.name)
        virsh(lab.daemon, "start", vm.name)
    lab.daemon.kill()
    lab.daemon.start()
    assert "xmlns/origin" in virsh(lab.daemon, "dumpxml", vm.name)
    assert "xmlns/origin" not in virsh(lab.daemon, "dumpxml", "--inactive", vm.name)
    go_on(lab)
    assert last_task(vm) == ("done", "")
    if then == "suspended":
        assert vm.state() == "paused"
        virsh(lab.daemon, "resume", vm.name)
    vm.await_ticks(5)
    assert (vm.state(), boots(vm)) == ("running", started)


def test_memory_is_not_restored_twice(lab: Lab, vm: Vm) -> None:
    """What the restored guest wrote before it ended would not fit to the memory of the beginning."""
    roll_back(lab, vm, RESTORED)
    vm.await_ticks(5)
    virsh(lab.daemon, "destroy", vm.name)
    go_on(lab)
    state, words = last_task(vm)
    assert (state, vm.state()) == ("done", "shutoff")
    assert "has run on the rolled-back disks" in words


def test_who_waits_for_the_memory_is_told(lab: Lab, vm: Vm) -> None:
    body = {"name": "goal", "domain_memory": True}
    case, path = ErrorCase.MEMORY_NOT_RESTORED, f"{SNAPSHOT}/rollback"
    with ThreadPoolExecutor(1) as client, lab.service.held(At("rollback", "restore memory", "before")) as hold:
        sent = client.submit(must_refuse_post, vm, case, path, **body)
        hold.wait()
        virsh(lab.daemon, "start", vm.name)
        hold.release()
        assert "started from outside" in sent.result()
    assert vm.state() == "running"
