"""Delete: the row goes first, then what nobody refers to any more; never a byte that somebody can still read.

Point of no return: the transaction that unpublishes the snapshot; it is the first step. After it the rest is carried
forward: memory and screenshot go, loose layers are dropped, or merged into their only child while the VM runs on.

A merge commits the child (``top``) down into the loose layer (``base``). Reads through ``top`` give the same at every
instant, because top's own data hides base's. In this order: data committed and durable -> every other child of top
backs on base -> one transaction gives top's references to base -> top's file goes.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from stillframe.domain import rules
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.domain.layers import Drop, Layer, Merge, plan_collection
from stillframe.domain.snapshot import Snapshot
from stillframe.domain.vm import SourceKind, Vm
from stillframe.operations.disks import check_no_drift, check_unused, naming_the_disk, place_disks
from stillframe.operations.quotas import measured
from stillframe.operations.requests import Cluster
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.work import Work
from stillframe.operations.world import World
from stillframe.ports.hypervisor import MergeProgress
from stillframe.ports.metadata import Slot, Transaction

log = logging.getLogger(__name__)
KIND = "delete"


@dataclass(frozen=True)
class DropPlan:
    layer: Layer


@dataclass(frozen=True)
class MergePlan:
    """``top``'s data goes down into ``base``; ``children`` back on top."""

    top: Layer
    base: Layer
    children: tuple[Layer, ...]


@dataclass(frozen=True)
class DeletePlan:
    snapshot_uuid: str
    vm_uuid: str
    memory_uuid: str | None
    drops: tuple[DropPlan, ...]
    merges: tuple[MergePlan, ...]


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
    acts = plan_collection(layers, others | {volume.head_layer_uuid for volume in volumes.values()})
    for act in acts:
        if isinstance(act, Merge):
            # qemu-img, or QEMU, is going to open all of it; a file that is missing is found by the merge
            with naming_the_disk(vm, volumes[act.top.volume_uuid].target):
                world.volumes.probe_chain(act.top.path, act.top.format)
    return DeletePlan(
        snapshot_uuid=snapshot.uuid,
        vm_uuid=vm.uuid,
        memory_uuid=snapshot.memory.uuid if snapshot.memory else None,
        drops=tuple(DropPlan(act.layer) for act in acts if isinstance(act, Drop)),
        merges=tuple(MergePlan(act.top, act.base, act.children) for act in acts if isinstance(act, Merge)),
    )


def _unpublish(tx: Transaction, plan: DeletePlan, _scratch: Scratch) -> None:
    tx.snapshots.remove(plan.snapshot_uuid)


def _drop_artefacts(world: World, plan: DeletePlan, _scratch: Scratch) -> None:
    if plan.memory_uuid is not None:
        world.memory_store.ensure_dropped(plan.memory_uuid)
    world.memory_store.drop_screenshot(plan.snapshot_uuid)


def _drop_step(number: int, drop: DropPlan) -> Step[DeletePlan]:
    def do(world: World, plan: DeletePlan, _scratch: Scratch) -> None:
        if not drop.layer.foreign:
            check_unused(world, plan.vm_uuid, drop.layer.path)
            world.volumes.ensure_dropped(drop.layer.path)

    def record(tx: Transaction, _plan: DeletePlan, _scratch: Scratch) -> None:
        tx.layers.remove_layer(drop.layer.uuid)

    return Step(f"drop layer {number}", do, record=record)


def _merge_steps(number: int, merge: MergePlan) -> tuple[Step[DeletePlan], ...]:
    def commit(world: World, plan: DeletePlan, scratch: Scratch) -> None:
        _commit_layer(world, plan.vm_uuid, merge, scratch.work, f"merge {number}{SWITCH}")
        _tell_merged(world, merge)

    def repoint(world: World, _plan: DeletePlan, _scratch: Scratch) -> None:
        for child in merge.children:
            info = world.volumes.probe_image(child.path, child.format)
            if info is None:
                raise Failed(ErrorCase.STORAGE_FAILED, f"{child.path} does not exist")
            # a child in the running chain was repointed by QEMU, which holds it open
            if info.backing_path != merge.base.path:
                world.volumes.ensure_backing(child.path, merge.base.path, merge.base.format)

    measuring = f"bytes of {merge.base.uuid}"

    def measure(world: World, _plan: DeletePlan, scratch: Scratch) -> None:
        scratch[measuring] = measured(world, merge.base.path)

    def record(tx: Transaction, _plan: DeletePlan, scratch: Scratch) -> None:
        tx.layers.record_merge(merge.top.uuid, merge.base.uuid)
        tx.quotas.set_layer_bytes(merge.base.uuid, scratch[measuring])

    def drop(world: World, plan: DeletePlan, _scratch: Scratch) -> None:
        if not merge.top.foreign:
            check_unused(world, plan.vm_uuid, merge.top.path)
            world.volumes.ensure_dropped(merge.top.path)

    return (
        Step(f"merge {number}{COMMIT}", commit, weight=20),
        Step(f"merge {number}: repoint", repoint),
        Step(f"merge {number}: record", measure, record=record),
        Step(f"merge {number}: drop", drop),
    )


