"""What is told of the current state, and of what an act would cost, on machines that are shut off."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stillframe.domain.errors import ErrorCase
from stillframe.ports.metadata import OperationFilter, OperationRow, OperationState, Slot
from support.damage import layers_of, occupied, rows
from support.offline import domain_xml, file_disk, image, lot, offline, write
from support.service import Service, Vm

VMS = 4


@pytest.fixture(scope="module")
def vms() -> Iterator[list[Vm]]:
    """Of a service of their own: some are left with damaged files."""
    service = Service()
    try:
        lots = [lot(service, f"seen-{number}") for number in range(VMS)]
        disks = [file_disk(image(one.directory / "disk-0.qcow2"), "vda") for one in lots]
        offline(service, *[("define", domain_xml(one, [disk])) for one, disk in zip(lots, disks, strict=True)])
        service.start()
        yield [one.vm(service) for one in lots]
    finally:
        service.destroy()


@pytest.fixture
def vm(vms: list[Vm]) -> Vm:
    return vms.pop()


def now_of(vm: Vm) -> Any:
    return vm.service.get("/v1/stillframe/vm/overview", cluster_uuid="", compute_uuid=vm.uuid)["now"]


def consequences(vm: Vm, name: str) -> Any:
    return vm.service.get("/v1/stillframe/snapshot/consequences", cluster_uuid="", compute_uuid=vm.uuid, name=name)


def picture(vm: Vm) -> str:
    where = {"cluster_uuid": "", "compute_uuid": vm.uuid}
    return vm.service.response("GET", "/v1/compute/vsd/snapshot/tree.svg", params=where).text


def went_back(vm: Vm, name: str, at: int, plan: str = "{}") -> None:
    """A rollback that another version noted."""
    done, new = OperationState.DONE, str(uuid.uuid4())
    row = OperationRow(new, vm.uuid, Slot.EXCLUSIVE, "rollback", done, plan, (), at, at, "", snapshot=name)
    with rows(vm.service) as tx:
        tx.journal.open(row)


def plan_of(vm: Vm) -> str:
    """Of the rollback that was noted last."""
    with rows(vm.service) as tx:
        return next(row.plan for row in tx.journal.page(OperationFilter(vm_uuid=vm.uuid)) if row.kind == "rollback")


def unreadable(path: str) -> None:
    """The storage fails at this file, whoever asks."""
    Path(path).unlink()
    Path(path).symlink_to(path)


def test_what_is_merged_is_what_the_live_layer_holds_now(vm: Vm) -> None:
    """Its size on record is from when another was merged into it."""
    vm.create("a")
    vm.create("b")
    vm.delete("b")
    head = layers_of(vm)[0].path
    before = occupied(head)
    write(head, 0x5A, length="4M")
    (merge,) = consequences(vm, "a")["delete"]["merges"]
    assert merge == {"disk": "vda", "bytes": occupied(head)}
    assert merge["bytes"] > before


def test_the_current_state_began_with_a_rollback_to_what_it_stands_on(vm: Vm) -> None:
    ctime = vm.create("a")["ctime"]
    vm.create("b")
    vm.rollback("b")
    plan = plan_of(vm)
    vm.delete("b")
    went_back(vm, "b", ctime + 1000)
    went_back(vm, "a", ctime + 2000, plan)
    assert now_of(vm)["since"] == ctime
    went_back(vm, "a", ctime + 500)
    assert now_of(vm)["since"] == ctime + 500


def test_what_was_written_counts_also_where_nothing_is_descended_from(vm: Vm) -> None:
    assert now_of(vm) == {"head": "", "since": 0, "changed_bytes": 0}
    vm.create("a")
    vm.create("b")
    vm.rollback("a")
    vm.delete("a")
    head = layers_of(vm)[0].path
    write(head, 0x5A, length="4M")
    assert now_of(vm) == {"head": "", "since": 0, "changed_bytes": occupied(head)}
    said = picture(vm)
    assert "MiB changed" in said
    assert "no snapshot yet" not in said
    # what is left after the last of them holds nothing that a rollback could throw away
    vm.delete("b")
    assert now_of(vm)["changed_bytes"] == 0


def test_a_file_that_cannot_be_looked_at_hides_nothing_else(vm: Vm) -> None:
    vm.create("a")
    unreadable(layers_of(vm)[0].path)
    seen = vm.service.get("/v1/stillframe/vm/overview", cluster_uuid="", compute_uuid=vm.uuid)
    assert [snapshot["name"] for snapshot in seen["snapshots"]] == ["a"]
    assert seen["now"]["changed_bytes"] is None
    assert "size not known" in picture(vm)
    told = consequences(vm, "a")
    assert told["rollback"]["changed_bytes"] is None
    words = ErrorCase.STORAGE_FAILED.value
    assert (told["delete"]["allowed"], told["delete"]["message"]) == (False, words.message)
    assert layers_of(vm)[0].path in told["delete"]["desc"]
