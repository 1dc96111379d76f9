"""A VM that somebody starts behind an interrupted operation, as libvirt's autostart does at boot: its guest runs on the
overlays that the operation made, and what it writes there exists nowhere else.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from stillframe.domain.errors import ErrorCase
from support.checksums import checksum_image
from support.ground import Ground
from support.lab import boots, define, interrupt, last_task, make_vm, open_service, settle, virsh
from support.ledger import check_census, checksums, head_checksums, rows
from support.offline import write
from support.service import SNAPSHOT, Vm
from support.struck import At, Striker

pytestmark = pytest.mark.guest
COMMIT, MOVE = At("rollback", "commit", "before"), At("rollback_volume", "move the head", "before")
MADE = At("create", "make durable", "before")
GUESTS = ("running", "off", "saved")


@pytest.fixture(scope="module")
def ground(striker: Striker) -> Iterator[Ground]:
    """On a daemon of its own: what it defines there is nobody's to put away."""
    with open_service(striker) as (daemon, service):
        service.start()
        yield Ground(daemon, service)


@pytest.fixture
def vm(ground: Ground, request: pytest.FixtureRequest) -> Vm:
    """A shut-off VM with snapshots base and goal, and data of its own on top."""
    name = request.node.name.removeprefix("test_").replace("[", "-").rstrip("]")
    vm = make_vm(ground.daemon, ground.service, name, disks=1)
    for number, snapshot in enumerate(("base", "goal")):
        write(vm.disk_path(), number + 1, offset="4M", length="64k")
        vm.create(snapshot)
    write(vm.disk_path(), 3, offset="4M", length="64k")
    return vm


def roll_back(ground: Ground, vm: Vm, at: At = COMMIT) -> str:
    """Returns the file that the disk is on then."""
    interrupt(ground.service, vm, at, f"{SNAPSHOT}/rollback", name="base", domain_memory=False)
    return disk_outside(ground, vm)


def roll_back_volume(ground: Ground, vm: Vm) -> str:
    entry = vm.get("base")["disk_snapshot_list"][0]
    interrupt(ground.service, vm, MOVE, "/v1/compute/volume/snapshot/rollback", disk_snapshot_list=[entry])
    return disk_outside(ground, vm)


def disk_outside(ground: Ground, vm: Vm) -> str:
    """As its definition says, past the service."""
    return virsh(ground.daemon, "domblklist", vm.name, "--inactive").split()[-1]


def start_outside(ground: Ground, vm: Vm, overlay: str, then: str = "running") -> str:
    """The guest writes; returns what its disk reads then, for one that writes no more."""
    virsh(ground.daemon, "start", vm.name)
    vm.await_ticks(5)
    if then != "running":
        virsh(ground.daemon, "destroy" if then == "off" else "managedsave", vm.name)
    return checksum_image(overlay) if then != "running" else ""


def check_sound(ground: Ground, vm: Vm, exact: dict[str, dict[str, str]]) -> None:
    """Every snapshot is what it was, nothing is over or missing, and the VM can be worked with, running or not."""
    assert checksums(vm) == exact
    check_census(ground.service)
    assert ground.service.get("/v1/stillframe/doctor")["findings"] == []
    vm.create("after")
    if vm.state() == "shutoff":
        vm.start()
    vm.await_ticks(5)
    assert vm.witness().torn() == []
    vm.shutoff()


@pytest.mark.parametrize("guest", GUESTS)
@pytest.mark.parametrize("call", [roll_back, roll_back_volume])
def test_rollback_before_its_point_of_no_return(ground: Ground, vm: Vm, call: Any, guest: str) -> None:
    """To undo it would throw away what the guest wrote: it is finished, because the guest ran on what was asked for."""
    exact = checksums(vm)
    overlay = call(ground, vm)
    written = start_outside(ground, vm, overlay, guest)
    started = boots(vm)
    ground.service.start()
    settle(ground.service)
    state, words = last_task(vm)
    assert state == "done"
    assert "started" in words
    assert vm.disk_path() == overlay
    assert vm.head()["name"] == ("base" if call is roll_back else "goal")
    assert vm.state() == ("running" if guest == "running" else "shutoff")
    if guest == "saved":
        virsh(ground.daemon, "start", vm.name)
    if guest == "off":
        assert head_checksums(vm) == {"vda": written}
    else:
        vm.await_ticks(5)
        assert boots(vm) == started, "the guest went on all the time"
    check_sound(ground, vm, exact)


