"""The libvirt daemon is killed in the middle of an operation and comes back, at once or after half a minute."""

from __future__ import annotations

import os
import random
import signal
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import libvirt
import pytest

from stillframe.adapters.libvirt.connection import Connection
from stillframe.domain.errors import ErrorCase
from support.ground import Asked, Ground, ask, boot_ids, nothing_lost
from support.monitor import Monitor
from support.service import Vm, eventually
from support.struck import At

pytestmark = pytest.mark.guest

LONG_OUTAGE_S = 30.0
ASKED_S = 1.0  # a question has come to libvirt
RANDOM_STRIKES = 3
SEED = 20261201


def give_tree(*vms: Vm) -> None:
    """They run on two snapshots: "base" has disks, "goal" memory, too."""
    for vm in vms:
        vm.start()
    for vm in vms:
        vm.await_ticks(10)
        vm.create("base")
        vm.await_ticks(5)
        vm.create("goal", memory=True)


@pytest.fixture(scope="module")
def vm(ground: Ground) -> Vm:
    steady = ground.vm("steady")
    give_tree(steady)
    return steady


def strike(ground: Ground, at: At, vm: Vm, call: str, *, back_at_once: bool = True, **body: object) -> Asked:
    """The request, with the daemon killed while it stands at this moment."""
    with ground.service.held(at) as hold:
        request = ask(vm, call, **body)
        hold.wait()
        ground.daemon.kill()
    if back_at_once:
        ground.daemon.start()
    return request


def test_create_is_refused_and_gone_when_the_point_in_time_cannot_be_fixed(ground: Ground, vm: Vm) -> None:
    with nothing_lost(vm):
        at = At("create", "fix the point in time", "before")
        request = strike(ground, at, vm, "create", back_at_once=False, name="struck", domain_memory=True)
        eventually(lambda: At("create", "fix the point in time", "undoing") in ground.service.moments(), "it is undone")
        ground.daemon.start()
        request.must_fail(ErrorCase.HOST_UNREACHABLE)
        assert "struck" not in vm.names()
        vm.create("struck", memory=True)
    vm.delete("struck")


def test_create_goes_on_without_the_daemon_once_the_point_in_time_is_fixed(ground: Ground, vm: Vm) -> None:
    """It is published while the daemon is away; the memory, which QEMU goes on writing, when it is back."""
    with nothing_lost(vm):
        at = At("create", "fix the point in time", "acted")
        request = strike(ground, at, vm, "create", back_at_once=False, name="struck", domain_memory=True)
        request.must_succeed()
        ground.daemon.start()
        vm.await_memory("struck")
    mark = len(vm.witness().lines())
    vm.rollback("struck", memory=True)
    vm.await_ticks(10)
    vm.witness().resumption(mark)
    vm.delete("struck")


def test_while_memory_is_saved(ground: Ground, vm: Vm) -> None:
    with nothing_lost(vm):
        with ground.service.held(At("save_memory", "await the capture", "before")) as hold:
            vm.create("struck", memory=True, wait=False)
            hold.wait()
            ground.daemon.kill()
        ground.daemon.start()
        vm.await_memory("struck")
    vm.delete("struck")


def test_rollback_with_memory_before_its_point_of_no_return(ground: Ground, vm: Vm) -> None:
    with nothing_lost(vm):
        mark = len(vm.witness().lines())
        request = strike(ground, At("rollback", "define", "before"), vm, "rollback", name="goal", domain_memory=True)
        # the daemon may be back before the step asks for it
        if request.answer()["scode"] == 0:
            vm.await_ticks(5)
            vm.witness().resumption(mark)
        else:
            request.must_fail(ErrorCase.HOST_UNREACHABLE)
            vm.rollback("goal", memory=True)


@pytest.mark.parametrize("step", ["power off", "restore memory"])
def test_rollback_with_memory_past_its_point_of_no_return(ground: Ground, vm: Vm, step: str) -> None:
    with nothing_lost(vm):
        mark, booted = len(vm.witness().lines()), boot_ids(vm)
        strike(ground, At("rollback", step, "before"), vm, "rollback", name="goal", domain_memory=True).must_succeed()
        vm.await_ticks(10)
        assert vm.witness().resumption(mark).boot in booted


def test_inside_the_restoring_of_memory(ground: Ground, vm: Vm) -> None:
    """The daemon dies when the new QEMU stands ready to read; what it left is ended and the restore begins anew."""
    with nothing_lost(vm):
        mark = len(vm.witness().lines())
        with ground.service.held(At("rollback", "restore memory", "before")) as hold:
            request = ask(vm, "rollback", name="goal", domain_memory=True)
            hold.wait()
            hold.release()
            eventually(lambda: is_up(vm), "the new QEMU answers", poll_s=0.005)
            ground.daemon.kill()
        ground.daemon.start()
        request.must_succeed()
        vm.await_ticks(10)
        vm.witness().resumption(mark)


