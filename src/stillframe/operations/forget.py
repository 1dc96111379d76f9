"""Remove a witness guest with every snapshot, memory state and layer of it.

Point of no return: the transaction that unpublishes all snapshots; it is the first step.
"""

from __future__ import annotations

from dataclasses import dataclass

from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.layers import Layer
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import World
from stillframe.ports.metadata import Slot, Transaction

KIND = "forget"


@dataclass(frozen=True)
class ForgetPlan:
    """``snapshot_uuids`` newest first; ``layers`` children before parents; ``guest`` is its name."""

    vm_uuid: str
    snapshot_uuids: tuple[str, ...]
    memory_uuids: tuple[str, ...]
    layers: tuple[Layer, ...]
    guest: str


def plan_forget(world: World, vm_uuid: str, guest: str) -> ForgetPlan:
    with world.metadata.read() as tx:
        snapshots = tx.snapshots.of_vm(vm_uuid)
        layers = tx.layers.layers(vm_uuid)
    return ForgetPlan(
        vm_uuid=vm_uuid,
        snapshot_uuids=tuple(s.uuid for s in reversed(snapshots)),
        memory_uuids=tuple(s.memory.uuid for s in snapshots if s.memory is not None),
        layers=_children_first(layers),
        guest=guest,
    )


def _children_first(layers: list[Layer]) -> tuple[Layer, ...]:
    parent_of = {layer.uuid: layer.parent_uuid for layer in layers}

    def depth(layer: Layer) -> int:
        steps, current = 0, layer.parent_uuid
        while current is not None:
            steps, current = steps + 1, parent_of[current]
        return steps

    return tuple(sorted(layers, key=depth, reverse=True))


def _unpublish(tx: Transaction, plan: ForgetPlan, _scratch: Scratch) -> None:
    for snapshot_uuid in plan.snapshot_uuids:
        tx.snapshots.remove(snapshot_uuid)


def _power_off(world: World, plan: ForgetPlan, _scratch: Scratch) -> None:
    if _is_there(world, plan):
        world.power.ensure_off(plan.vm_uuid)


def _remove_guest(world: World, plan: ForgetPlan, _scratch: Scratch) -> None:
    if _is_there(world, plan):
        world.guests.delete(plan.guest)


def _is_there(world: World, plan: ForgetPlan) -> bool:
    """False when it is proved gone: an interrupted run has removed it."""
    try:
        world.inventory.get_vm(plan.vm_uuid)
    except Refused as error:
        if error.case is ErrorCase.VM_UNKNOWN:
            return False
        raise
    return True


def _drop_files(world: World, plan: ForgetPlan, _scratch: Scratch) -> None:
    for memory_uuid in plan.memory_uuids:
        world.memory_store.ensure_dropped(memory_uuid)
    for snapshot_uuid in plan.snapshot_uuids:
        world.memory_store.drop_screenshot(snapshot_uuid)
    for layer in plan.layers:
        if not layer.foreign:
            world.volumes.ensure_dropped(layer.path)


def _forget_layers(tx: Transaction, plan: ForgetPlan, _scratch: Scratch) -> None:
    for layer in plan.layers:
        tx.layers.remove_layer(layer.uuid)


def steps(_plan: ForgetPlan) -> tuple[Step[ForgetPlan], ...]:
    return (
        Step("unpublish", record=_unpublish, commits=True),
        Step("power off", _power_off),
        Step("drop files", _drop_files, record=_forget_layers),
        Step("remove the guest", _remove_guest),
    )


FAMILIES = (
    "unpublish",
    "power off",
    "drop files",
    "remove the guest",
)
OPERATION = Operation(KIND, Slot.EXCLUSIVE, ForgetPlan, steps, FAMILIES, "unpublish", needs_vm=False)