@pytest.mark.parametrize("call", [roll_back, roll_back_volume])
def test_rollback_of_one_that_was_started_and_has_written_nothing(ground: Ground, vm: Vm, call: Any) -> None:
    exact, before, path = checksums(vm), head_checksums(vm), vm.disk_path()
    call(ground, vm)
    virsh(ground.daemon, "start", vm.name, "--paused")
    virsh(ground.daemon, "destroy", vm.name)
    ground.service.start()
    settle(ground.service)
    assert last_task(vm)[0] == "undone"
    assert (vm.disk_path(), head_checksums(vm)) == (path, before)
    check_sound(ground, vm, exact)


def test_rollback_past_its_point_of_no_return_does_not_switch_that_guest_off(ground: Ground, vm: Vm) -> None:
    exact = checksums(vm)
    overlay = roll_back(ground, vm, At("rollback", "power off", "before"))
    start_outside(ground, vm, overlay)
    started = boots(vm)
    ground.service.start()
    settle(ground.service)
    state, words = last_task(vm)
    assert (state, vm.state(), vm.disk_path()) == ("done", "running", overlay)
    assert "started" in words
    vm.await_ticks(5)
    assert boots(vm) == started
    check_sound(ground, vm, exact)


def test_a_cancelled_rollback_keeps_both_until_somebody_decides(ground: Ground, vm: Vm) -> None:
    """It may not be finished, because that was promised; nor undone, because that would lose what the guest wrote."""
    service, exact, before, path = ground.service, checksums(vm), head_checksums(vm), vm.disk_path()
    body = {"cluster_uuid": "", "compute_uuid": vm.uuid, "name": "base"}
    with ThreadPoolExecutor(1) as client, service.held(COMMIT) as hold:
        sent = client.submit(service.send, f"{SNAPSHOT}/rollback", **body)
        hold.wait()
        ((operation,),) = rows(service, "SELECT uuid FROM operations WHERE lock_key IS NOT NULL")
        overlay = disk_outside(ground, vm)
        start_outside(ground, vm, overlay)
        service.post(f"{SNAPSHOT}/task/cancel", cluster_uuid="", uuid=operation)
        hold.release()
        answer = sent.result()
    assert answer is not None
    assert answer["scode"] == ErrorCase.LEFT_BEHIND.code
    assert overlay in answer["desc"]
    virsh(ground.daemon, "destroy", vm.name)
    written = checksum_image(overlay)
    assert service.post("/v1/stillframe/doctor/repair")["repaired"] == []
    (finding,) = service.get("/v1/stillframe/doctor")["findings"]
    assert (finding["kind"], finding["uuid"]) == ("operation_left", operation)
    assert "cancelled" in finding["desc"]
    assert vm.console is not None
    define(ground.daemon, vm.console.parent, virsh(ground.daemon, "dumpxml", vm.name).replace(overlay, path))
    assert service.post("/v1/stillframe/doctor/repair")["repaired"] == []
    assert checksum_image(overlay) == written, "also when nothing names it"
    Path(overlay).rename(vm.console.parent / "kept.qcow2")
    settle(service)
    assert last_task(vm)[0] == "undone"
    assert (vm.disk_path(), head_checksums(vm)) == (path, before)
    check_sound(ground, vm, exact)


@pytest.mark.parametrize("guest", GUESTS[:2])
def test_create_before_its_point_of_no_return(ground: Ground, vm: Vm, guest: str) -> None:
    """What was written to the overlays goes back into the files below them: its undo loses nothing."""
    exact = checksums(vm)
    path = vm.disk_path()
    interrupt(ground.service, vm, MADE, f"{SNAPSHOT}/create", name="new", domain_memory=False)
    overlay = disk_outside(ground, vm)
    assert overlay != path
    written = start_outside(ground, vm, overlay, guest)
    started = boots(vm)
    ground.service.start()
    settle(ground.service)
    assert last_task(vm)[0] == "undone"
    assert sorted(vm.names()) == ["base", "goal"]
    assert (vm.disk_path(), disk_outside(ground, vm)) == (path, path)
    if guest == "off":
        assert head_checksums(vm) == {"vda": written}
    else:
        vm.await_ticks(5)
        assert boots(vm) == started, "the guest went on all the time"
    check_sound(ground, vm, exact)
