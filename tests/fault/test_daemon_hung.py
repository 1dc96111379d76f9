"""The libvirt daemon hangs in the middle of operations: it takes calls and answers none, and goes on after a while.

What it was asked it does when it goes on, also that for which nobody waits any more.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from fault.test_daemon_gone import give_tree
from stillframe.domain.errors import ErrorCase
from support.ground import Asked, Ground, ask, boot_ids, nothing_lost
from support.lab import make_vm
from support.monitor import Monitor
from support.service import Vm, eventually
from support.struck import At

pytestmark = pytest.mark.guest

HANG_S = 8.0


@pytest.fixture(scope="module")
def ground_settings() -> dict[str, str]:
    return {"call_timeout_s": "3"}


@pytest.fixture(scope="module")
def vms(ground: Ground) -> tuple[Vm, Vm, Vm]:
    """Each runs on "base" (disks) and "goal" (memory)."""
    three = (ground.vm("first"), ground.vm("second"), ground.vm("third"))
    give_tree(*three)
    return three


@pytest.fixture(scope="module")
def idle(ground: Ground) -> Vm:
    """Nothing is under way on it."""
    return make_vm(ground.daemon, ground.service, "idle", disks=1, size="1M")


@contextmanager
def hang(ground: Ground) -> Iterator[None]:
    with ground.daemon.hung():
        begun = time.monotonic()
        yield
        time.sleep(max(0.0, HANG_S - (time.monotonic() - begun)))  # the hang is the thing itself


@contextmanager
def hang_at(ground: Ground, requests: dict[At, tuple[Vm, str, dict[str, object]]]) -> Iterator[list[Asked]]:
    """The daemon hangs when each request stands at its moment; inside, they go on."""
    with ExitStack() as stack:
        with ground.service.held(*requests) as hold:
            asked = [ask(vm, call, **body) for vm, call, body in requests.values()]
            hold.wait()
            stack.enter_context(hang(ground))
        yield asked


def check_others(ground: Ground, idle: Vm, *under_way: Asked) -> None:
    """What needs libvirt is refused while it hangs, also on a VM with which nothing is the matter; the rest goes on."""
    for call in ("create", "rollback", "delete"):
        ask(idle, call, name="x", domain_memory=False).must_fail(ErrorCase.HOST_UNREACHABLE)
    tasks = ground.service.get("/v1/compute/vsd/snapshot/task/list", state="")["list"]
    assert {task["compute_name"] for task in tasks} >= {"first", "second", "third"}
    assert not any(request.is_answered for request in under_way)


def test_before_what_can_be_taken_back(ground: Ground, vms: tuple[Vm, Vm, Vm], idle: Vm) -> None:
    """A create of disks waits and succeeds; a rollback is undone, and its late definition comes to nothing; a delete
    is past its point of no return from the first step on.
    """
    first, second, third = vms
    third.create("doomed")
    third.await_ticks(5)
    third.create("tip")
    requests = {
        At("create", "fix the point in time", "before"): (first, "create", {"name": "struck"}),
        At("rollback", "define", "before"): (second, "rollback", {"name": "goal", "domain_memory": True}),
        At("delete", "merge *: commit", "before"): (third, "delete", {"name": "doomed"}),
    }
    defined = ground.virsh("dumpxml", "--inactive", second.name)
    with nothing_lost(*vms):
        with hang_at(ground, requests) as (create, rollback, delete):
            check_others(ground, idle, create, rollback, delete)
        create.must_succeed()
        rollback.must_fail(ErrorCase.HOST_UNREACHABLE)
        delete.must_succeed()
        assert second.head()["name"] == "goal"
        assert ground.virsh("dumpxml", "--inactive", second.name) == defined
        assert set(third.names()) == {"tip", "goal", "base"}
    mark = len(second.witness().lines())
    with nothing_lost(second):
        second.rollback("goal", memory=True)
        second.await_ticks(10)
        second.witness().resumption(mark)
    first.delete("struck")
    third.delete("tip")
    idle.create("x")


def test_with_memory_and_past_the_point_of_no_return(ground: Ground, vms: tuple[Vm, Vm, Vm], idle: Vm) -> None:
    first, second, third = vms
    back = {"name": "goal", "domain_memory": True}
    requests = {
        At("create", "fix the point in time", "before"): (first, "create", {"name": "struck", "domain_memory": True}),
        At("rollback", "restore memory", "before"): (second, "rollback", back),
        At("rollback", "power off", "before"): (third, "rollback", back),
    }
    with nothing_lost(*vms):
        marks = {vm.uuid: (len(vm.witness().lines()), boot_ids(vm)) for vm in (second, third)}
        with hang_at(ground, requests) as (create, *rollbacks):
            check_others(ground, idle, create, *rollbacks)
        for request in (create, *rollbacks):
            request.must_succeed()
        first.await_memory("struck")
        for vm in (second, third):
            vm.await_ticks(10)
            mark, booted = marks[vm.uuid]
            assert vm.witness().resumption(mark).boot in booted
    first.delete("struck")


def test_inside_the_pause_of_a_create(ground: Ground, vms: tuple[Vm, Vm, Vm], idle: Vm) -> None:
    """The guest stands still as long as there is nobody to let it go on, and not a moment longer."""
    vm = vms[0]
    with nothing_lost(vm):
        with Monitor(vm) as monitor:
            request = ask(vm, "create", name="struck", domain_memory=True)
            monitor.await_event("STOP")
            with hang(ground):
                stopped = not monitor.is_running()
                check_others(ground, idle, request)
            eventually(monitor.is_running, "the guest runs again")
        request.must_succeed()
        vm.await_memory("struck")
        assert stopped, "the strike was too late"
    vm.delete("struck")


def test_inside_a_live_merge_and_while_memory_is_saved(ground: Ground, vms: tuple[Vm, Vm, Vm], idle: Vm) -> None:
    _first, second, third = vms
    third.create("doomed")
    third.await_ticks(5)
    third.create("tip")
    with nothing_lost(second, third):
        with ExitStack() as stack:
            with ground.service.held(At("save_memory", "await the capture", "before")) as hold:
                second.create("struck", memory=True, wait=False)
                hold.wait()
                with Monitor(third) as monitor:
                    delete = ask(third, "delete", name="doomed")
                    monitor.await_event("JOB_STATUS_CHANGE")
                    stack.enter_context(hang(ground))
            check_others(ground, idle, delete)
        delete.must_succeed()
        second.await_memory("struck")
        assert set(third.names()) == {"tip", "goal", "base"}
    third.delete("tip")
    second.delete("struck")
