"""The journal as rows: see ``stillframe.ports.metadata.JournalRows`` for the promises.

``lock_key`` names the VM and the slot while an operation is active, and is unique: law 6 holds even against a process
that knows nothing of this code.
"""

from __future__ import annotations

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import operation_steps, operations, values_of
from stillframe.adapters.metadata.uniqueness import is_unique
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.ports.metadata import ACTIVE_STATES, OperationFilter, OperationRow, OperationState, Progress, Slot

if TYPE_CHECKING:
    from collections.abc import Collection


_ENDED = (OperationState.DONE, OperationState.UNDONE, OperationState.REFUSED)


class SqlJournal:
    """Operations and their steps on one connection.

    Writing about an operation that the journal does not know, or that is not in a state for it, raises ``Failed``
    INTERNAL: it is a mistake of the caller's, never silently dropped.
    """

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def open(self, operation: OperationRow) -> None:
        key = _lock_key(operation.vm_uuid, operation.slot, operation.state)
        self._take(key, sa.insert(operations).values(values_of(operation, operations, lock_key=key)))
        for step in operation.steps_done:
            self._record_step(operation.uuid, step)

    def get(self, operation_uuid: str) -> OperationRow | None:
        return self._load_one(operations.c.uuid == operation_uuid)

    def active(self, vm_uuids: Collection[str] | None = None) -> list[OperationRow]:
        # Only a few are ever active: choosing here spares a parameter for each of a cluster's VMs.
        wanted = None if vm_uuids is None else frozenset(vm_uuids)
        found = self._load(operations.c.lock_key.is_not(None))
        return [operation for operation in found if wanted is None or operation.vm_uuid in wanted]

    def left(self) -> list[OperationRow]:
        return self._load(operations.c.state == OperationState.LEFT)

    def set_plan(self, operation_uuid: str, plan: str) -> None:
        """An operation past PLANNING keeps its state; one that has ended takes no plan (``Failed`` INTERNAL)."""
        current = self._require(operation_uuid)
        if current.state not in ACTIVE_STATES:
            raise Failed(ErrorCase.INTERNAL, f"operation {operation_uuid} is {current.state} and takes no plan")
        state = OperationState.RUNNING if current.state is OperationState.PLANNING else current.state
        self._update(operation_uuid, plan=plan, state=state)

    def step_done(self, operation_uuid: str, step: str, *, committed: bool) -> None:
        """Repeatable: a step keeps its first position. Only a running operation commits (else ``Failed`` INTERNAL)."""
        # asked before every step's end, while somebody waits: no more than is needed
        chosen = sa.select(operations.c.state, operations.c.cancel_requested).where(operations.c.uuid == operation_uuid)
        current = self._connection.execute(chosen).one_or_none()
        if current is None:
            raise _unknown(operation_uuid)
        state = OperationState(current.state)
        if committed and state not in (OperationState.RUNNING, OperationState.COMMITTED):
            raise Failed(ErrorCase.INTERNAL, f"operation {operation_uuid} is {state} and cannot commit")
        if committed and state is OperationState.RUNNING and current.cancel_requested:
            raise Refused(ErrorCase.CANCELLED, f"operation {operation_uuid} was cancelled")
        self._record_step(operation_uuid, step)
        if committed:
            self._update(operation_uuid, state=OperationState.COMMITTED)

    def set_state(self, operation_uuid: str, state: OperationState, *, at: int, error: str = "") -> None:
        """``error`` replaces what stood there. An inactive state frees the slot and sets ``ended_at``.

        An active one takes the slot again, as recovery does with an operation that was LEFT.

        Raises:
            Refused: VM_BUSY, when another operation has the slot by now; nothing changes.
        """
        current = self._require(operation_uuid)
        if state in ACTIVE_STATES and current.state in _ENDED:
            raise Failed(ErrorCase.INTERNAL, f"operation {operation_uuid} is {current.state} and does not begin again")
        key = _lock_key(current.vm_uuid, current.slot, state)
        change = sa.update(operations).where(operations.c.uuid == operation_uuid)
        ended_at = at if key is None else None
        self._take(key, change.values(state=state, error=error, ended_at=ended_at, lock_key=key))

    def set_error(self, operation_uuid: str, error: str) -> None:
        self._update(operation_uuid, error=error)

    def set_progress(self, operation_uuid: str, step: str, progress: Progress) -> None:
        self._update(operation_uuid, step=step, **asdict(progress))

    def request_cancel(self, operation_uuid: str) -> OperationState:
        current = self._require(operation_uuid)
        if current.state in (OperationState.PLANNING, OperationState.RUNNING):
            self._update(operation_uuid, cancel_requested=True)
        return current.state

    def remove_ended(self, before: int, *, keep: int, batch: int) -> int:
        table = operations.c
        last_to_go = self._connection.scalar(sa.select(table.id).order_by(table.id.desc()).offset(keep).limit(1))
        if last_to_go is None:
            return 0
        ended = table.state.in_([str(state) for state in _ENDED])
        old = sa.select(table.uuid).where(ended, table.id <= last_to_go, table.ended_at < before)
        old = old.order_by(table.id).limit(batch)
        uuids = list(self._connection.scalars(old))
        self._connection.execute(sa.delete(operation_steps).where(operation_steps.c.operation_uuid.in_(uuids)))
        self._connection.execute(sa.delete(operations).where(table.uuid.in_(uuids)))
        return len(uuids)

    def page(self, wanted: OperationFilter) -> list[OperationRow]:
        table = operations.c
        chosen: list[sa.ColumnElement[bool]] = []
        if wanted.vm_uuid:
            chosen.append(table.vm_uuid == wanted.vm_uuid)
        if wanted.tenant:
            chosen.append(table.tenant == wanted.tenant)
        if wanted.states:
            chosen.append(table.state.in_([str(state) for state in wanted.states]))
        if wanted.cancel_requested is not None:
            chosen.append(table.cancel_requested.is_(wanted.cancel_requested))
        if wanted.since is not None:
            chosen.append(table.started_at >= wanted.since)
        if wanted.until is not None:
            chosen.append(table.started_at <= wanted.until)
        if wanted.after:
            last = sa.select(table.id).where(table.uuid == wanted.after).scalar_subquery()
            chosen.append(table.id < last)
        page = sa.select(table.id).where(*chosen).order_by(table.id.desc()).limit(wanted.limit)
        ids = list(self._connection.scalars(page))
        # id, not time: a clock that is set back must not make a page miss or repeat a row
        return self._load(table.id.in_(ids), newest_first=True)

    def _take(self, key: str | None, statement: sa.Insert | sa.Update) -> None:
        if is_unique(self._connection, statement):
            return
        holder = None if key is None else self._load_one(operations.c.lock_key == key)
        if holder is None:
            raise Failed(ErrorCase.STORAGE_FAILED, "the database does not take the operation: it is no new one")
        since = datetime.fromtimestamp(holder.started_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        desc = f"{holder.kind} (operation {holder.uuid}) has been running on it since {since}"
        raise Refused(ErrorCase.VM_BUSY, desc)

    def _record_step(self, operation_uuid: str, step: str) -> None:
        """Behind those that are done; one that is done already keeps its place."""
        done = sa.select(operation_steps.c.step).where(operation_steps.c.operation_uuid == operation_uuid)
        steps = self._connection.execute(done).scalars().all()
        if step not in steps:
            self._connection.execute(
                sa.insert(operation_steps).values(operation_uuid=operation_uuid, position=len(steps), step=step)
            )

    def _update(self, operation_uuid: str, **values: Any) -> None:
        changed = self._connection.execute(
            sa.update(operations).where(operations.c.uuid == operation_uuid).values(**values)
        )
        if changed.rowcount == 0:
            raise _unknown(operation_uuid)

    def _require(self, operation_uuid: str) -> OperationRow:
        found = self.get(operation_uuid)
        if found is None:
            raise _unknown(operation_uuid)
        return found

    def _load_one(self, chosen: sa.ColumnElement[bool]) -> OperationRow | None:
        found = self._load(chosen)
        return found[0] if found else None

    def _load(self, chosen: sa.ColumnElement[bool], *, newest_first: bool = False) -> list[OperationRow]:
        steps: dict[str, list[str]] = {}
        for operation_uuid, step in self._connection.execute(
            sa.select(operation_steps.c.operation_uuid, operation_steps.c.step)
            .where(operation_steps.c.operation_uuid.in_(sa.select(operations.c.uuid).where(chosen)))
            .order_by(operation_steps.c.operation_uuid, operation_steps.c.position)
        ):
            steps.setdefault(operation_uuid, []).append(step)
        # by id, not by time: what was begun later is finished later, whatever the clock said
        order = operations.c.id.desc() if newest_first else operations.c.id
        rows = self._connection.execute(sa.select(operations).where(chosen).order_by(order))
        return [_operation(row, tuple(steps.get(row.uuid, ()))) for row in rows]


def _lock_key(vm_uuid: str, slot: Slot, state: OperationState) -> str | None:
    return f"{vm_uuid}/{slot}" if state in ACTIVE_STATES else None


def _unknown(operation_uuid: str) -> Failed:
    return Failed(ErrorCase.INTERNAL, f"the journal has no operation {operation_uuid}")


def _operation(row: sa.Row[Any], steps_done: tuple[str, ...]) -> OperationRow:
    return OperationRow(
        uuid=row.uuid,
        vm_uuid=row.vm_uuid,
        slot=Slot(row.slot),
        kind=row.kind,
        state=OperationState(row.state),
        plan=row.plan,
        steps_done=steps_done,
        started_at=row.started_at,
        ended_at=row.ended_at,
        error=row.error,
        tenant=row.tenant,
        vm_name=row.vm_name,
        snapshot=row.snapshot,
        step=row.step,
        bytes_done=row.bytes_done,
        bytes_total=row.bytes_total,
        rate_bytes_s=row.rate_bytes_s,
        cancel_requested=bool(row.cancel_requested),
    )
