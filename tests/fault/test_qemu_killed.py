"""The guest's QEMU is killed in the middle of an operation: nothing is lost but what was in its memory."""

from __future__ import annotations

import random
import time

import pytest

from stillframe.domain.errors import ErrorCase
from support.ground import Ground, ask, fill, nothing_lost
from support.ledger import layer_paths
from support.monitor import Monitor
from support.offline import outweigh
from support.service import Vm, end_process
from support.struck import At

pytestmark = pytest.mark.guest

SEED = 20261202
STRIKES = 3
MERGE_MIB = 40
MERGE_MIB_PER_S = 8  # a merge takes five seconds from its first byte on, however late this process gets its turn


@pytest.fixture(scope="module")
def ground_settings() -> dict[str, str]:
    return {"merge_bytes_per_s": str(MERGE_MIB_PER_S << 20)}


@pytest.fixture(scope="module")
def vm(ground: Ground) -> Vm:
    vm = ground.running("mortal", fill_mib=160, memory_mib=288)  # saving it takes a while, also on a busy machine
    vm.create("base")
    vm.await_ticks(5)
    return vm


def revive(vm: Vm) -> None:
    assert vm.state() == "shutoff"
    vm.start()
    vm.await_ticks(10)


def test_while_memory_is_saved(ground: Ground, vm: Vm) -> None:
    """The snapshot stays as one of the disks and says why; a new one can be made as soon as the guest is up."""
    with nothing_lost(vm):
        with Monitor(vm) as monitor, ground.service.held(At("create", "fix the point in time", "acted")) as hold:
            request = ask(vm, "create", name="struck", domain_memory=True)
            hold.wait()
            assert monitor.run("query-migrate")["status"] == "active"
            end_process(ground.qemu_pid(vm))
        request.must_succeed()
        vm.await_settled("struck")
        attributes = vm.get("struck")["attr"]
        assert attributes["status"] == "failed"
        assert "powered off" in attributes["reason"]
        revive(vm)
        vm.delete("struck")
        vm.create("struck", memory=True)
    vm.delete("struck")


@pytest.mark.parametrize("seed", range(SEED, SEED + STRIKES))
def test_inside_the_pause_of_a_create(ground: Ground, vm: Vm, seed: int) -> None:
    """From the stop on, at once and at random times: all or nothing, and no byte of the disks is lost."""
    delay_s = random.Random(seed).uniform(0, 0.05) if seed != SEED else 0.0
    with nothing_lost(vm):
        with Monitor(vm) as monitor:
            request = ask(vm, "create", name="struck", domain_memory=True)
            monitor.await_event("STOP")
            time.sleep(delay_s)
            end_process(ground.qemu_pid(vm))
        if request.answer()["scode"] == 0:
            vm.await_settled("struck")
            assert vm.get("struck")["attr"]["status"] == "failed"
            vm.delete("struck")
        else:
            request.must_fail(ErrorCase.HYPERVISOR_FAILED, ErrorCase.VM_NOT_RUNNING)
            assert "struck" not in vm.names()
        revive(vm)
        vm.create("struck", memory=True)
    vm.delete("struck")


@pytest.mark.parametrize("kind", ["active", "inner"])
def test_during_a_live_merge(ground: Ground, kind: str) -> None:
    """The merge is carried on without the guest: of the disk's head ("active"), and of a layer below it ("inner")."""
    vm = ground.vm(f"merged-{kind}")
    vm.create("a")
    if kind == "inner":
        fill(vm.disk_path(), MERGE_MIB)
    vm.create("b")
    if kind == "active":
        fill(vm.disk_path(), MERGE_MIB)
        outweigh(layer_paths(vm)["b"]["vda"][0], vm.disk_path())  # else it would be pulled up: test_pull.py
    vm.start()
    vm.await_ticks(5)
    doomed = "a" if kind == "inner" else "b"
    with nothing_lost(vm):
        with Monitor(vm) as monitor:
            request = ask(vm, "delete", name=doomed)
            monitor.await_event("JOB_STATUS_CHANGE")
            (job,) = monitor.run("query-block-jobs")
            assert job["offset"] < MERGE_MIB << 20
            end_process(ground.qemu_pid(vm))
        request.must_succeed()
        assert doomed not in vm.names()
        revive(vm)
        vm.create("again")
    ground.virsh("destroy", vm.name)
