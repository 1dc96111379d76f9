"""Doctor on a real service: a healthy tree is clean, a tree damaged on purpose is named in full, and only what has one
right answer is repaired.
"""

from __future__ import annotations

import json
import sqlite3
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Shop, Take, is_saving, open_shop
from stillframe.ports.metadata import OperationRow, OperationState, Slot
from support import damage
from support.damage import Expected
from support.http_door import AnswerSchemas
from support.ledger import checksums
from support.offline import domain_xml, file_disk, image, lot, offline, write
from support.service import STILLFRAME, Service, Vm

DOCTOR = "/v1/stillframe/doctor"
REPAIR = "/v1/stillframe/doctor/repair"
SHUT_OFF = 24
DEPTH = 6  # of the branch that grows while doctor looks


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    """Few VMs: doctor looks at every file of every one, and the session's service has more than a hundred."""
    with open_shop({"one": 4, "raw": 1, "two": 1, "big": 1}) as shop:
        yield shop


@dataclass
class Ward:
    """A service of its own, with shut-off VMs that have the snapshots a and b, and one that has memory snapshots."""

    service: Service
    vms: list[Vm]
    guest: Vm

    def take(self) -> Vm:
        return self.vms.pop(0)


@pytest.fixture(scope="module")
def ward() -> Iterator[Ward]:
    service = Service()
    try:
        lots = []
        acts = []
        for number in range(SHUT_OFF + 1):
            one = lot(service, f"patient-{number:02}")
            lots.append(one)
            disk = file_disk(image(one.directory / "disk-0.qcow2"), "vda")
            acts.append(("define", domain_xml(one, [disk])))
        offline(service, *acts)
        service.start()
        service.on_answer = AnswerSchemas(service.http.get("/openapi.json").json()).check
        vms = [one.vm(service) for one in lots]
        for vm in vms[:-1]:
            vm.create("a")
            vm.create("b")
        guest = vms[-1]
        guest.start()
        guest.await_ticks(5)
        for name in ("stuck", "gone", "short", "bent"):
            guest.create(name, memory=True)
        guest.shutoff()
        yield Ward(service, vms[:-1], guest)
    finally:
        service.destroy()


def told(findings: list[dict[str, Any]]) -> Counter[Expected]:
    """What doctor said, in the form of what it should say."""
    return Counter(
        Expected(f["kind"], f["compute_uuid"], f["path"] or f["uuid"], f["size_bytes"], f["repairable"])
        for f in findings
    )


def contents(service: Service) -> dict[str, tuple[int, int, int, bytes]]:
    """Every file of VMs, store and libvirt's definitions: inode, size, time of change, contents."""
    found = {}
    for top in ("lot", "memory", "screenshots", "libvirt/etc"):
        for path in (service.state / top).rglob("*"):
            status = path.lstat()
            data = path.read_bytes() if path.is_file() else b""
            found[str(path)] = (status.st_ino, status.st_size, status.st_mtime_ns, data)
    return found


def dump(service: Service, without: tuple[str, ...] = ()) -> list[str]:
    with closing(sqlite3.connect(f"file:{service.state / 'stillframe.db'}?mode=ro", uri=True)) as database:
        return [
            line for line in database.iterdump() if not line.startswith(tuple(f'INSERT INTO "{t}"' for t in without))
        ]


