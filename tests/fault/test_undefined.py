"""Work was left on a VM, and then somebody undefined it: it waits, quietly, and is finished when the VM is defined again."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from stillframe.domain.errors import ErrorCase
from support.checksums import checksum_image
from support.lab import Lab, define, make_vm, settle, virsh
from support.ledger import check_census, checksums, head_checksums, rows
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm, eventually
from support.struck import At

pytestmark = pytest.mark.guest


@pytest.fixture(autouse=True)
def spared(lab: Lab) -> Iterator[None]:
    yield
    lab.service.spare()


@dataclass(frozen=True)
class Way:
    """How work is left: what fails once, what fails always, what is asked; ``head``: on whose disks the VM is in the end."""

    once: tuple[At, ...]
    always: At
    call: str
    name: str
    head: str


WAYS = {
    "rollback": Way((), At("rollback", "power off", "before"), "rollback", "base", "base"),
    "rollback taken back": Way(
        (At("rollback", "commit", "acted"),), At("rollback", "define", "undoing"), "rollback", "base", ""
    ),
    "delete": Way((), At("delete", "merge *: commit", "before"), "delete", "base", ""),
    "create taken back": Way(
        (At("create", "make durable", "acted"),), At("create", "fix the point in time", "undoing"), "create", "new", ""
    ),
}


def prepare(lab: Lab, name: str) -> Vm:
    """Off, on "goal", on "base", and something written since each."""
    vm = make_vm(lab.daemon, lab.service, name, disks=1, size="1M")
    for number, snapshot in enumerate(("base", "goal"), 1):
        write(vm.disk_path(), number, offset=f"{64 * number}k", length="64k")
        vm.create(snapshot)
    write(vm.disk_path(), 3, offset="256k", length="64k")
    return vm


def leave(lab: Lab, vm: Vm, way: Way) -> None:
    lab.service.strike(fail=way.once, always=(way.always,))
    must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/{way.call}", name=way.name, domain_memory=False)


def undefine(lab: Lab, vm: Vm) -> str:
    """Its definition until now."""
    definition = virsh(lab.daemon, "dumpxml", "--inactive", vm.name)
    virsh(lab.daemon, "undefine", vm.name)
    return definition


def define_again(lab: Lab, vm: Vm, definition: str) -> None:
    assert vm.console is not None
    define(lab.daemon, vm.console.parent, definition)


def last(lab: Lab, vm: Vm) -> tuple[str, str, str]:
    """(uuid, state, error) of the newest operation on it."""
    (row,) = rows(
        lab.service, "SELECT uuid, state, error FROM operations WHERE vm_uuid = ? ORDER BY id DESC LIMIT 1", vm.uuid
    )
    return row[0], row[1], row[2]


def is_waiting(lab: Lab, vm: Vm) -> bool:
    _uuid, state, error = last(lab, vm)
    return state == "left" and "is defined again" in error


def findings(lab: Lab, vm: Vm) -> list[dict[str, Any]]:
    found = lab.service.get("/v1/stillframe/doctor")["findings"]
    return [finding for finding in found if vm.uuid in (finding["compute_uuid"], finding["uuid"])]


@pytest.mark.parametrize("name", WAYS)
def test_defined_again_it_is_finished(lab: Lab, name: str) -> None:
    way, vm = WAYS[name], prepare(lab, name)
    exact, head = checksums(vm), head_checksums(vm)
    leave(lab, vm, way)
    definition = undefine(lab, vm)
    lab.service.spare()
    eventually(lambda: is_waiting(lab, vm), "it waits")
    check_files(lab, vm)
    define_again(lab, vm, definition)
    settle(lab.service)
    now = checksums(vm)
    assert now == {snapshot: exact[snapshot] for snapshot in now}
    assert head_checksums(vm) == (exact[way.head] if way.head else head)
    check_is_as_new(lab, vm)


def check_files(lab: Lab, vm: Vm) -> None:
    """Every layer that a row names is there: the VM may be defined again on any of them."""
    query = "SELECT l.path FROM layers l JOIN volumes v ON v.uuid = l.volume_uuid WHERE v.vm_uuid = ?"
    assert [path for (path,) in rows(lab.service, query, vm.uuid) if not Path(path).exists()] == []


def check_is_as_new(lab: Lab, vm: Vm) -> None:
    check_census(lab.service)
    assert lab.service.get("/v1/stillframe/doctor")["findings"] == []
    vm.create("afterwards")
    vm.start()
    vm.shutoff()


@pytest.mark.parametrize("noticed", [False, True], ids=["at once", "later"])
@pytest.mark.parametrize("name", ["delete", "create taken back"])
def test_defined_again_on_old_disks_it_loses_nothing(lab: Lab, name: str, noticed: bool) -> None:
    """As from the file that it was once defined from: what it has written since is in files that this does not name."""
    way, vm = WAYS[name], prepare(lab, f"old {name} {noticed}")
    leave(lab, vm, way)
    write(vm.disk_path(), 4, offset="512k", length="64k")
    newest, exact, head = vm.disk_path(), checksums(vm), checksum_image(vm.disk_path())
    definition = undefine(lab, vm)
    if noticed:
        eventually(lambda: is_waiting(lab, vm), "it waits")
    define_again(lab, vm, as_it_was_made(definition, newest, vm))
    lab.service.spare()
    eventually(lambda: is_kept(lab, vm, newest), "it is not finished, and says why")
    assert checksum_image(newest) == head
    check_files(lab, vm)
    (finding,) = [finding for finding in findings(lab, vm) if finding["kind"] == "operation_left"]
    assert newest in finding["desc"]
    virsh(lab.daemon, "start", "--paused", vm.name)
    lab.service.post("/v1/stillframe/doctor/repair")
    virsh(lab.daemon, "destroy", vm.name)
    assert checksum_image(newest) == head
    define_again(lab, vm, definition)
    lab.service.post("/v1/stillframe/doctor/repair")
    settle(lab.service)
    now = checksums(vm)
    assert now == {snapshot: exact[snapshot] for snapshot in now}
    assert head_checksums(vm) == {"vda": head}
    check_is_as_new(lab, vm)


def as_it_was_made(definition: str, newest: str, vm: Vm) -> str:
    assert vm.console is not None
    assert newest in definition
    return definition.replace(newest, str(vm.console.parent / "disk-0.qcow2"))


def is_kept(lab: Lab, vm: Vm, newest: str) -> bool:
    _uuid, state, error = last(lab, vm)
    return state == "left" and newest in error


def test_a_rollback_puts_a_definition_on_old_disks_right(lab: Lab) -> None:
    way, vm = WAYS["rollback"], prepare(lab, "old rollback")
    exact = checksums(vm)
    leave(lab, vm, way)
    newest = virsh(lab.daemon, "domblklist", vm.name).split()[-1]
    definition = undefine(lab, vm)
    define_again(lab, vm, as_it_was_made(definition, newest, vm))
    lab.service.spare()
    settle(lab.service)
    assert (checksums(vm), head_checksums(vm)) == (exact, exact["base"])
    check_is_as_new(lab, vm)


def test_when_it_stays_away_it_is_named_once_and_nobody_hears_of_it_again(lab: Lab) -> None:
    vm, other = prepare(lab, "away"), prepare(lab, "there")
    way = WAYS["rollback"]
    exact, head = checksums(vm), head_checksums(vm)
    leave(lab, vm, way)
    definition = undefine(lab, vm)
    # another one that cannot be finished, and is tried again and again, is the clock
    leave(lab, other, way)
    operation = last(lab, vm)[0]

    def said() -> list[str]:
        return [line for line in lab.service.log_path.read_text().splitlines() if operation in line]

    eventually(lambda: any("defined again" in line for line in said()), "it waits, and says so")
    heard, (_operation, state, error) = said(), last(lab, vm)
    attempts = lab.service.moments().count(way.always)
    eventually(lambda: lab.service.moments().count(way.always) >= attempts + 2, "the other is tried", timeout_s=120)
    assert said() == heard, "tried in vain, and said so again"
    assert last(lab, vm) == (operation, state, error)
    (finding,) = findings(lab, vm)
    assert (finding["kind"], finding["repairable"]) == ("vm_unknown", False)
    assert operation in finding["desc"]
    assert vm.name in finding["desc"]
    assert set(finding["snapshots"]) == {"base", "goal"}
    (task,) = lab.service.get(f"{SNAPSHOT}/task/list", compute_uuid=vm.uuid, state="left")["list"]
    assert "defined again" in task["error"]

    lab.service.spare()
    settle_but(lab, vm)
    report = lab.service.post("/v1/stillframe/doctor/repair")
    assert [one for one in (*report["repaired"], *report["not_repaired"]) if one["compute_uuid"] == vm.uuid] == []
    lab.service.stop()
    lab.service.start()
    assert findings(lab, vm) == [finding]
    assert last(lab, vm) == (operation, state, error)
    check_files(lab, vm)

    define_again(lab, vm, definition)
    settle(lab.service)
    assert (checksums(vm), head_checksums(vm)) == (exact, exact["base"])
    assert head != exact["base"]
    check_is_as_new(lab, vm)


def test_memory_that_is_written_already_is_kept_when_its_vm_goes(lab: Lab) -> None:
    """Undefined while it runs it lives on without a definition, and is gone when it is switched off."""
    vm = lab.running
    with lab.service.held(At("save_memory", "release the capture", "before")) as hold:
        vm.create("kept", memory=True, wait=False)
        hold.wait()
        definition = undefine(lab, vm)
        virsh(lab.daemon, "destroy", vm.name)
    query = "SELECT m.status FROM memory_states m JOIN snapshots s ON s.uuid = m.snapshot_uuid WHERE s.name = 'kept'"
    eventually(lambda: rows(lab.service, query) == [("available",)], "it is saved")
    define_again(lab, vm, definition)
    vm.rollback("kept", memory=True)
    vm.await_ticks(5)
    assert vm.witness().torn() == []
    vm.delete("kept")
    check_census(lab.service)


def settle_but(lab: Lab, away: Vm) -> None:
    query = "SELECT kind FROM operations WHERE vm_uuid <> ? AND (lock_key IS NOT NULL OR state = 'left')"
    eventually(lambda: not rows(lab.service, query, away.uuid), "the others have ended", timeout_s=120)
