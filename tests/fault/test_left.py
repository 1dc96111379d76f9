"""What is left is finished before anything new begins on the VM, by itself while the service runs, and at the next start."""

from __future__ import annotations

import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import Lab, define, interrupt, make_vm, settle, virsh
from support.ledger import check_census, checksums, head_checksums, rows
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm, eventually
from support.struck import At

pytestmark = pytest.mark.guest
INTERRUPTED = 20
LONG_MERGES = 5


def test_a_vm_does_not_start_on_disks_that_a_rollback_is_leaving(lab: Lab) -> None:
    """Its old head is about to go: what it wrote there would be lost without a word."""
    vm = lab.off
    write(vm.disk_path(), 9, length="64k")
    lab.service.strike(always=(At("rollback", "power off", "before"),))
    must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/rollback", name="base")
    eventually(lambda: bool(left(lab)), "it is left")
    # the mender may be trying at this very moment: then the VM is busy, which is as good a refusal
    answer = vm.service.raw("POST", "/v1/compute/start", json={"compute_uuid": vm.uuid})
    assert answer["scode"] in (ErrorCase.LEFT_BEHIND.code, ErrorCase.VM_BUSY.code), answer
    assert vm.state() == "shutoff"
    lab.service.spare()
    settle(lab.service)
    assert vm.head()["name"] == "base"
    assert head_checksums(vm) == lab.exact[vm.uuid]["base"]
    check_census(lab.service)
    vm.start()
    vm.shutoff()
    vm.rollback("goal")


def left(lab: Lab) -> list[tuple[str]]:
    return rows(lab.service, "SELECT uuid FROM operations WHERE state = 'left'")


def test_a_start_with_many_interrupted_operations_is_ready_at_once_and_finishes_them(lab: Lab) -> None:
    """Their VMs are busy until they are finished; all others, and reading, are there from the first moment."""
    service = lab.service
    vms = [make_vm(lab.daemon, service, f"crowd-{number:02}", disks=1, size="1M") for number in range(INTERRUPTED)]
    for vm in vms:
        vm.create("base")
        write(vm.disk_path(), 3, length="64k")
    exact = [(checksums(vm), head_checksums(vm)) for vm in vms]
    moments = (At("create", "make durable", "acted"),)
    with ThreadPoolExecutor(INTERRUPTED) as clients, service.held(*moments, every=True):
        sent = [clients.submit(create, vm) for vm in vms]
        eventually(lambda: len(under_way(lab)) == INTERRUPTED, "all of them stand still", timeout_s=60)
        service.kill()
        assert [answer.result() for answer in sent] == [None] * INTERRUPTED
    service.start()
    settle(service)
    assert [(checksums(vm), head_checksums(vm)) for vm in vms] == exact
    check_census(service)
    for vm in vms:
        vm.create("new")


def create(vm: Vm) -> object:
    return vm.service.send(f"{SNAPSHOT}/create", cluster_uuid="", compute_uuid=vm.uuid, name="new", domain_memory=False)


def under_way(lab: Lab) -> list[tuple[str]]:
    query = "SELECT o.uuid FROM operations o JOIN operation_steps s ON s.operation_uuid = o.uuid WHERE s.step = ?"
    return rows(lab.service, f"{query} AND o.lock_key IS NOT NULL", "fix the point in time")


def refuse(vm: Vm, call: str, **body: object) -> int:
    """The scode of a request, asked again while the mender is at the VM."""
    path = call if call.startswith("/") else f"{SNAPSHOT}/{call}"

    def ask() -> int:
        return int(vm.service.raw("POST", path, json={"compute_uuid": vm.uuid, **body})["scode"])

    scode = ask()
    while scode == ErrorCase.VM_BUSY.code:
        scode = ask()
    return scode


