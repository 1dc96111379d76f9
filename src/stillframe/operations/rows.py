"""Operations before they run: what each is about, and the rows that the journal gets of them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from stillframe.operations.world import World
from stillframe.ports.metadata import OperationRow, OperationState, Slot


@dataclass(frozen=True)
class About:
    """What an operation is about, as the list of tasks shows it. ``snapshot`` is a name."""

    vm_uuid: str
    vm_name: str = ""
    tenant: str = ""
    snapshot: str = ""


def new_row(world: World, about: About, slot: Slot, kind: str) -> OperationRow:
    """A fresh operation of this kind in planning, not yet in the journal."""
    return OperationRow(
        uuid=world.new_uuid(),
        vm_uuid=about.vm_uuid,
        slot=slot,
        kind=kind,
        state=OperationState.PLANNING,
        plan="",
        steps_done=(),
        started_at=int(world.now_s()),
        ended_at=None,
        error="",
        tenant=about.tenant,
        vm_name=about.vm_name,
        snapshot=about.snapshot,
    )


def ended_row(world: World, about: About, kind: str) -> OperationRow:
    """An operation that is done at once: one row or one call of the hypervisor, for which no slot was held."""
    row = new_row(world, about, Slot.EXCLUSIVE, kind)
    return replace(row, state=OperationState.DONE, ended_at=row.started_at)


def planned(row: OperationRow, plan: str) -> OperationRow:
    """The row of an operation that another one opens: it has its plan at once."""
    return replace(row, state=OperationState.RUNNING, plan=plan)
