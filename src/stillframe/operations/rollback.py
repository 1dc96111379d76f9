"""Rollback: the VM's disks and configuration, and if asked its memory, become those of a snapshot.

Order: everything that can be checked is checked, the new overlays are made and the saved definition is replaced while
the VM goes on -> the point of no return is noted -> power off, restore memory -> one transaction moves the heads -> the
old heads' files go.
O(1) in data: each disk gets a new empty overlay on the snapshot's layer; no snapshot, newer or older, is touched.

Point of no return: the journal's mark before the power is cut; the running state is lost from there. Before it the VM
is as it was. After it the rollback is carried forward; should QEMU not accept the memory, the VM is left rolled back
and shut off, and the error says so.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from stillframe.domain import rules
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.snapshot import DiskSnapshot, ShownSnapshot, Snapshot
from stillframe.domain.vm import KnownVm, Vm
from stillframe.operations import restore_memory
from stillframe.operations.checksum import text_checksum
from stillframe.operations.disks import check_no_drift, check_place, check_unused, layer_path, place_disks, whole_chain
from stillframe.operations.overtaking import drop_unwritten, has_run_on, started_outside, why_not_undone
from stillframe.operations.requests import Cluster
from stillframe.operations.restore_memory import Restoration
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import World
from stillframe.ports.hypervisor import SavedConfiguration
from stillframe.ports.metadata import Slot, Transaction

KIND = "rollback"
S = TypeVar("S", Snapshot, ShownSnapshot)


@dataclass(frozen=True)
class DiskReturn:
    """One disk: a fresh ``overlay`` on ``layer`` becomes the head instead of ``old_head``.

    ``target`` is its name in the definition that is to hold it.

    ``drops_old_head``: nobody else refers to the old head, so it goes.
    """

    volume: Volume
    target: str
    layer: Layer
    overlay: Layer
    old_head: Layer
    drops_old_head: bool


@dataclass(frozen=True)
class RollbackPlan:
    snapshot_uuid: str
    vm_uuid: str
    memory_uuid: str | None
    memory_checksum: str
    previous_definition: str = field(repr=False)
    disks: tuple[DiskReturn, ...]

    @property
    def overlays(self) -> frozenset[str]:
        """The paths of the new overlays."""
        return frozenset(disk.overlay.path for disk in self.disks)


def plan_rollback(world: World, cluster: Cluster, vm: Vm, snapshot: Snapshot, *, domain_memory: bool) -> RollbackPlan:
    """Every rule checked, every uuid drawn; no side effect.

    Raises:
        Refused: the rule that says no.
    """
    rules.check_persistent(vm)
    with world.metadata.read() as tx:
        snapshots = tx.snapshots.of_vm(vm.uuid)
        volumes, layers = tx.layers.volumes(vm.uuid), tx.layers.layers(vm.uuid)
    if domain_memory:
        rules.check_memory_available(snapshot)
    rules.check_nothing_saving(vm, snapshots)
    check_no_drift(world, vm, place_disks(vm, cluster.uuid, volumes, layers), layers)
    memory = snapshot.memory if domain_memory else None
    return RollbackPlan(
        snapshot_uuid=snapshot.uuid,
        vm_uuid=vm.uuid,
        memory_uuid=memory.uuid if memory else None,
        memory_checksum=memory.checksum if memory else "",
        previous_definition=world.keeper.definition(vm.uuid),
        disks=tuple(plan_disk(world, vm, disk, disk.target) for disk in snapshot.disks),
    )


def plan_disk(world: World, vm: Vm, disk: DiskSnapshot, target: str) -> DiskReturn:
    """How one volume comes back to a snapshot's layer.

    Raises:
        Refused: IMAGE_REFUSED or DISK_DRIFTED: what the VM would stand on may not be opened, or is not whole.
        Failed: STORAGE_FAILED.
    """
    with world.metadata.read() as tx:
        volumes = {volume.uuid: volume for volume in tx.layers.volumes(vm.uuid)}
        layers = {layer.uuid: layer for layer in tx.layers.layers(vm.uuid)}
        snapshots = tx.snapshots.of_vm(vm.uuid)
    volume = volumes[disk.volume_uuid]
    whole_chain(world, vm, target, layers[disk.layer_uuid])
    check_place(world, vm, volume)
    old_head = layers[volume.head_layer_uuid]
    frozen = {d.layer_uuid for snapshot in snapshots for d in snapshot.disks}
    has_children = any(layer.parent_uuid == old_head.uuid for layer in layers.values())
    overlay_uuid = world.new_uuid()
    return DiskReturn(
        volume=volume,
        target=target,
        layer=layers[disk.layer_uuid],
        overlay=Layer(
            uuid=overlay_uuid,
            volume_uuid=volume.uuid,
            parent_uuid=disk.layer_uuid,
            path=layer_path(volume, overlay_uuid),
            format="qcow2",
            foreign=False,
        ),
        old_head=old_head,
        drops_old_head=not old_head.foreign and not has_children and old_head.uuid not in frozen,
    )


def _snapshot(world: World, plan: RollbackPlan) -> Snapshot:
    with world.metadata.read() as tx:
        snapshot = tx.snapshots.by_uuid(plan.snapshot_uuid)
    if snapshot is None:
        raise Failed(ErrorCase.SNAPSHOT_UNKNOWN, f"snapshot {plan.snapshot_uuid} is gone although the VM is ours")
    return snapshot


def _configuration(world: World, plan: RollbackPlan) -> SavedConfiguration:
    return SavedConfiguration(
        vm_uuid=plan.vm_uuid,
        definition_xml=_snapshot(world, plan).definition_xml,
        disk_paths={d.target: (d.overlay.path, "qcow2") for d in plan.disks},
    )


def _prepare(world: World, plan: RollbackPlan, scratch: Scratch) -> None:
    """Everything is checked and every overlay is there. Side by side, since neither changes what the VM stands on."""
    with ThreadPoolExecutor(1, thread_name_prefix="rollback-overlays") as pool:
        made = pool.submit(_make_overlays, world, plan)
        _verify(world, plan)
        if (wanted := _wanted(world, plan)) is not None:
            restore_memory.prepare(world, wanted, scratch)
    made.result()


def _wanted(world: World, plan: RollbackPlan) -> Restoration | None:
    if plan.memory_uuid is None:
        return None
    return Restoration(plan.memory_uuid, plan.memory_checksum, _configuration(world, plan))


@contextmanager
def _naming(snapshot: Snapshot) -> Iterator[None]:
    """What is wrong with its memory says whose that is."""
    try:
        yield
    except Failed as error:
        if error.case is not ErrorCase.MEMORY_DAMAGED:
            raise
        raise Failed(error.case, f"{snapshot.described}: {error.desc}") from error


def _verify(world: World, plan: RollbackPlan) -> None:
    """Nothing is trusted that is not checked, and all of it before anything is thrown away.

    A memory file that this service has hashed and that the file system says is unchanged since is not hashed here, but
    while the power goes off, or behind a guest that is restored lazily.

    That the disks' layers are there and of their format is checked by making overlays on them.
    """
    snapshot = _snapshot(world, plan)
    if text_checksum(snapshot.definition_xml) != snapshot.definition_checksum:
        raise Failed(ErrorCase.CONFIGURATION_DAMAGED, snapshot.described)
    if plan.memory_uuid is not None:
        with _naming(snapshot):
            if not world.memory_store.is_unchanged(plan.memory_uuid):
                world.memory_store.verify(plan.memory_uuid, plan.memory_checksum)
            world.keeper.check_restorable(world.memory_store.capture_path(plan.memory_uuid), plan.vm_uuid)


def make_overlay(world: World, disk: DiskReturn) -> None:
    world.volumes.ensure_overlay(disk.overlay.path, disk.layer.path, disk.layer.format)


def _make_overlays(world: World, plan: RollbackPlan) -> None:
    for disk in plan.disks:
        make_overlay(world, disk)


def _drop_overlays(world: World, plan: RollbackPlan) -> None:
    if plan.memory_uuid is not None:
        restore_memory.drop_prepared(world, plan.memory_uuid)
    drop_unwritten(world, plan.overlays)


def _power_off(world: World, plan: RollbackPlan, scratch: Scratch) -> None:
    """The VM is off, or was started from outside on its new disks already: that guest is left alone.

    libvirt looks only every 200 ms whether QEMU is gone: enough to hash the memory meanwhile.
    """
    vm = world.inventory.get_vm(plan.vm_uuid)
    if has_run_on(world, vm, plan.overlays):
        scratch.add_remark(started_outside(vm, plan.overlays))
        if not plan.overlays.issubset(disk.path for disk in vm.saved_disks):
            world.keeper.define(_configuration(world, plan))  # an undo had begun
        return
    with ThreadPoolExecutor(1, thread_name_prefix="rollback-power") as pool:
        off = pool.submit(world.power.ensure_off, plan.vm_uuid)
        if plan.memory_uuid is not None and not restore_memory.is_lazy(scratch):
            restore_memory.check(world, plan.memory_uuid, plan.memory_checksum, scratch)
    off.result()


def _define(world: World, plan: RollbackPlan, _scratch: Scratch) -> None:
    world.keeper.define(_configuration(world, plan))


def _define_back(world: World, plan: RollbackPlan) -> None:
    """Only what was defined is taken back: a VM that somebody has edited since is left as it is.

    Raises:
        Refused: VM_UNKNOWN, for one that was undefined since; it does not come back.
    """
    vm = world.inventory.get_vm(plan.vm_uuid)
    if plan.overlays.intersection(disk.path for disk in vm.saved_disks):
        world.keeper.redefine(plan.vm_uuid, plan.previous_definition)


def _restore(world: World, plan: RollbackPlan, scratch: Scratch) -> None:
    if (wanted := _wanted(world, plan)) is not None:
        restore_memory.restore(world, wanted, scratch)


def _ensure_defined(world: World, plan: RollbackPlan, _scratch: Scratch) -> None:
    """The definition is the snapshot's: while the operation was left somebody may have defined the VM anew."""
    vm = world.inventory.get_vm(plan.vm_uuid)
    if not {disk.overlay.path for disk in plan.disks} <= {disk.path for disk in vm.saved_disks}:
        world.keeper.define(_configuration(world, plan))


