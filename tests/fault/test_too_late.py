"""A guest that is stopped too late for its capture: at each moment at which that can be, on real guests.

Whatever happens the memory that is kept is of the same moment as the disks, the guest goes on, and a capture that came too
late leaves nothing behind.
"""

from __future__ import annotations

import time
import weakref
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.adapters.libvirt import migration
from stillframe.adapters.libvirt.capture import LibvirtPointInTime
from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.passing import Pass
from stillframe.adapters.libvirt.pause import Pauser
from stillframe.adapters.libvirt.restore import LibvirtRestorer
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.domain.snapshot import CaptureMode
from stillframe.ports.hypervisor import DiskSwitch, PointInTime, PointRequest, SavedConfiguration
from support.ground import Ground, ask
from support.monitor import Monitor
from support.offline import image
from support.service import Vm, eventually

pytestmark = pytest.mark.guest

TARGETS = ("vda", "vdb")


def at_once(_monitor: Monitor) -> None:
    """Most often in time: QEMU has hardly begun to go over the memory."""


def qemu_stops_the_guest(monitor: Monitor) -> None:
    """Our stop finds it stopped, and may come before QEMU lets it go on."""
    monitor.await_event("STOP")


def qemu_lets_it_go_on(monitor: Monitor) -> None:
    monitor.await_event("RESUME")


def it_is_active(monitor: Monitor) -> None:
    while monitor.run("query-migrate").get("status") == "setup":
        pass


def pages_are_saved(monitor: Monitor) -> None:
    while not monitor.run("query-migrate").get("ram", {}).get("normal"):
        pass


def all_is_saved(monitor: Monitor) -> None:
    while monitor.run("query-migrate").get("status") != "completed":
        time.sleep(0.01)


LATE = (qemu_stops_the_guest, qemu_lets_it_go_on, it_is_active, pages_are_saved, all_is_saved)
Moment = Callable[[Monitor], None]


class Stopped:
    """Stops the guest at these moments, attempt by attempt, and then at once; ``outcomes`` tells which were in time."""

    def __init__(self, vm: Vm, *moments: Moment) -> None:
        self.outcomes: list[bool] = []
        self.vm = vm
        self._moments = iter(moments)

    def watch(self, *arguments: Any) -> Pass:
        stopped, moment = self, next(self._moments, at_once)

        class Watched(Pass):
            is_worth_while = True  # type: ignore[assignment]

            def __init__(self, *arguments: Any) -> None:
                super().__init__(*arguments)
                self._monitor = Monitor(stopped.vm)  # before QEMU begins: it tells nobody what was before
                weakref.finalize(self, self._monitor.__exit__, None, None, None)

            def await_stop_time(self) -> None:
                with self._monitor:  # QEMU speaks to one at a time
                    moment(self._monitor)

            def over(self, on_wall_s: float, *, in_time: bool) -> None:
                self._monitor.__exit__(None, None, None)
                stopped.outcomes.append(in_time)
                super().over(on_wall_s, in_time=in_time)

        return Watched(*arguments)


@pytest.fixture(scope="module")
def connection(ground: Ground) -> Iterator[Connection]:
    with closing(Connection(ground.daemon.uri, call_timeout_s=60)) as opened:
        yield opened


@pytest.fixture
def vm(ground: Ground) -> Iterator[Vm]:
    """It has so much memory that saving it takes a while."""
    vm = ground.running(f"guest-{len(ground.vms)}", disks=2, memory_mib=256)
    yield vm
    ground.virsh("destroy", vm.name)


def directory(vm: Vm) -> Path:
    assert vm.console is not None
    return Path(vm.console).parent


def overlays(vm: Vm, name: str, frozen: dict[str, str]) -> dict[str, str]:
    return {t: str(image(directory(vm) / f"{name}-{t}.qcow2", backing=Path(path))) for t, path in frozen.items()}


def request_for(vm: Vm, frozen: dict[str, str], name: str) -> PointRequest:
    memory = directory(vm) / f"{name}.mem"
    memory.touch(mode=0o600)
    new = overlays(vm, name, frozen)
    switches = tuple(DiskSwitch(target, frozen[target], "qcow2", new[target]) for target in TARGETS)
    return PointRequest(vm.uuid, vm_was_running=True, switches=switches, memory_path=str(memory))


