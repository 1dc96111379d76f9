"""A VM and its snapshots as people see them: the tree with sizes, and what an act would cost before it is done.

Looks only.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from stillframe.domain.errors import Refused, StillframeError
from stillframe.domain.layout import Layout, lay_out
from stillframe.domain.snapshot import Snapshot, SnapshotCard
from stillframe.domain.tree import Node
from stillframe.domain.vm import Action, Vm
from stillframe.operations import delete, rollback
from stillframe.operations.detail import action_of
from stillframe.operations.requests import Cluster
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationFilter, OperationState

_LOOKED_THROUGH = 200  # of the VM's operations, for its last rollback


@dataclass(frozen=True)
class Now:
    """The current state: what it descends from ("" for nothing), since when (Unix seconds; 0: not known), and what was
    written since, in bytes that its files occupy.
    """

    head_uuid: str
    since: int
    changed_bytes: int


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
    """``size_bytes``: what the layer occupies whose data is copied; ``target``: the disk."""

    target: str
    size_bytes: int


@dataclass(frozen=True)
class Consequences:
    """What a rollback to the snapshot throws away (``now``), and what its deletion takes.

    ``refusal``: why it cannot be deleted now; None: it can. ``freed_bytes``: what goes for certain, memory and layers that
    nothing needs; a merge frees what the lower layer had in the same places as well.
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
    ctime = next((card.ctime for card in cards if card.uuid == head_uuid), 0)
    return Overview(vm, action_of(active), _now(world, vm, head_uuid, ctime), tuple(cards), layout)


def consequences(world: World, cluster: Cluster, vm: Vm, snapshot: Snapshot) -> Consequences:
    with world.metadata.read() as tx:
        cards, head_uuid = tx.snapshots.cards(vm.uuid)
        sizes = tx.quotas.layer_bytes(vm.uuid)
        targets = {volume.uuid: volume.target for volume in tx.layers.volumes(vm.uuid)}
    head = next((card for card in cards if card.uuid == head_uuid), None)
    now = _now(world, vm, head_uuid, head.ctime if head else 0)
    stands_on = head.name if head else ""
    try:
        plan = delete.plan_delete(world, cluster, vm, snapshot)
    except Refused as refusal:
        return Consequences(now, stands_on, refusal, (), 0)
    merges = tuple(
        MergeCost(
            targets.get(merge.top.volume_uuid, ""),
            sizes.get(merge.top.uuid) or world.volumes.probe_size(merge.top.path) or 0,
        )
        for merge in plan.merges
    )
    memory = snapshot.memory.size_bytes if snapshot.memory else 0
    dropped = sum(sizes.get(drop.layer.uuid) or 0 for drop in plan.drops if not drop.layer.foreign)
    return Consequences(now, stands_on, None, merges, memory + dropped)


def _now(world: World, vm: Vm, head_uuid: str | None, ctime: int) -> Now:
    with world.metadata.read() as tx:
        volumes = tx.layers.volumes(vm.uuid)
        layers = {layer.uuid: layer for layer in tx.layers.layers(vm.uuid)}
        newest = tx.journal.page(OperationFilter(vm_uuid=vm.uuid, limit=_LOOKED_THROUGH))
    back = [row.ended_at or 0 for row in newest if row.kind == rollback.KIND and row.state is OperationState.DONE]
    heads = [layers[volume.head_layer_uuid].path for volume in volumes if head_uuid is not None]
    changed_bytes = sum(world.volumes.probe_size(path) or 0 for path in heads)
    return Now(head_uuid or "", max([ctime, *back]) if head_uuid else 0, changed_bytes)