def is_up(vm: Vm) -> bool:
    try:
        with Monitor(vm):
            return True
    except OSError:
        return False


@pytest.mark.parametrize("seed", range(SEED, SEED + 1 + RANDOM_STRIKES))
def test_inside_the_pause_of_a_create(ground: Ground, vm: Vm, seed: int) -> None:
    """The guest is stopped when the daemon dies: it runs again as soon as there is a daemon to say so.

    At once after the stop, and at a few random times after it (the seed is in the test's name). QEMU is frozen for the instant of the strike, so that
    the test is not overtaken.
    """
    delay_s = random.Random(seed).uniform(0, 0.03) if seed != SEED else 0.0
    with nothing_lost(vm):
        with Monitor(vm) as monitor:
            request = ask(vm, "create", name="struck", domain_memory=True)
            monitor.await_event("STOP")
            time.sleep(delay_s)
            qemu = ground.qemu_pid(vm)
            os.kill(qemu, signal.SIGSTOP)
            try:
                ground.daemon.kill()
            finally:
                os.kill(qemu, signal.SIGCONT)
            if seed == SEED:
                assert not monitor.is_running(), "the strike was too late"
            ground.daemon.start()
            eventually(monitor.is_running, "the guest runs again")
        if request.answer()["scode"] != 0:
            request.must_fail(ErrorCase.HOST_UNREACHABLE)
            assert "struck" not in vm.names()
            vm.create("struck", memory=True)
        vm.await_memory("struck")
    vm.delete("struck")


def test_a_guest_that_libvirt_has_not_found_again_yet(ground: Ground, vm: Vm) -> None:
    """The new daemon answers at once, and tells of the guest what its predecessor wrote down: that it runs.

    An undo that believed it would leave the guest standing. Its QEMU is frozen so that libvirt cannot find it before it is
    asked; nothing is under way in it, because an answer that the old daemon did not hear would confuse the new one.
    """
    with nothing_lost(vm):
        with Monitor(vm) as monitor:
            qemu = ground.qemu_pid(vm)
            ground.daemon.kill()
            monitor.run("stop")
            os.kill(qemu, signal.SIGSTOP)
            try:
                ground.daemon.start()
                connection = Connection(ground.daemon.uri, call_timeout_s=60)
                with closing(connection), ThreadPoolExecutor(1) as behind:
                    state = behind.submit(connection.domain_call, "look", vm.uuid, lambda domain: domain.state()[0])
                    time.sleep(ASKED_S)
                    os.kill(qemu, signal.SIGCONT)
                    assert state.result(60) == libvirt.VIR_DOMAIN_PAUSED
            finally:
                os.kill(qemu, signal.SIGCONT)
        ground.virsh("resume", vm.name)


@pytest.mark.parametrize("inside", [False, True], ids=["before", "inside"])
def test_delete_with_a_live_merge(ground: Ground, vm: Vm, inside: bool) -> None:
    """Past its point of no return from the first step on: the caller waits, and is told that it is done."""
    vm.create("doomed")
    vm.await_ticks(5)
    vm.create("tip")
    with nothing_lost(vm):
        if inside:
            with Monitor(vm) as monitor:
                request = ask(vm, "delete", name="doomed")
                monitor.await_event("JOB_STATUS_CHANGE")
                ground.daemon.kill()
            ground.daemon.start()
        else:
            request = strike(ground, At("delete", "merge *: commit", "before"), vm, "delete", name="doomed")
        request.must_succeed()
        assert "doomed" not in vm.names()
    vm.delete("tip")


def test_gone_for_half_a_minute(ground: Ground, vm: Vm) -> None:
    """Create, rollback and delete of three machines are in the middle; nobody is told a success that is none."""
    other, third = ground.vm("other"), ground.vm("third")
    give_tree(other, third)
    moments = {
        "create": At("create", "fix the point in time", "before"),
        "rollback": At("rollback", "restore memory", "before"),
        "delete": At("delete", "merge *: commit", "before"),
    }
    third.create("tip")
    with nothing_lost(vm, other, third):
        with ground.service.held(*moments.values()) as hold:
            create = ask(vm, "create", name="struck", domain_memory=True)
            rollback = ask(other, "rollback", name="goal", domain_memory=True)
            delete = ask(third, "delete", name="goal")
            hold.wait()
            ground.daemon.kill()
        gone_at = time.monotonic()
        ask(vm, "rollback", name="base", domain_memory=False).must_fail(ErrorCase.HOST_UNREACHABLE)
        time.sleep(LONG_OUTAGE_S - (time.monotonic() - gone_at))  # the outage is the thing itself
        assert not any(request.is_answered for request in (create, rollback, delete))
        ground.daemon.start()
        create.must_fail(ErrorCase.HOST_UNREACHABLE)
        rollback.must_succeed()
        delete.must_succeed()
        vm.create("struck", memory=True)
        assert set(third.names()) == {"tip", "base"}
    for done in (other, third):
        ground.virsh("destroy", done.name)
    vm.delete("struck")