def finish(fixer: LibvirtPointInTime, restorer: LibvirtRestorer, request: PointRequest, point: PointInTime) -> str:
    assert request.memory_path is not None
    path = request.memory_path
    eventually(lambda: fixer.probe_capture(request.vm_uuid).state == "completed", "the memory is saved")
    fixer.release_capture(request.vm_uuid, path)
    restorer.finish_image(path, point.runtime_xml, point.runtime_cookie)
    return path


class Taken:
    """A snapshot with memory that is being taken while the witness ticks."""

    def __init__(self, connection: Connection, vm: Vm, stopped: Stopped, name: str = "taken") -> None:
        self._fixer = LibvirtPointInTime(connection, merge_timeout_s=60, pauser=Pauser(stopped.watch))
        self._restorer = LibvirtRestorer(connection)
        self._vm = vm
        self._frozen = {target: vm.disk_path(target) for target in TARGETS}
        self._request = request_for(vm, self._frozen, name)
        self._boot, self._least = vm.witness().ticks()[-1]
        self.point = self._fixer.fix_point(self._request)
        _boot, self._most = vm.witness().ticks()[-1]
        assert self.point.capture_mode is CaptureMode.BACKGROUND
        vm.await_ticks(10)
        self._path = finish(self._fixer, self._restorer, self._request, self.point)

    def check(self, ground: Ground) -> None:
        """Rolled back to, the guest goes on where it was, and its disks are of the same moment."""
        vm = self._vm
        assert '"opaque":"stillframe:' not in ground.qmp(vm, '{"execute":"query-fdsets"}').replace(" ", "")
        mark = len(vm.witness().lines())
        ground.virsh("destroy", vm.name)
        back = {target: (file, "qcow2") for target, file in overlays(vm, "back", self._frozen).items()}
        self._restorer.restore(self._path, SavedConfiguration(vm.uuid, self.point.definition_xml, back))
        vm.await_ticks(20)
        resumed = vm.witness().resumption(mark)
        assert resumed.boot == self._boot
        assert self._least < resumed.n <= self._most + 1 + resumed.odd
        assert vm.witness().torn() == []
        assert len(vm.witness().boots()) == 1


def test_in_time(ground: Ground, connection: Connection, vm: Vm) -> None:
    """Stopped as early as can be; a machine that is busy may need some snapshots until that is in time."""
    stopped = Stopped(vm)
    for number in range(10):
        taken = Taken(connection, vm, stopped, f"taken-{number}")
        assert taken.point.pause_us > 0
        if stopped.outcomes[-1]:
            break
    assert stopped.outcomes[-1], "none of them was in time"
    taken.check(ground)


@pytest.mark.parametrize("late", LATE, ids=lambda moment: str(moment.__name__))
def test_too_late_is_noticed_and_tried_again(ground: Ground, connection: Connection, vm: Vm, late: Moment) -> None:
    stopped = Stopped(vm, late)
    taken = Taken(connection, vm, stopped)
    assert stopped.outcomes[0] is False
    assert len(stopped.outcomes) > 1
    taken.check(ground)


def test_after_some_misses_the_guest_is_stopped_first(ground: Ground, connection: Connection, vm: Vm) -> None:
    stopped = Stopped(vm, *LATE[1:4])
    taken = Taken(connection, vm, stopped)
    assert stopped.outcomes == [False, False, False, True]
    taken.check(ground)


def test_a_guest_that_its_owner_has_paused_stays_paused(ground: Ground, connection: Connection, vm: Vm) -> None:
    fixer = LibvirtPointInTime(connection, merge_timeout_s=60, pauser=Pauser(Stopped(vm).watch))
    ground.virsh("suspend", vm.name)
    frozen = {target: vm.disk_path(target) for target in TARGETS}
    request = request_for(vm, frozen, "taken")
    point = fixer.fix_point(request)
    assert ground.domstate(vm) == "paused"
    assert point.pause_us == 0, "it stood still before"
    finish(fixer, LibvirtRestorer(connection), request, point)
    ground.virsh("resume", vm.name)
    vm.await_ticks(10)


def test_a_guest_that_its_owner_pauses_meanwhile_stays_paused(ground: Ground, connection: Connection, vm: Vm) -> None:
    """While QEMU goes over its memory, before we stop it ourselves."""

    def its_owner_pauses_it(_monitor: Monitor) -> None:
        ground.virsh("suspend", vm.name)

    stopped = Stopped(vm, *[its_owner_pauses_it] * 3)
    fixer = LibvirtPointInTime(connection, merge_timeout_s=60, pauser=Pauser(stopped.watch))
    request = request_for(vm, {target: vm.disk_path(target) for target in TARGETS}, "taken")
    point = fixer.fix_point(request)
    assert ground.domstate(vm) == "paused"
    finish(fixer, LibvirtRestorer(connection), request, point)
    ground.virsh("resume", vm.name)
    vm.await_ticks(10)
    assert vm.witness().torn() == []


