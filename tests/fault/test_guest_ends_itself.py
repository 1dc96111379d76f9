"""The guest powers itself off, or reboots, in the middle of an operation that it knows nothing of."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from stillframe.domain.errors import ErrorCase
from support.ground import Ground, ask, fill, nothing_lost
from support.ledger import checksums, layer_paths
from support.monitor import Monitor
from support.offline import outweigh
from support.service import Vm, eventually
from support.struck import At

pytestmark = pytest.mark.guest

MERGE_MIB = 40
MERGE_BYTES_S = 4 << 20


def power_off(ground: Ground, vm: Vm) -> None:
    """The guest's own program powers it off (the power button is how it is told when); returns when it is off."""
    ground.virsh("shutdown", vm.name, "--mode", "acpi")
    eventually(lambda: ground.domstate(vm) == "shut off", f"{vm.name} goes off", timeout_s=60)


def reboot(ground: Ground, vm: Vm) -> None:
    """The guest's kernel reboots by itself (SysRq-B is how it is told when); returns when the witness is up again."""
    boots = len(vm.witness().boots())
    ground.virsh("send-key", vm.name, "KEY_LEFTALT", "KEY_SYSRQ", "KEY_B")
    eventually(lambda: len(vm.witness().boots()) > boots, f"{vm.name} reboots", timeout_s=90)


@pytest.fixture(scope="module")
def vm(ground: Ground) -> Vm:
    vm = ground.running("wilful", fill_mib=64, memory_mib=192)
    vm.create("base")
    vm.await_ticks(5)
    return vm


def revive(vm: Vm) -> None:
    assert vm.state() == "shutoff"
    vm.start()
    vm.await_ticks(10)


def test_powered_off_before_the_point_in_time_is_fixed(ground: Ground, vm: Vm) -> None:
    with nothing_lost(vm):
        with ground.service.held(At("create", "fix the point in time", "before")) as hold:
            request = ask(vm, "create", name="struck", domain_memory=True)
            hold.wait()
            power_off(ground, vm)
        request.must_fail(ErrorCase.VM_NOT_RUNNING)
        assert "struck" not in vm.names()
        revive(vm)
        vm.create("struck", memory=True)
    vm.delete("struck")


def test_powered_off_while_memory_is_saved(ground: Ground, vm: Vm) -> None:
    """The snapshot stays as one of the disks, and says why."""
    with nothing_lost(vm):
        with ground.service.held(At("save_memory", "await the capture", "before")) as hold:
            ask(vm, "create", name="struck", domain_memory=True).must_succeed()
            hold.wait()
            power_off(ground, vm)
        vm.await_settled("struck")
        attributes = vm.get("struck")["attr"]
        assert attributes["status"] == "failed"
        assert "powered off" in attributes["reason"]
        revive(vm)
        vm.delete("struck")
        vm.create("struck", memory=True)
    vm.delete("struck")


def test_rebooted_while_memory_is_saved(ground: Ground, vm: Vm) -> None:
    """The guest of the moment is the one that is saved, exactly, whatever the running one does meanwhile."""
    with nothing_lost(vm):
        with ground.service.held(At("create", "fix the point in time", "acted")) as hold:
            request = ask(vm, "create", name="struck", domain_memory=True)
            hold.wait()
            reboot(ground, vm)
        request.must_succeed()
        vm.await_memory("struck")
        exact = checksums(vm)["struck"]
        mark = len(vm.witness().lines())
        vm.rollback("struck", memory=True)
        vm.await_ticks(10)
        assert vm.witness().ticks()[-1][0] != _tick_before(vm, mark), "it is the guest from before the reboot"
        assert checksums(vm)["struck"] == exact
    vm.delete("struck")


def _tick_before(vm: Vm, mark: int) -> str:
    """The boot id of the last tick before this line."""
    return next(line.split()[1] for line in reversed(vm.witness().lines()[:mark]) if line.startswith("T "))


@pytest.mark.parametrize("act", [power_off, reboot])
def test_during_a_live_merge(ground: Ground, act: Callable[[Ground, Vm], None]) -> None:
    """Powered off, the merge is carried on without the guest; rebooted, QEMU does not care."""
    vm = ground.vm(f"merged-{act.__name__}")
    vm.create("a")
    vm.create("b")
    fill(vm.disk_path(), MERGE_MIB)
    outweigh(layer_paths(vm)["b"]["vda"][0], vm.disk_path())  # else it would be pulled up: test_pull.py
    vm.start()
    vm.await_ticks(5)
    with nothing_lost(vm):
        with Monitor(vm) as monitor:
            request = ask(vm, "delete", name="b")
            job = monitor.await_event("JOB_STATUS_CHANGE")["data"]["id"]
            monitor.run("block-job-set-speed", device=job, speed=MERGE_BYTES_S)
            assert not request.is_answered
            act(ground, vm)
        request.must_succeed()
        assert vm.names() == ["a"]
        if act is power_off:
            revive(vm)
        vm.create("b again")
    ground.virsh("destroy", vm.name)