def test_what_others_finished_meanwhile_is_not_done_again(lab: Lab) -> None:
    """The mender looks into the journal, and is held up before it comes to these VMs' turn; requests finish them first."""
    service = lab.service
    vms = [make_vm(lab.daemon, service, f"turn-{letter}", disks=1, size="1M") for letter in "abc"]
    undone = vms[2]
    for vm in vms:
        for name, pattern in (("base", 1), ("goal", 2)):
            write(vm.disk_path(), pattern, length="64k")
            vm.create(name)
        write(vm.disk_path(), 3, length="64k")
    stuck = At("rollback", "power off", "before")
    service.strike(always=(stuck,))
    for vm in vms[:2]:
        must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/rollback", name="base")
    service.strike(fail=(At("rollback", "commit", "acted"),), always=(stuck, At("rollback", "define", "undoing")))
    must_refuse_post(undone, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/rollback", name="base")
    with service.held(stuck) as hold:
        hold.wait()
        eventually(lambda: len(under_way_now(lab)) == 1, "only the one that is held up is under way")
        first, ahead = sorted(vms[:2], key=lambda vm: vm.uuid not in under_way_now(lab))
        for vm in (ahead, undone):
            eventually(lambda vm=vm: refuse(vm, "create", name="new") in (0, ErrorCase.NAME_TAKEN.code), "it is free")
            write(vm.disk_path(), 7, length="64k")
        exact = {vm.uuid: (checksums(vm), vm.disk_path(), head_checksums(vm)) for vm in (ahead, undone)}
    settle(service)
    assert first.head()["name"] == "base"
    for vm in (ahead, undone):
        assert vm.head()["name"] == "new"
        assert (checksums(vm), vm.disk_path(), head_checksums(vm)) == exact[vm.uuid]
    check_census(service)
    assert service.get("/v1/stillframe/doctor")["findings"] == []


def under_way_now(lab: Lab) -> list[str]:
    """The VMs on which something works."""
    return [uuid for (uuid,) in rows(lab.service, "SELECT vm_uuid FROM operations WHERE lock_key IS NOT NULL")]


@pytest.mark.parametrize("step", ["merge *: repoint", "merge *: record", "merge *: drop", "drop memory and screenshot"])
def test_a_delete_that_has_begun_is_finished_and_not_forgotten(lab: Lab, step: str) -> None:
    """Whoever asks meanwhile is told so; nothing is left over once it can be finished."""
    service = lab.service
    vm = make_vm(lab.daemon, service, f"half {step.replace('*', 'n').replace(':', '')}", disks=1, size="1M")
    for name, pattern in (("base", 1), ("doomed", 2)):
        write(vm.disk_path(), pattern, length="64k")
        vm.create(name)
    write(vm.disk_path(), 3, length="64k")
    exact, head = checksums(vm)["base"], head_checksums(vm)
    service.strike(always=(At("delete", step, "before"),))
    must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/delete", name="doomed")
    assert refuse(vm, "create", name="x") == ErrorCase.LEFT_BEHIND.code
    assert refuse(vm, "/v1/compute/start") == ErrorCase.LEFT_BEHIND.code
    service.spare()
    settle(service)
    assert (checksums(vm), head_checksums(vm)) == ({"base": exact}, head)
    check_census(service)
    assert service.get("/v1/stillframe/doctor")["findings"] == []
    vm.create("x")
    vm.delete("base")


def test_a_vm_does_not_start_on_a_frozen_layer(lab: Lab) -> None:
    vm = make_vm(lab.daemon, lab.service, "astray", disks=1, size="1M")
    frozen = vm.disk_path()
    vm.create("base")
    head = vm.disk_path()
    xml = virsh(lab.daemon, "dumpxml", "--inactive", vm.name)
    assert vm.console is not None
    define(lab.daemon, vm.console.parent, xml.replace(head, frozen))
    must_refuse_post(vm, ErrorCase.DISK_DRIFTED, "/v1/compute/start")
    assert vm.state() == "shutoff"
    define(lab.daemon, vm.console.parent, xml)
    vm.start()
    vm.shutoff()


def test_a_guest_that_was_paused_when_the_service_died_runs_first_of_all(lab: Lab) -> None:
    """As in the pause of a snapshot: nothing but the journal knows that we had stopped it."""
    service, vm = lab.service, lab.running
    with ThreadPoolExecutor(1) as client, service.held(At("create", "fix the point in time", "before")) as hold:
        sent = client.submit(create, vm)
        hold.wait()
        virsh(lab.daemon, "suspend", vm.name)
        service.kill()
        assert sent.result() is None
    service.forget_moments()
    service.start()
    assert vm.state() == "running"
    vm.await_ticks(3)
    settle(service)
    came = [str(at) for at in service.moments()]
    assert came[0].startswith("recovery: release guests"), "before any other operation"
    assert came[1].startswith("recovery: release guests")
    assert sorted(vm.names()) == ["base", "goal"]  # both may be of the same second, and then the list is by name
    check_census(service)


def test_a_rollback_that_lost_its_memory_says_so_to_who_asks_later(lab: Lab) -> None:
    service, vm = lab.service, lab.running
    vm.create("soft", memory=True)
    path = Path(vm.get("soft")["domain_remote_url"].removeprefix("file://"))
    service.strike(kill=At("rollback", "commit", "noted"))
    assert service.send(f"{SNAPSHOT}/rollback", compute_uuid=vm.uuid, name="soft", domain_memory=True) is None
    service.await_death()
    service.spare()
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(path.stat().st_size // 2)
        file.write(b"\xff" * 64)
    service.start()
    settle(service)
    ((error,),) = rows(service, "SELECT error FROM operations WHERE kind = 'rollback' ORDER BY id DESC LIMIT 1")
    assert "memory state" in error
    assert vm.state() == "shutoff"
    assert vm.head()["name"] == "soft"
    vm.rollback("goal", memory=True)
    vm.await_ticks(3)
    vm.delete("soft")


@pytest.mark.parametrize("phase", ["before", "acted"])
def test_a_vm_that_was_renamed_meanwhile_keeps_its_new_name(lab: Lab, phase: str) -> None:
    vm = make_vm(lab.daemon, lab.service, f"old-name-{phase}", disks=1, size="1M")
    vm.create("base")
    before = (vm.disk_path(), head_checksums(vm))
    interrupt(lab.service, vm, At("rollback", "define", phase), f"{SNAPSHOT}/rollback", name="base")
    virsh(lab.daemon, "domrename", vm.name, f"new-name-{phase}")
    lab.service.start()
    settle(lab.service)
    assert vm.inspect()["name"] == f"new-name-{phase}"
    assert (vm.disk_path(), head_checksums(vm)) == before
    vm.rollback("base")
    check_census(lab.service)


def test_what_somebody_edited_meanwhile_is_not_taken_back_with_what_was_never_defined(lab: Lab) -> None:
    vm = make_vm(lab.daemon, lab.service, "edited", disks=1, size="1M")
    vm.create("base")
    interrupt(lab.service, vm, At("rollback", "define", "before"), f"{SNAPSHOT}/rollback", name="base")
    virsh(lab.daemon, "setmaxmem", vm.name, "160M", "--config")
    lab.service.start()
    settle(lab.service)
    assert virsh(lab.daemon, "dominfo", vm.name).count(f"{160 << 10} KiB") == 1


def test_a_vm_that_was_undefined_meanwhile_does_not_come_back(lab: Lab, tmp_path: Path) -> None:
    service = lab.service
    vm = make_vm(lab.daemon, service, "undefined", disks=1, size="1M")
    vm.create("base")
    interrupt(lab.service, vm, At("rollback", "define", "before"), f"{SNAPSHOT}/rollback", name="base")
    definition = virsh(lab.daemon, "dumpxml", "--security-info", vm.name)
    virsh(lab.daemon, "undefine", vm.name)
    service.start()
    eventually(lambda: not under_way_on(lab, vm), "the recovery has had its turn")
    assert vm.name not in virsh(lab.daemon, "list", "--all", "--name").split()
    define(lab.daemon, tmp_path, definition)
    settle(service)
    vm.rollback("base")
    check_census(service)


def under_way_on(lab: Lab, vm: Vm) -> list[tuple[str]]:
    return rows(lab.service, "SELECT uuid FROM operations WHERE vm_uuid = ? AND lock_key IS NOT NULL", vm.uuid)


def test_long_merges_of_others_keep_no_vm_from_being_recovered(lab: Lab) -> None:
    """More of them than recovery begins with at once."""
    service = lab.service
    vms = [make_vm(lab.daemon, service, f"merging-{number}", disks=1, size="1M") for number in range(LONG_MERGES)]
    last = make_vm(lab.daemon, service, "last", disks=1, size="1M")
    for vm in vms:
        vm.create("doomed")
    merge, stopped = At("delete", "merge *: commit", "before"), At("create", "make durable", "acted")
    with ThreadPoolExecutor(LONG_MERGES + 1) as clients:
        with service.held(merge, stopped, every=True) as hold:
            sent = [clients.submit(delete, vm) for vm in vms]
            eventually(lambda: service.moments().count(merge) >= LONG_MERGES, "all of them merge")
            sent.append(clients.submit(create, last))
            hold.wait(stopped)
            service.kill()
            assert [answer.result() for answer in sent] == [None] * len(sent)
        with service.held(merge, every=True):
            service.start()
            eventually(lambda: not under_way_on(lab, last), "the last one is recovered")
            assert all(under_way_on(lab, vm) for vm in vms), "the merges go on all the while"
            last.create("new")
    settle(service)
    check_census(service)


def delete(vm: Vm) -> object:
    return vm.service.send(f"{SNAPSHOT}/delete", cluster_uuid="", compute_uuid=vm.uuid, name="doomed")


def test_a_plan_that_cannot_be_read_is_said_and_keeps_nobody_else(lab: Lab) -> None:
    """As when an older version is started again over the unfinished work of a newer one."""
    service = lab.service
    vm, other = (make_vm(lab.daemon, service, name, disks=1, size="1M") for name in ("unread", "other"))
    interrupt(
        lab.service, vm, At("create", "make durable", "before"), f"{SNAPSHOT}/create", name="new", domain_memory=False
    )
    ((operation, plan),) = rows(service, "SELECT uuid, plan FROM operations WHERE lock_key IS NOT NULL")
    set_plan(lab, operation, plan.replace("vm_was_running", "was_it_running"))
    service.start()
    other.create("new")
    assert refuse(vm, "create", name="again", domain_memory=False) == ErrorCase.LEFT_BEHIND.code
    (finding,) = service.get("/v1/stillframe/doctor")["findings"]
    assert (finding["kind"], finding["uuid"]) == ("operation_left", operation)
    service.kill()
    set_plan(lab, operation, plan)
    service.start()
    settle(service)
    vm.create("new")
    check_census(service)


def set_plan(lab: Lab, operation: str, plan: str) -> None:
    """Behind the back of the service, which does not run."""
    with closing(sqlite3.connect(lab.service.state / "stillframe.db")) as database, database:
        database.execute("UPDATE operations SET plan = ? WHERE uuid = ?", (plan, operation))


@pytest.mark.parametrize("call", ["create", "delete"])
def test_a_state_that_libvirt_saved_meanwhile_can_still_come_back(lab: Lab, call: str) -> None:
    """As libvirt-guests saves it when the host is shut down. What is unfinished waits until the guest runs again."""
    service, vm = lab.service, lab.running
    if call == "delete":
        vm.create("x")
    boots = len(vm.witness().boots())
    moment = At("create", "make durable", "before") if call == "create" else At("delete", "merge *: commit", "before")
    interrupt(lab.service, vm, moment, f"{SNAPSHOT}/{call}", name="x")
    virsh(lab.daemon, "managedsave", vm.name)
    service.start()
    eventually(lambda: not under_way_on(lab, vm), "the recovery has had its turn")
    virsh(lab.daemon, "start", vm.name)
    vm.await_ticks(5)
    assert (len(vm.witness().boots()), vm.witness().torn()) == (boots, [])
    settle(service)
    assert set(vm.names()) == {"goal", "base"}
    lab.check_exact(vm)
    check_census(service)
    assert service.get("/v1/stillframe/doctor")["findings"] == []