def must_notice_and_take_back(ground: Ground, vm: Vm, fixer: LibvirtPointInTime, request: PointRequest) -> None:
    """Somebody lets the guest run inside the capture: it is refused, and all is as it was but for the guest, which runs."""
    with pytest.raises(Failed, match="somebody let the guest run"):
        fixer.fix_point(request)
    fixer.abandon_point(request, lambda _target: None)
    assert {target: vm.disk_path(target) for target in TARGETS} == {s.target: s.frozen_path for s in request.switches}
    assert ground.domstate(vm) == "running"
    vm.await_ticks(10)
    assert vm.witness().torn() == []


def test_a_guest_that_somebody_lets_run_in_its_pause_is_noticed(
    ground: Ground, connection: Connection, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its disks would be of one moment and its memory of a later one."""
    await_tracking = migration.await_tracking

    def behind_the_switch(*arguments: Any) -> None:
        ground.virsh("resume", vm.name)
        vm.await_ticks(1)
        await_tracking(*arguments)

    monkeypatch.setattr(migration, "await_tracking", behind_the_switch)
    fixer = LibvirtPointInTime(connection, merge_timeout_s=60, pauser=Pauser(Stopped(vm, *LATE[1:4]).watch))
    request = request_for(vm, {target: vm.disk_path(target) for target in TARGETS}, "taken")
    must_notice_and_take_back(ground, vm, fixer, request)


def test_a_guest_of_its_owner_s_pause_that_he_lets_run_meanwhile_is_noticed(
    ground: Ground, connection: Connection, vm: Vm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """He may at any time; then it is no moment of disks and memory together, and it is his to let run."""
    await_tracking = migration.await_tracking

    def its_owner_lets_it_run(*arguments: Any) -> None:
        await_tracking(*arguments)
        ground.virsh("resume", vm.name)

    monkeypatch.setattr(migration, "await_tracking", its_owner_lets_it_run)
    fixer = LibvirtPointInTime(connection, merge_timeout_s=60, pauser=Pauser(Stopped(vm).watch))
    frozen = {target: vm.disk_path(target) for target in TARGETS}
    request = replace(request_for(vm, frozen, "taken"), vm_was_running=False)
    ground.virsh("suspend", vm.name)
    must_notice_and_take_back(ground, vm, fixer, request)


def test_what_fails_behind_the_stop_leaves_the_guest_running(ground: Ground, connection: Connection, vm: Vm) -> None:
    """The overlay is not there: libvirt refuses the switch, in the pause; taking it back leaves all as it was."""
    fixer = LibvirtPointInTime(connection, merge_timeout_s=60, pauser=Pauser(Stopped(vm, at_once).watch))
    frozen = {target: vm.disk_path(target) for target in TARGETS}
    request = request_for(vm, frozen, "taken")
    Path(request.switches[1].overlay_path).unlink()
    with pytest.raises(Exception, match=Path(request.switches[1].overlay_path).name):
        fixer.fix_point(request)
    assert ground.domstate(vm) == "running"
    fixer.abandon_point(request, lambda _target: None)
    assert {target: vm.disk_path(target) for target in TARGETS} == frozen
    assert fixer.probe_capture(vm.uuid).state != "active"
    vm.await_ticks(10)
    assert vm.witness().torn() == []


def test_a_guest_that_somebody_lets_run_while_all_of_its_memory_is_written_is_noticed(ground: Ground) -> None:
    """One that lives on a file stands still for that long, under emulation: what it writes meanwhile QEMU would not save."""
    vm = ground.running("lives-on-a-file", memory_mib=768, fill_mib=500)
    vm.create("first", memory=True)
    vm.rollback("first", memory=True)
    vm.await_ticks(5)
    asked = ask(vm, "create", name="second", domain_memory=True)
    eventually(lambda: ground.domstate(vm) == "paused", "it stands still", poll_s=0.01)
    ground.virsh("resume", vm.name)
    assert "somebody let the guest run" in asked.must_fail(ErrorCase.HYPERVISOR_FAILED)
    assert vm.names() == ["first"]
    vm.await_ticks(10)
    assert vm.witness().torn() == []