def run_doctor(service: Service, *options: str) -> subprocess.CompletedProcess[str]:
    command = [STILLFRAME, "doctor", *options, "--state", str(service.state)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stdout + done.stderr
    return done


@pytest.mark.guest
def test_a_damaged_tree(ward: Ward) -> None:
    """All damage at once: named with its size, nothing changed by looking; repaired as far as may be; the rest stays."""
    service = ward.service
    assert service.get(DOCTOR, deep="true")["findings"] == []
    assert run_doctor(service).returncode == 0

    service.stop()
    repairable = [
        *damage.orphan(ward.take()),
        *damage.orphans_on_each_other(ward.take()),
        *damage.unfinished(ward.take()),
        *damage.wrong_backing(ward.take()),
        *damage.wrong_format(ward.take()),
        *damage.loose(ward.take()),
        *damage.orphan_memory(service),
        *damage.orphan_screenshots(service),
        *damage.stuck_memory(ward.guest, "stuck"),
    ]
    left, obstacle = damage.left_operation(ward.take())
    lasting = [
        *damage.missing_layer(ward.take()),
        *damage.unreadable_layer(ward.take()),
        *damage.marked_corrupt(ward.take()),
        *damage.wrong_backing_on_nothing(ward.take()),
        *damage.drifted(ward.take()),
        *damage.orphan_in_use(ward.take()),
        *damage.orphan_below_a_foreign_file(ward.take()),
        *damage.foreign_overlay(ward.take()),
        *damage.foreign_files(ward.take()),
        *damage.copied_layer(ward.take(), to=ward.take()),
        *damage.unknown_vm(ward.take()),
        *damage.missing_memory(ward.guest, "gone"),
        *damage.truncated_memory(ward.guest, "short"),
        *damage.missing_screenshot(ward.guest, "short"),
        *damage.damaged_screenshot(ward.guest, "gone"),
        *damage.damaged_configuration(ward.take(), "b"),
    ]
    deep = [*damage.damaged_inside(ward.take()), *damage.flipped_memory(ward.guest, "bent")]
    service.start()

    before, database = contents(service), dump(service, ("operations",))
    seen = service.get(DOCTOR)
    assert told(seen["findings"]) == Counter([*repairable, *left, *lasting])
    assert (seen["busy"], seen["repaired"], seen["not_repaired"]) == ([], [], [])
    assert told(service.get(DOCTOR, deep="true")["findings"]) == Counter([*repairable, *left, *lasting, *deep])
    shown = run_doctor(service)
    assert shown.returncode == 4
    for one in (*repairable, *left, *lasting):
        assert one.what in shown.stdout, one
        assert one.kind in shown.stdout
    assert json.loads(run_doctor(service, "--json").stdout) == seen
    assert contents(service) == before, "looking changed something"
    assert dump(service, ("operations",)) == database

    names = [(f["compute_name"] == "", f["compute_name"]) for f in seen["findings"] if f["compute_uuid"]]
    assert [one for one in names if not one[0]] == sorted(one for one in names if not one[0])
    for finding in seen["findings"]:
        assert finding["message"]
        assert finding["message_cn"]
        assert finding["remedy"]
        assert finding["remedy_cn"]

    done = run_doctor(service, "--repair", "--json")
    assert done.returncode == 4
    answer = json.loads(done.stdout)
    assert told(answer["repaired"]) == Counter(repairable)
    assert told(answer["not_repaired"]) == Counter(left)
    assert "not a regular file" in answer["not_repaired"][0]["why"]
    assert told(answer["findings"]) == Counter([*left, *lasting])

    after = contents(service)
    gone = {path for path in before if path not in after}
    deleted = {one.what for one in repairable if one.kind != "wrong_backing" and one.size_bytes}
    assert gone == deleted
    assert set(after) <= set(before)
    changed = {path for path in after if after[path] != before[path] and Path(path).is_file()}
    assert changed == {one.what for one in repairable if one.kind == "wrong_backing"}

    obstacle.rmdir()
    assert told(service.post(REPAIR, deep=True)["findings"]) == Counter([*lasting, *deep])
    assert told(service.get(DOCTOR)["findings"]) == Counter(lasting)
    assert ward.guest.get("stuck")["attr"]["status"] == "failed"
    for name in ("stuck", "gone", "short"):
        ward.guest.rollback(name)  # the disks are as good as ever


@pytest.mark.guest
def test_a_healthy_tree_is_clean(take: Take) -> None:
    """Running guests with memory snapshots and branches, a raw base, single disks rolled back; also after a crash."""
    vm, raw, still = take("one", boot=True), take("raw", boot=True), take("two")
    mine = {vm.uuid, raw.uuid, still.uuid, ""}

    def check() -> None:
        for deep in ("false", "true"):
            seen = vm.service.get(DOCTOR, deep=deep)
            assert [f for f in seen["findings"] if f["compute_uuid"] in mine] == []
            assert [busy for busy in seen["busy"] if busy["compute_uuid"] in mine] == []

    check()
    vm.create("a", memory=True)
    vm.create("b")
    vm.await_ticks(5)
    vm.rollback("a", memory=True)
    vm.create("c", memory=True)
    for name in ("a", "b", "c"):
        raw.create(name)
    check()
    vm.delete("b")
    raw.delete("b")
    raw.delete("a")
    check()
    for number, name in enumerate(("a", "b", "c")):
        write(still.disk_path(), number)
        still.create(name)
    still.rollback("a")
    entry = still.get("b")["disk_snapshot_list"][0]
    still.post("/v1/compute/volume/snapshot/rollback", disk_snapshot_list=[entry])
    still.delete("b")
    check()
    exact = checksums(still)
    assert vm.service.post(REPAIR)["repaired"] == []
    vm.service.kill()
    vm.service.start()
    check()
    assert checksums(still) == exact
    assert vm.witness().torn() == []


@pytest.mark.guest
def test_what_is_under_way_is_not_damage(take: Take) -> None:
    """While memory is being saved, snapshots come and go and merges run, doctor finds nothing."""
    vm, still = take("big", boot=True), take("one")
    mine = {vm.uuid, still.uuid, ""}
    looks = 0

    def look() -> None:
        nonlocal looks
        looks += 1
        seen = vm.service.get(DOCTOR)
        assert [f for f in seen["findings"] if f["compute_uuid"] in mine] == []

    vm.create("a", memory=True, wait=False)
    while is_saving(vm):
        look()
        if looks <= DEPTH:
            still.create(f"s{looks}")
    assert looks
    for name in still.names()[::2]:
        still.delete(name)
        look()
    vm.delete("a")
    look()


def test_a_busy_vm_is_said_and_left_alone(take: Take) -> None:
    vm = take("one")
    vm.create("a")
    orphan = Path(damage.overlay(vm))
    head = Path(damage.layers_of(vm)[0].path)
    hidden = head.rename(head.with_suffix(".away"))
    row = OperationRow(
        damage.new_uuid(), vm.uuid, Slot.EXCLUSIVE, "test", OperationState.PLANNING, "", (), 1700000000, None, ""
    )
    with damage.rows(vm.service) as tx:
        tx.journal.open(row)
    try:
        seen = vm.service.get(DOCTOR)
        (busy,) = [busy for busy in seen["busy"] if busy["compute_uuid"] == vm.uuid]
        assert (busy["compute_name"], busy["operation"], busy["since"]) == (vm.name, "test", 1700000000)
        assert [f["kind"] for f in seen["findings"] if f["compute_uuid"] == vm.uuid] == ["orphan_layer"]
        (refused,) = [f for f in vm.service.post(REPAIR)["not_repaired"] if f["path"] == str(orphan)]
        assert "another operation is running" in refused["why"]
        assert orphan.exists()
        assert vm.name in run_doctor(vm.service).stdout
    finally:
        hidden.rename(head)
        with damage.rows(vm.service) as tx:
            tx.journal.set_state(row.uuid, OperationState.REFUSED, at=1)
    assert str(orphan) in [f["path"] for f in vm.service.post(REPAIR)["repaired"]]
    assert not orphan.exists()
    assert [f for f in vm.service.get(DOCTOR)["findings"] if f["compute_uuid"] == vm.uuid] == []


def test_an_orphan_that_a_qemu_has_open_stays(take: Take) -> None:
    vm = take("one")
    vm.create("a")
    path = damage.overlay(vm)
    with subprocess.Popen(["qemu-io", "-f", "qcow2", path], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdout.read(len("qemu-io> "))
        (refused,) = [f for f in vm.service.post(REPAIR)["not_repaired"] if f["path"] == path]
        assert "open in a running QEMU" in refused["why"]
        assert Path(path).exists()
        holder.stdin.close()
    assert path in [f["path"] for f in vm.service.post(REPAIR)["repaired"]]
    assert not Path(path).exists()