def record_disk(tx: Transaction, disk: DiskReturn) -> None:
    tx.layers.insert_layer(disk.overlay)
    tx.layers.set_head(disk.volume.uuid, disk.overlay.uuid)


def _record_heads(tx: Transaction, plan: RollbackPlan, _scratch: Scratch) -> None:
    for disk in plan.disks:
        record_disk(tx, disk)
    snapshot = tx.snapshots.by_uuid(plan.snapshot_uuid)
    if snapshot is not None:
        tx.snapshots.set_head(plan.vm_uuid, snapshot.uuid)


def drop_old_head(world: World, vm_uuid: str, disk: DiskReturn) -> None:
    if disk.drops_old_head:
        check_unused(world, vm_uuid, disk.old_head.path)
        world.volumes.ensure_dropped(disk.old_head.path)


def forget_old_head(tx: Transaction, disk: DiskReturn) -> None:
    if disk.drops_old_head:
        tx.layers.remove_layer(disk.old_head.uuid)


def _drop_old_heads(world: World, plan: RollbackPlan, _scratch: Scratch) -> None:
    for disk in plan.disks:
        drop_old_head(world, plan.vm_uuid, disk)


def _forget_old_heads(tx: Transaction, plan: RollbackPlan, _scratch: Scratch) -> None:
    for disk in plan.disks:
        forget_old_head(tx, disk)


def steps(_plan: RollbackPlan) -> tuple[Step[RollbackPlan], ...]:
    return (
        Step("verify and make overlays", _prepare, _drop_overlays),
        # while the VM goes on: what libvirt refuses is refused before anything is lost
        Step("define", _define, _define_back),
        Step("commit", commits=True),
        Step("power off", _power_off),
        Step("restore memory", _restore),
        Step("move the heads", _ensure_defined, record=_record_heads),
        Step("drop the old heads", _drop_old_heads, record=_forget_old_heads),
    )


FAMILIES = (
    "verify and make overlays",
    "define",
    "commit",
    "power off",
    "restore memory",
    "move the heads",
    "drop the old heads",
)
OPERATION = Operation(
    KIND,
    Slot.EXCLUSIVE,
    RollbackPlan,
    steps,
    FAMILIES,
    "commit",
    overtaken=lambda world, plan: why_not_undone(world, plan.vm_uuid, plan.overlays),
)


def check_known(snapshot: S | None, vm: Vm | KnownVm, name: str) -> S:
    """The snapshot, or the refusal that there is none of that name."""
    if snapshot is None:
        raise Refused(ErrorCase.SNAPSHOT_UNKNOWN, f'"{name}" on {vm.described}')
    return snapshot
