"""A layer is pulled up into the one that stands on it, and something happens in the middle."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from contextlib import closing

import pytest

from stillframe.adapters.libvirt.capture import LibvirtPointInTime
from stillframe.adapters.libvirt.connection import Connection
from stillframe.domain.errors import ErrorCase
from stillframe.ports.hypervisor import PullRequest
from support.ground import Ground, ask, fill, nothing_lost
from support.ledger import head_checksums, layer_paths, rows
from support.monitor import Monitor
from support.offline import outweigh
from support.service import Vm, end_process, eventually
from support.struck import At

pytestmark = pytest.mark.guest

PULL_MIB = 40
MIB_PER_S = 8  # a pull takes five seconds from its first byte on


@pytest.fixture(scope="module")
def ground_settings() -> dict[str, str]:
    return {"merge_bytes_per_s": str(MIB_PER_S << 20)}


def prepared(ground: Ground, name: str) -> Vm:
    """Shut off: a - doomed (with data) - head, which occupies more."""
    vm = ground.vm(name)
    vm.create("a")
    fill(vm.disk_path(), PULL_MIB)
    vm.create("doomed")
    outweigh(vm.disk_path(), layer_paths(vm)["doomed"]["vda"][0])
    return vm


def await_stream(monitor: Monitor) -> None:
    """The copy is under way."""

    def copies() -> bool:
        jobs = monitor.run("query-jobs")
        return any(job["type"] == "stream" and 0 < job["current-progress"] < job["total-progress"] for job in jobs)

    eventually(copies, "the copy is under way", poll_s=0.01)


def test_the_guest_s_qemu_is_killed(ground: Ground) -> None:
    """It is carried on without it."""
    vm = prepared(ground, "pulled-killed")
    vm.start()
    vm.await_ticks(5)
    head = vm.disk_path()
    with nothing_lost(vm):
        with Monitor(vm) as monitor:
            request = ask(vm, "delete", name="doomed")
            await_stream(monitor)
            end_process(ground.qemu_pid(vm))
        request.must_succeed()
        assert vm.names() == ["a"]
        assert vm.disk_path() == head
        vm.start()
        vm.await_ticks(5)
        vm.create("again")


def test_the_service_is_killed(ground: Ground) -> None:
    """QEMU's job goes on, is found, and is not started again."""
    vm = prepared(ground, "pulled-service")
    vm.start()
    vm.await_ticks(5)
    with nothing_lost(vm):
        with Monitor(vm) as monitor:
            ask(vm, "delete", name="doomed")
            await_stream(monitor)
            ground.service.kill()
            ground.service.start()
            eventually(lambda: vm.names() == ["a"], "the delete is told of")
            (job,) = monitor.run("query-jobs")
            assert (job["id"], job["status"]) == ("stillframe-pull-vda", "running")
        eventually(lambda: not rows(ground.service, OPEN), "it is carried to its end", timeout_s=60)
    assert jobs(ground, vm) == []


OPEN = "SELECT 1 FROM operations WHERE lock_key IS NOT NULL OR state = 'left'"


def jobs(ground: Ground, vm: Vm) -> list[str]:
    return [job["id"] for job in json.loads(ground.qmp(vm, '{"execute":"query-jobs"}'))["return"]]


@pytest.fixture
def fixer(ground: Ground) -> Iterator[LibvirtPointInTime]:
    with closing(Connection(ground.daemon.uri, call_timeout_s=60)) as connection:
        yield LibvirtPointInTime(connection, merge_timeout_s=60)


def test_a_qemu_killed_behind_the_switch_has_lost_nothing(ground: Ground, fixer: LibvirtPointInTime) -> None:
    """What was pulled is on the disk before the header leads past the layer that it came from."""
    vm = prepared(ground, "pulled-durable")
    head, doomed, parent = vm.disk_path(), *(layer_paths(vm)[name]["vda"][0] for name in ("doomed", "a"))
    expected = head_checksums(vm)
    vm.start()
    eventually(lambda: ground.domstate(vm) == "running", "its QEMU is there")
    # the guest has not come to its disk yet: nobody flushes it but us
    ground.virsh("suspend", vm.name)
    request = PullRequest("vda", head, doomed, parent, "qcow2")
    told: list[tuple[int, int]] = []
    fixer.pull_live(vm.uuid, request, lambda now: told.append((now.bytes_done, now.bytes_total)))
    assert vm.service.get("/v1/stillframe/doctor")["findings"] == []
    fixer.leave_live(vm.uuid, request)
    end_process(ground.qemu_pid(vm))
    backing = json.loads(subprocess.check_output(["qemu-img", "info", "--output=json", head]))["backing-filename"]
    assert backing == parent
    assert told[-1][0] == told[-1][1] >= PULL_MIB << 20
    assert head_checksums(vm) == expected
    subprocess.run(["qemu-img", "rebase", "-u", "-b", doomed, "-F", "qcow2", head], check=True)


def test_a_guest_that_somebody_starts_meanwhile_is_waited_for_or_merged_under(ground: Ground) -> None:
    """The layer is pulled into another than the head, which only a VM that is off allows."""
    vm = prepared(ground, "pulled-started")
    vm.create("tip")
    outweigh(layer_paths(vm)["tip"]["vda"][0], layer_paths(vm)["doomed"]["vda"][0])
    with nothing_lost(vm):
        with ground.service.held(At("delete", "merge *: pull", "before")) as hold:
            request = ask(vm, "delete", name="doomed")
            hold.wait()
            ground.virsh("start", vm.name)
        words = request.must_fail(ErrorCase.LEFT_BEHIND)
        assert "was started meanwhile" in words
        vm.await_ticks(5)
        # what is next is not held up: the data goes down now, with the next delete
        vm.create("next")
        vm.delete("next")
        assert list(layer_paths(vm)) == ["a", "tip"]
    query = "SELECT l.path FROM layers l JOIN volumes v ON v.uuid = l.volume_uuid WHERE v.vm_uuid = ?"
    assert len(rows(ground.service, query, vm.uuid)) == len(("a", "tip", "the head"))
