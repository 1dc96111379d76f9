"""A VM and its snapshots as people see them: the tree with sizes, and what an act would cost before it is done.

Looks only.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from stillframe.domain.errors import Refused, StillframeError
from stillframe.domain.layers import Layer
from stillframe.domain.layout import Layout, lay_out
from stillframe.domain.snapshot import Snapshot, SnapshotCard
from stillframe.domain.tree import Node
from stillframe.domain.vm import Action, Vm
from stillframe.operations import delete, rollback
from stillframe.operations.detail import action_of
from stillframe.operations.requests import Cluster
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationFilter, OperationRow, OperationState

log = logging.getLogger(__name__)
_LOOKED_THROUGH = 200  # of the VM's operations, for its last rollback


@dataclass(frozen=True)
class Now:
    """The current state: what it descends from ("" for nothing), since when (Unix seconds; 0: not known), and what was
    written since, in bytes that its files occupy (None: one of them could not be measured; 0 without any snapshot).
    """

    head_uuid: str
    since: int
    changed_bytes: int | None


@dataclass(frozen=True)
class Overview:
    """``cards`` in order of creation; ``layout`` places them."""

    vm: Vm
    action: Action
    now: Now
    cards: tuple[SnapshotCard, ...]
    layout: Layout


@dataclass(frozen=True)
class MergeCost:
    """``size_bytes``: what the layer occupies whose data is copied, the smaller of two if either way is open; ``target``: the
    disk.
    """

    target: str
    size_bytes: int


@dataclass(frozen=True)
class Consequences:
    """What a rollback to the snapshot throws away (``now``), and what its deletion takes.

    ``refusal``: why it cannot be deleted now, also what broke as it was planned; None: it can. ``freed_bytes``: what goes for certain, memory and layers that
    nothing needs; a merge frees what both layers have in the same places as well.
    """

    now: Now
    stands_on: str  # the name of the snapshot that the current state descends from; "" for none
    refusal: StillframeError | None
    merges: tuple[MergeCost, ...]
    freed_bytes: int


def overview(world: World, vm: Vm, *, fold: bool, opened: Collection[str]) -> Overview:
    with world.metadata.read() as tx:
        cards, head_uuid = tx.snapshots.cards(vm.uuid)
        active = tx.journal.active([vm.uuid])
    nodes = [Node(card.uuid, card.name, card.parent_uuid, card.seq) for card in cards]
    layout = lay_out(nodes, head_uuid, fold=fold, opened=opened)
    return Overview(vm, action_of(active), _now(world, vm, cards, head_uuid), tuple(cards), layout)


def consequences(world: World, cluster: Cluster, vm: Vm, snapshot: Snapshot) -> Consequences:
    with world.metadata.read() as tx:
        cards, head_uuid = tx.snapshots.cards(vm.uuid)
    now = _now(world, vm, cards, head_uuid)
    stands_on = next((card.name for card in cards if card.uuid == head_uuid), "")
    try:
        merges, freed_bytes = _cost_of_deletion(world, cluster, vm, snapshot)
    except StillframeError as error:
        if not isinstance(error, Refused):
            log.warning("what a deletion of %s would cost is not known: %s", snapshot.described, error)
        return Consequences(now, stands_on, error, (), 0)
    return Consequences(now, stands_on, None, merges, freed_bytes)


def _cost_of_deletion(world: World, cluster: Cluster, vm: Vm, snapshot: Snapshot) -> tuple[tuple[MergeCost, ...], int]:
    """What is merged, and the bytes that are freed for certain.

    Raises:
        Refused: as ``plan_delete``.
        Failed: STORAGE_FAILED.
    """
    plan = delete.plan_delete(world, cluster, vm, snapshot)
    with world.metadata.read() as tx:
        sizes = tx.quotas.layer_bytes(vm.uuid)
        targets = {volume.uuid: volume.target for volume in tx.layers.volumes(vm.uuid)}
        frozen = {disk.layer_uuid for other in tx.snapshots.of_vm(vm.uuid) for disk in other.disks}

    def size_of(layer: Layer) -> int:
        # one that is still written to may have a size on record, from when it was merged into
        known = sizes.get(layer.uuid) if layer.uuid in frozen else None
        return (world.volumes.probe_size(layer.path) or 0) if known is None else known

    merges = tuple(MergeCost(targets.get(merge.top.volume_uuid, ""), size_of(merge.source)) for merge in plan.merges)
    memory = snapshot.memory.size_bytes if snapshot.memory else 0
    return merges, memory + sum(sizes.get(drop.layer.uuid) or 0 for drop in plan.drops if not drop.layer.foreign)


def _now(world: World, vm: Vm, cards: Collection[SnapshotCard], head_uuid: str | None) -> Now:
    with world.metadata.read() as tx:
        volumes = tx.layers.volumes(vm.uuid)
        layers = {layer.uuid: layer for layer in tx.layers.layers(vm.uuid)}
        newest = tx.journal.page(OperationFilter(vm_uuid=vm.uuid, limit=_LOOKED_THROUGH))
    head = next((card for card in cards if card.uuid == head_uuid), None)
    # without a snapshot nothing is "since": the disks may be files that were there before the first
    heads = [layers[volume.head_layer_uuid].path for volume in volumes] if cards else []
    return Now(head.uuid if head else "", _since(head, newest) if head else 0, _bytes_of(world, vm, heads))


def _since(head: SnapshotCard, newest: Iterable[OperationRow]) -> int:
    back = [row.ended_at or 0 for row in newest if _went_back_to(row, head)]
    return max([head.ctime, *back])


def _went_back_to(row: OperationRow, head: SnapshotCard) -> bool:
    if row.kind != rollback.KIND or row.state is not OperationState.DONE:
        return False
    try:
        return rollback.OPERATION.decode(row.plan).snapshot_uuid == head.uuid
    except ValueError:
        # written by another version; what had the name before this one is older than its ctime, and so are its rollbacks
        return row.snapshot == head.name


def _bytes_of(world: World, vm: Vm, paths: Iterable[str]) -> int | None:
    """What these files occupy together; None: one is not there, or could not be looked at."""
    total = 0
    for path in paths:
        try:
            size_bytes = world.volumes.probe_size(path)
        except StillframeError as error:
            # a figure alone: what stands around it is still true, and is what somebody looks for who mends this
            log.warning("what was written to a disk of %s could not be measured: %s", vm.described, error)
            return None
        if size_bytes is None:
            return None
        total += size_bytes
    return total