def _tell_merged(world: World, merge: MergePlan) -> None:
    try:
        world.instruments.merged(world.volumes.probe_size(merge.top.path) or 0)
    except StillframeError as error:
        # a figure alone: whether the storage can go on is the next step's business
        log.warning("what was merged of %s could not be measured: %s", merge.top.path, error)


def _commit_layer(world: World, vm_uuid: str, merge: MergePlan, work: Work, mark: str) -> None:
    """``merge.base`` holds all of ``merge.top``, and the VM's disk is off ``top`` if it was on it.

    A VM that goes off in the middle of a live merge does not end it: it is begun anew without QEMU. ``mark`` is left
    before the VM's disk leaves ``top``.
    """
    for last in (False, False, True):
        try:
            _commit_once(world, vm_uuid, merge, work, mark)
        except StillframeError as error:
            if last or error.case is not ErrorCase.VM_NOT_RUNNING:
                raise
            log.warning("%s", error.desc)
        else:
            return


def _commit_once(world: World, vm_uuid: str, merge: MergePlan, work: Work, mark: str) -> None:
    def tell(now: MergeProgress) -> None:
        work.note(now.bytes_done, now.bytes_total)

    vm = world.inventory.get_vm(vm_uuid)
    head = _head(world, vm_uuid, merge)
    target, files = _position(world, vm, (head, merge.top.path, merge.base.path))
    has_switched = head == merge.top.path and merge.base.path in files and work.is_marked(mark)
    if files and head not in files and not has_switched:
        # only a merge that went as far as its mark takes the VM off its head: somebody else has
        raise Failed(
            ErrorCase.DISK_DRIFTED,
            f"disk {target} of {vm.described} is on {files[0]}, but what was written last is in its head {head}: "
            "nothing was merged; let its definition name the head",
        )
    # QEMU may have merged them before we were interrupted: then base is in its chain and top no more, and only what it
    # still holds open is let go. On another branch than the guest's it has neither, and knows nothing of them.
    if vm.state.has_process and not {merge.top.path, merge.base.path}.isdisjoint(files):
        world.fixer.commit_live(
            vm_uuid, target, merge.top.path, merge.base.path, tell, on_switch=lambda _target: work.mark(mark)
        )
    elif has_switched:
        return  # the base's data may be newer by now
    else:
        # a state that was saved since the plan was made belongs to the files of its moment
        rules.check_no_managed_save(vm)
        world.volumes.ensure_committed(merge.top.path, merge.base.path, tell)
        if merge.top.path in files:
            work.mark(mark)
            world.fixer.switch_definition(vm_uuid, {target: (merge.base.path, merge.base.format)})
    world.volumes.ensure_durable(merge.base.path)


def _head(world: World, vm_uuid: str, merge: MergePlan) -> str:
    """The file that the merged layers' volume is to be written to."""
    with world.metadata.read() as tx:
        heads = [v.head_layer_uuid for v in tx.layers.volumes(vm_uuid) if v.uuid == merge.top.volume_uuid]
        return next(layer.path for layer in tx.layers.layers(vm_uuid) if layer.uuid in heads)


def _position(world: World, vm: Vm, paths: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The disk that is on any of these files, and what it reads through: of a VM that is off only the topmost file.

    By the file, not by a name that may have changed. ("", ()) when the VM has no such disk.
    """
    chains = _running_chains(world, vm) if vm.state.has_process else {disk.target: (disk.path,) for disk in vm.disks}
    return next(((target, files) for target, files in chains.items() if not set(files).isdisjoint(paths)), ("", ()))


def _running_chains(world: World, vm: Vm) -> dict[str, tuple[str, ...]]:
    """Target -> the files that the running QEMU reads it through."""
    return {
        disk.target: world.inventory.active_chain(vm.uuid, disk.target)
        for disk in vm.snapshot_disks
        if disk.source is SourceKind.FILE
    }


def steps(plan: DeletePlan) -> tuple[Step[DeletePlan], ...]:
    found: list[Step[DeletePlan]] = [
        Step("unpublish", record=_unpublish, commits=True),
        Step("drop memory and screenshot", _drop_artefacts),
    ]
    for number, drop in enumerate(plan.drops):
        found.append(_drop_step(number, drop))
    for number, merge in enumerate(plan.merges):
        found.extend(_merge_steps(number, merge))
    return tuple(found)


COMMIT = ": commit"
SWITCH = ": the disk may have left its layer"  # a mark inside of the commit
MERGE_FAMILIES = (
    f"merge *{COMMIT}",
    "merge *: repoint",
    "merge *: record",
    "merge *: drop",
)
FAMILIES = (
    "unpublish",
    "drop memory and screenshot",
    "drop layer *",
    *MERGE_FAMILIES,
)
OPERATION = Operation(KIND, Slot.EXCLUSIVE, DeletePlan, steps, FAMILIES, "unpublish")
