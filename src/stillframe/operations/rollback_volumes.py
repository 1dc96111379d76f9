"""Rollback of single disks of a shut-off VM: disk data only; configuration and the tree's head stay.

Each disk is an operation of its own: a fresh overlay on the snapshot's layer -> the saved definition names it -> one
transaction moves the volume's head -> the old head's file goes.

Point of no return: that transaction. Until then the old head exists and the definition can be switched back to it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stillframe.domain import rules
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.snapshot import DiskSnapshot, Snapshot
from stillframe.domain.vm import Vm
from stillframe.operations.disks import PlacedDisk, check_no_drift, place_disks
from stillframe.operations.overtaking import drop_unwritten, why_not_undone
from stillframe.operations.requests import Cluster, DiskRef
from stillframe.operations.rollback import (
    DiskReturn,
    drop_old_head,
    forget_old_head,
    make_overlay,
    plan_disk,
    record_disk,
)
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import World
from stillframe.ports.metadata import Slot, Transaction

KIND = "rollback_volume"


@dataclass(frozen=True)
class VolumePlan:
    vm_uuid: str
    disk: DiskReturn

    @property
    def overlays(self) -> frozenset[str]:
        """The path of the new overlay."""
        return frozenset({self.disk.overlay.path})


def check_shut_off(vm: Vm) -> None:
    if vm.state.has_process:
        raise Refused(ErrorCase.VM_NOT_SHUTOFF, f"{vm.described} is {vm.state.value}")


def plan_volume(world: World, cluster: Cluster, vm: Vm, entry: DiskRef) -> VolumePlan:
    """One entry of the batch.

    Raises:
        Refused: VOLUME_UNKNOWN for a volume, disk or volume snapshot that is not this VM's or do not belong together;
            VM_NOT_SHUTOFF; DISK_DRIFTED.
    """
    rules.check_persistent(vm)
    check_shut_off(vm)
    rules.check_no_managed_save(vm)
    with world.metadata.read() as tx:
        snapshots = tx.snapshots.of_vm(vm.uuid)
        volumes, layers = tx.layers.volumes(vm.uuid), tx.layers.layers(vm.uuid)
    rules.check_nothing_saving(vm, snapshots)
    placed = place_disks(vm, cluster.uuid, volumes, layers)
    check_no_drift(world, vm, placed, layers)
    return VolumePlan(vm.uuid, plan_disk(world, vm, _find(vm, placed, snapshots, entry), entry.DiskDrive))


def _find(vm: Vm, placed: Sequence[PlacedDisk], snapshots: Sequence[Snapshot], entry: DiskRef) -> DiskSnapshot:
    disk = {p.volume.uuid: p.disk for p in placed if p.known}.get(entry.VolumeUuid)
    if disk is None:
        raise Refused(ErrorCase.VOLUME_UNKNOWN, f"volume {entry.VolumeUuid} is not a disk of {vm.described}")
    if disk.target != entry.DiskDrive:
        raise Refused(
            ErrorCase.VOLUME_UNKNOWN, f"volume {entry.VolumeUuid} is disk {disk.target}, not {entry.DiskDrive}"
        )
    for snapshot in snapshots:
        for candidate in snapshot.disks:
            if candidate.uuid == entry.SnapshotUuid:
                if candidate.volume_uuid != entry.VolumeUuid:
                    raise Refused(
                        ErrorCase.VOLUME_UNKNOWN,
                        f"volume snapshot {entry.SnapshotUuid} belongs to another volume than {entry.VolumeUuid}",
                    )
                return candidate
    raise Refused(ErrorCase.VOLUME_UNKNOWN, f"{vm.described} has no volume snapshot {entry.SnapshotUuid}")


def _make_overlay(world: World, plan: VolumePlan, _scratch: Scratch) -> None:
    make_overlay(world, plan.disk)


def _drop_overlay(world: World, plan: VolumePlan) -> None:
    drop_unwritten(world, plan.overlays)


def _switch(world: World, plan: VolumePlan, _scratch: Scratch) -> None:
    world.fixer.switch_definition(plan.vm_uuid, {plan.disk.target: (plan.disk.overlay.path, "qcow2")})


def _switch_back(world: World, plan: VolumePlan) -> None:
    old = plan.disk.old_head
    vm = world.inventory.get_vm(plan.vm_uuid)
    if any(disk.path == plan.disk.overlay.path for disk in vm.disks):
        world.fixer.switch_definition(plan.vm_uuid, {plan.disk.target: (old.path, old.format)})


def _record_head(tx: Transaction, plan: VolumePlan, _scratch: Scratch) -> None:
    record_disk(tx, plan.disk)


def _drop_old(world: World, plan: VolumePlan, _scratch: Scratch) -> None:
    drop_old_head(world, plan.vm_uuid, plan.disk)


def _forget_old(tx: Transaction, plan: VolumePlan, _scratch: Scratch) -> None:
    forget_old_head(tx, plan.disk)


def steps(_plan: VolumePlan) -> tuple[Step[VolumePlan], ...]:
    return (
        Step("make the overlay", _make_overlay, _drop_overlay),
        Step("switch the definition", _switch, _switch_back),
        Step("move the head", record=_record_head, commits=True),
        Step("drop the old head", _drop_old, record=_forget_old),
    )


FAMILIES = (
    "make the overlay",
    "switch the definition",
    "move the head",
    "drop the old head",
)
OPERATION = Operation(
    KIND,
    Slot.EXCLUSIVE,
    VolumePlan,
    steps,
    FAMILIES,
    "move the head",
    overtaken=lambda world, plan: why_not_undone(world, plan.vm_uuid, plan.overlays),
)
