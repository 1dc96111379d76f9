"""Delete: the row goes first, then what nobody refers to any more; never a byte that somebody can still read.

Point of no return: the transaction that unpublishes the snapshot; it is the first step. After it the rest is carried
forward: memory and screenshot go, loose layers are dropped, or merged into their only child while the VM runs on.

Which way a merge goes is decided here, from what the files occupy; how it is done is in merging.py.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stillframe.domain import rules
from stillframe.domain.layers import Act, Costs, Drop, Layer, Merge, Pull, Volume, chain, plan_collection
from stillframe.domain.snapshot import Snapshot
from stillframe.domain.vm import Vm
from stillframe.operations.disks import check_no_drift, check_unused, naming_the_disk, place_disks
from stillframe.operations.lending import drop_or_lend
from stillframe.operations.merging import MERGE_FAMILIES, MergePlan, merge_steps
from stillframe.operations.requests import Cluster
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import World
from stillframe.ports.metadata import Slot, Transaction
from stillframe.ports.volumes import ImageInfo

KIND = "delete"


@dataclass(frozen=True)
class DropPlan:
    layer: Layer


@dataclass(frozen=True)
class DeletePlan:
    snapshot_uuid: str
    vm_uuid: str
    memory_uuid: str | None
    drops: tuple[DropPlan, ...]
    merges: tuple[MergePlan, ...]
    memory_checksum: str = ""


def plan_delete(world: World, cluster: Cluster, vm: Vm, snapshot: Snapshot) -> DeletePlan:
    """The rules checked and the layers' fate decided; no side effect.

    Raises:
        Refused: SNAPSHOT_HAS_CHILDREN, SNAPSHOT_NOT_READY, POWER_STATE_WRONG, DISK_DRIFTED, IMAGE_REFUSED.
    """
    with world.metadata.read() as tx:
        snapshots = tx.snapshots.of_vm(vm.uuid)
        volumes = {volume.uuid: volume for volume in tx.layers.volumes(vm.uuid)}
        layers = tx.layers.layers(vm.uuid)
    rules.check_nothing_saving(vm, snapshots)
    rules.check_deletable(snapshot, [s.name for s in snapshots if s.parent_uuid == snapshot.uuid])
    if vm.state.has_process:
        rules.check_no_pending_disks(vm)
    else:
        rules.check_no_managed_save(vm)
    check_no_drift(world, vm, place_disks(vm, cluster.uuid, list(volumes.values()), layers), layers)
    others = {d.layer_uuid for s in snapshots if s.uuid != snapshot.uuid for d in s.disks}
    acts = _decide(world, vm, volumes, layers, others | {volume.head_layer_uuid for volume in volumes.values()})
    return DeletePlan(
        snapshot_uuid=snapshot.uuid,
        vm_uuid=vm.uuid,
        memory_uuid=snapshot.memory.uuid if snapshot.memory else None,
        drops=tuple(DropPlan(act.layer) for act in acts if isinstance(act, Drop)),
        merges=tuple(_plan_merge(act) for act in acts if not isinstance(act, Drop)),
        memory_checksum=snapshot.memory.checksum if snapshot.memory else "",
    )


def _plan_merge(act: Merge | Pull) -> MergePlan:
    if isinstance(act, Pull):
        return MergePlan(act.top, act.base, (), act.parent)
    return MergePlan(act.top, act.base, act.children)


def _decide(
    world: World, vm: Vm, volumes: dict[str, Volume], layers: list[Layer], referenced: Collection[str]
) -> tuple[Act, ...]:
    """The acts, each merge in the direction that copies less."""
    acts = plan_collection(layers, referenced)
    images: dict[str, ImageInfo] = {}
    for act in acts:
        if isinstance(act, Merge):
            # qemu-img, or QEMU, is going to open all of it; a file that is missing is found by the merge
            with naming_the_disk(vm, volumes[act.top.volume_uuid].target):
                images |= {info.path: info for info in world.volumes.probe_chain(act.top.path, act.top.format)}
    occupied = {layer.uuid: images[layer.path].disk_bytes for layer in layers if layer.path in images}
    closed = _read_below_a_guest(vm, volumes.values(), layers)
    while images:
        acts = plan_collection(layers, referenced, Costs(occupied, closed))
        # where one is shorter than the other, more than data would have to be copied
        uneven = {act.top.uuid for act in acts if isinstance(act, Pull) and not _are_even(images, act)}
        if not uneven:
            break
        closed |= uneven
    return acts


def _read_below_a_guest(vm: Vm, volumes: Collection[Volume], layers: list[Layer]) -> set[str]:
    """Layers that a running QEMU holds open below the one that it writes to: libvirt pulls into that one alone."""
    if not vm.state.has_process:
        return set()
    return {layer.uuid for volume in volumes for layer in chain(layers, volume.head_layer_uuid)[1:]}


def _are_even(images: dict[str, ImageInfo], act: Pull) -> bool:
    found = [images.get(layer.path) for layer in (act.top, act.base, act.parent)]
    return len({info.virtual_bytes if info is not None else None for info in found}) == 1 and None not in found


def _unpublish(tx: Transaction, plan: DeletePlan, _scratch: Scratch) -> None:
    tx.snapshots.remove(plan.snapshot_uuid)


def _drop_artefacts(world: World, plan: DeletePlan, _scratch: Scratch) -> None:
    if plan.memory_uuid is not None:
        drop_or_lend(world, plan.vm_uuid, plan.memory_uuid, plan.memory_checksum)
    world.memory_store.drop_screenshot(plan.snapshot_uuid)


def _drop_step(number: int, drop: DropPlan) -> Step[DeletePlan]:
    def do(world: World, plan: DeletePlan, _scratch: Scratch) -> None:
        if not drop.layer.foreign:
            check_unused(world, plan.vm_uuid, drop.layer.path)
            world.volumes.ensure_dropped(drop.layer.path)

    def record(tx: Transaction, _plan: DeletePlan, _scratch: Scratch) -> None:
        tx.layers.remove_layer(drop.layer.uuid)

    return Step(f"drop layer {number}", do, record=record)


def steps(plan: DeletePlan) -> tuple[Step[DeletePlan], ...]:
    found: list[Step[DeletePlan]] = [
        Step("unpublish", record=_unpublish, commits=True),
        Step("drop memory and screenshot", _drop_artefacts),
    ]
    for number, drop in enumerate(plan.drops):
        found.append(_drop_step(number, drop))
    for number, merge in enumerate(plan.merges):
        found.extend(merge_steps(number, plan.vm_uuid, merge))
    return tuple(found)


FAMILIES = (
    "unpublish",
    "drop memory and screenshot",
    "drop layer *",
    *MERGE_FAMILIES,
)
OPERATION = Operation(KIND, Slot.EXCLUSIVE, DeletePlan, steps, FAMILIES, "unpublish")
