"""What every metadata adapter promises about limits, use and reservations, on real SQLite and real PostgreSQL."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.quota import Demand, TenantLimits, Used
from stillframe.domain.snapshot import CaptureMode, DiskSnapshot, MemoryState, MemoryStatus, Snapshot
from stillframe.operations.quotas import reserve
from stillframe.ports.metadata import Metadata, OperationRow, OperationState, Slot
from stillframe.ports.quotas import Unmeasured

if TYPE_CHECKING:
    pass

VM, OTHER_VM = "vm-1", "vm-2"


def begin(metadata: Metadata, vm_uuid: str = VM, tenant: str = "t1", slot: Slot = Slot.EXCLUSIVE) -> str:
    row = OperationRow(
        str(uuid4()), vm_uuid, slot, "create", OperationState.PLANNING, "", (), 1, None, "", tenant=tenant
    )
    with metadata.write() as tx:
        tx.journal.open(row)
    return row.uuid


def end(metadata: Metadata, operation_uuid: str, state: OperationState) -> None:
    with metadata.write() as tx:
        tx.journal.set_state(operation_uuid, state, at=2)


def a_vm(metadata: Metadata, vm_uuid: str, tenant: str, frozen_bytes: int | None, memory_bytes: int = 0) -> None:
    """One volume: a frozen layer and the head on it; one snapshot, with memory if it has bytes."""
    name = f"of {vm_uuid}"
    with metadata.write() as tx:
        tx.layers.insert_volume(Volume(f"v {name}", vm_uuid, "vda", f"head {name}", "/d"))
        tx.layers.insert_layer(Layer(f"base {name}", f"v {name}", None, f"/d/base-{vm_uuid}", "qcow2", foreign=True))
        tx.layers.insert_layer(Layer(f"head {name}", f"v {name}", f"base {name}", "/d/h", "qcow2", foreign=False))
        memory = MemoryState(f"m {name}", "file:///m", MemoryStatus.AVAILABLE, CaptureMode.LIVE, 100, memory_bytes, "c")
        tx.snapshots.insert(
            Snapshot(
                uuid=f"s {name}", vm_uuid=vm_uuid, seq=0, name="s", description="", parent_uuid=None, ctime=1,
                tenant=tenant, tenant_name="", namespace="", vm_detail="", definition_xml="", definition_checksum="",
                disks=(DiskSnapshot(f"d {name}", f"v {name}", f"base {name}", "vda"),),
                memory=memory if memory_bytes else None,
            )
        )  # fmt: skip
        tx.quotas.set_vm(vm_uuid, tenant, {f"v {name}": 1 << 30})
        if frozen_bytes is not None:
            tx.quotas.set_layer_bytes(f"base {name}", frozen_bytes)
            tx.quotas.set_layer_bytes(f"head {name}", 777)


def used(metadata: Metadata, tenant: str = "", vm_uuid: str = "", without: str = "") -> Used:
    with metadata.read() as tx:
        return tx.quotas.used(tenant=tenant, vm_uuid=vm_uuid, without=without)


def test_limits_are_kept_whole_and_replaced_whole(metadata: Metadata) -> None:
    limits = TenantLimits("t1", memory_open=False, memory_bytes=0, space_bytes=1 << 60, max_snapshots=7)
    with metadata.write() as tx:
        assert tx.quotas.limits("t1") == TenantLimits("t1")
        tx.quotas.set_limits(limits)
    with metadata.write() as tx:
        assert tx.quotas.limits("t1") == limits
        assert tx.quotas.limits("t2") == TenantLimits("t2")
        tx.quotas.set_limits(TenantLimits("t1", memory_open=True))
    with metadata.read() as tx:
        assert tx.quotas.limits("t1") == TenantLimits("t1", memory_open=True)


def test_use_is_what_lies_below_the_heads_and_memory(metadata: Metadata) -> None:
    a_vm(metadata, VM, "t1", 100, memory_bytes=40)
    a_vm(metadata, OTHER_VM, "t1", 10)
    a_vm(metadata, "vm-3", "t2", 5)
    assert used(metadata, "t1") == Used(110, 40, 2 << 30, 2, 2)
    assert used(metadata, vm_uuid=VM) == Used(100, 40, 1 << 30, 1, 1)
    assert used(metadata, "t2").space_bytes == 5
    assert used(metadata, "nobody") == Used()
    with metadata.read() as tx:
        assert tx.quotas.tenants() == ["t1", "t2"]


def test_the_largest_are_named_by_what_they_occupy(metadata: Metadata) -> None:
    a_vm(metadata, VM, "t1", 100)
    a_vm(metadata, OTHER_VM, "t1", 10)
    a_vm(metadata, "vm-3", "t2", 5, memory_bytes=500)
    a_vm(metadata, "vm-4", "t3", None)
    a_vm(metadata, "vm-5", "t0", None)
    with metadata.write() as tx:
        tx.quotas.set_limits(TenantLimits("of whom nothing is here", space_bytes=1))
    with metadata.read() as tx:
        assert tx.quotas.largest(10) == ["t2", "t1", "t0", "t3"]
        assert tx.quotas.largest(1) == ["t2"]


def test_what_was_not_measured_is_named_and_counts_nothing(metadata: Metadata) -> None:
    a_vm(metadata, VM, "t1", None)
    assert used(metadata, "t1").space_bytes == 0
    with metadata.read() as tx:
        assert tx.quotas.unmeasured() == [Unmeasured(f"base of {VM}", f"/d/base-{VM}")]


def test_use_goes_with_the_machine_to_its_new_tenant(metadata: Metadata) -> None:
    a_vm(metadata, VM, "t1", 100)
    with metadata.write() as tx:
        tx.quotas.set_vm(VM, "t2", {})
    assert (used(metadata, "t1").space_bytes, used(metadata, "t2").space_bytes) == (0, 100)


@pytest.mark.parametrize(("state", "counts"), [(OperationState.LEFT, True), (OperationState.UNDONE, False)])
def test_a_reservation_counts_until_its_operation_has_ended(
    metadata: Metadata, state: OperationState, counts: bool
) -> None:
    operation = begin(metadata)
    with metadata.write() as tx:
        tx.quotas.reserve(operation, Demand(VM, "t1", 30, 50, 0))
    assert used(metadata, "t1") == Used(30, 50)
    assert used(metadata, vm_uuid=VM) == Used(30, 50)
    assert used(metadata, "t1", without=operation) == Used()
    assert used(metadata, "t2") == Used()
    end(metadata, operation, state)
    assert used(metadata, "t1") == (Used(30, 50) if counts else Used())
    with metadata.write() as tx:
        tx.quotas.release(operation)
        tx.quotas.release(operation)
    assert used(metadata, "t1") == Used()


def test_of_many_that_race_as_many_get_in_as_fit(metadata: Metadata) -> None:
    with metadata.write() as tx:
        tx.quotas.set_limits(TenantLimits("t1", space_bytes=105))
    operations = [(f"vm {number}", begin(metadata, f"vm {number}")) for number in range(24)]

    def ask(what: tuple[str, str]) -> bool:
        try:
            with metadata.write() as tx:
                reserve(tx, what[1], Demand(what[0], "t1", 10, 0, 0))
        except Refused as refused:
            return refused.case is not ErrorCase.QUOTA_EXHAUSTED
        return True

    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(ask, operations)) == 10
    assert used(metadata, "t1").space_bytes == 100


def test_how_many_are_under_way(metadata: Metadata) -> None:
    begin(metadata, "a", "t1")
    ended = begin(metadata, "b", "t1")
    begin(metadata, "c", "t2", slot=Slot.MEMORY)
    with metadata.read() as tx:
        assert tx.quotas.busy("t1") == (2, 3)
    end(metadata, ended, OperationState.DONE)
    with metadata.read() as tx:
        assert tx.quotas.busy("t1") == (1, 2)
        assert tx.quotas.busy("nobody") == (0, 2)


def test_a_drawing_gets_each_snapshot_with_what_it_occupies(metadata: Metadata) -> None:
    a_vm(metadata, VM, "t1", 100, memory_bytes=40)
    a_vm(metadata, OTHER_VM, "t1", None)
    with metadata.write() as tx:
        (first,) = tx.snapshots.of_vm(VM)
        tx.snapshots.insert(replace(first, uuid="s2", name="s2", parent_uuid=first.uuid, disks=(), memory=None))
        cards, head = tx.snapshots.cards(VM)
        (unmeasured,), _ = tx.snapshots.cards(OTHER_VM)
        nobodys = tx.snapshots.cards("no vm")
        sizes = tx.quotas.layer_bytes(VM)
    assert [(card.uuid, card.parent_uuid, card.disk_bytes) for card in cards] == [
        (first.uuid, None, 100),
        ("s2", first.uuid, 0),
    ]
    assert cards[0].memory == replace(first.memory, location="", checksum="") if first.memory else False
    assert (cards[1].memory, head, nobodys) == (None, "s2", ([], None))
    assert (unmeasured.disk_bytes, unmeasured.memory) == (0, None)
    assert sorted(sizes.values()) == [100, 777]


def test_whose_a_machine_is_goes_for_its_snapshots_too(metadata: Metadata) -> None:
    a_vm(metadata, VM, "t1", 100)
    a_vm(metadata, OTHER_VM, "t1", 100)
    with metadata.write() as tx:
        tx.snapshots.set_owner(VM, "t2", "two", "ns")
        assert [(s.tenant, s.tenant_name, s.namespace) for s in tx.snapshots.of_vm(VM)] == [("t2", "two", "ns")]
        assert [s.tenant for s in tx.snapshots.of_vm(OTHER_VM)] == ["t1"]
        assert tx.quotas.vm_tenants() == {VM: "t1", OTHER_VM: "t1"}
