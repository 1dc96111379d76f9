"""Tasks: the journal's operations as those who wait for them see them. A plan never appears: it holds secrets."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from stillframe.domain.access import Principal
from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.operations.recovery import OPERATIONS
from stillframe.operations.runner import Runner
from stillframe.operations.steps import Step
from stillframe.operations.wording import case_in
from stillframe.operations.world import World
from stillframe.ports.metadata import ACTIVE_STATES, OperationFilter, OperationRow, OperationState

log = logging.getLogger(__name__)
_CANCELLABLE = (OperationState.PLANNING, OperationState.RUNNING)
_UNFINISHED_MAX = 99  # what is not over is not at 100


class TaskState(StrEnum):
    """An operation's state, in words for people."""

    PLANNING = "planning"
    RUNNING = "running"
    CANCELLING = "cancelling"  # asked to end, and about to be undone
    UNDOING = "undoing"
    FINISHING = "finishing"  # past its point of no return
    DONE = "done"
    REFUSED = "refused"
    UNDONE = "undone"
    LEFT = "left"  # could not be finished yet; it is tried again


# state -> which rows have it, and whether their cancelling was asked for (None: no matter)
_ROWS_IN: dict[TaskState, tuple[tuple[OperationState, ...], bool | None]] = {
    TaskState.PLANNING: ((OperationState.PLANNING,), False),
    TaskState.RUNNING: ((OperationState.RUNNING,), False),
    TaskState.CANCELLING: (_CANCELLABLE, True),
    TaskState.UNDOING: ((OperationState.UNDOING,), None),
    TaskState.FINISHING: ((OperationState.COMMITTED,), None),
    TaskState.DONE: ((OperationState.DONE,), None),
    TaskState.REFUSED: ((OperationState.REFUSED,), None),
    TaskState.UNDONE: ((OperationState.UNDONE,), None),
    TaskState.LEFT: ((OperationState.LEFT,), None),
}


@dataclass(frozen=True)
class TaskQuery:
    """Filters; empty means all. ``since``/``until``: begun then or between, Unix seconds.

    ``under_way``: those alone that have not ended, in place of ``state``. ``after``: the uuid of the last task of the page
    before.
    """

    cluster_uuid: str = ""
    compute_uuid: str = ""
    tenant: str = ""
    state: str = ""
    since: int | None = None
    until: int | None = None
    after: str = ""
    limit: int = 100
    under_way: bool = False


@dataclass(frozen=True)
class Task:
    """One operation. ``step`` is the one under way, "" when there is none; the counts of bytes are this step's.

    ``steps_done`` of ``steps_total`` and ``progress`` (0 to 100) are the whole operation's; a refused or undone one is at
    0. ``time_left_s`` is the step's, None when unknown. Times in Unix seconds. ``scode`` is the code of ``error`` where its
    words say which it is, as a refused one's do; else None.
    """

    uuid: str
    kind: str
    compute_uuid: str
    compute_name: str
    tenant: str
    snapshot: str
    state: TaskState
    cancellable: bool
    step: str
    steps_done: int
    steps_total: int
    progress: int
    bytes_done: int
    bytes_total: int
    rate_bytes_s: int
    time_left_s: int | None
    started_at: int
    ended_at: int | None
    error: str
    scode: int | None


@dataclass(frozen=True)
class TaskPage:
    """``next`` is what ``after`` has to be for the following page; "" at the end."""

    tasks: tuple[Task, ...]
    next: str


def list_tasks(world: World, query: TaskQuery, viewer: Principal) -> TaskPage:
    """Newest first, those that exist for the viewer. Tasks that begin while someone pages change no later page.

    Raises:
        Refused: TASK_UNKNOWN, for an ``after`` that is no task's.
    """
    if query.tenant and not viewer.sees(query.tenant):
        return TaskPage((), "")
    states, cancel_requested = _ROWS_IN[TaskState(query.state)] if query.state else ((), None)
    if query.under_way:
        states, cancel_requested = ACTIVE_STATES, None
    wanted = OperationFilter(
        vm_uuid=query.compute_uuid,
        tenant=query.tenant if viewer.bound is None else viewer.bound,
        states=states,
        cancel_requested=cancel_requested,
        since=query.since,
        until=query.until,
        after=query.after,
        limit=query.limit + 1,  # one more tells whether there is a next page
    )
    with world.metadata.read() as tx:
        if query.after:
            _known(tx.journal.get(query.after), query.after, viewer)
        rows = tx.journal.page(wanted)
    shown = rows[: query.limit]
    return TaskPage(tuple(task_of(row) for row in shown), shown[-1].uuid if len(rows) > len(shown) else "")


def get_task(world: World, task_uuid: str, viewer: Principal) -> Task:
    """One task.

    Raises:
        Refused: TASK_UNKNOWN.
    """
    with world.metadata.read() as tx:
        return task_of(_known(tx.journal.get(task_uuid), task_uuid, viewer))


def cancel_task(runner: Runner, task_uuid: str, viewer: Principal) -> Task:
    """Let it be undone; returns the task as it was when the wish was noted. Repeatable until the undo begins.

    Raises:
        Refused: TASK_UNKNOWN; TASK_NOT_CANCELLABLE, with what it is past; nothing has changed.
    """
    with runner.world.metadata.read() as tx:
        row = _known(tx.journal.get(task_uuid), task_uuid, viewer)
    if _can_be_cancelled(row):
        decided = runner.cancel(task_uuid)
        if decided in _CANCELLABLE:
            return task_of(replace(row, state=decided, cancel_requested=True))
        with runner.world.metadata.read() as tx:
            row = _known(tx.journal.get(task_uuid), task_uuid, viewer)
    raise Refused(ErrorCase.TASK_NOT_CANCELLABLE, f"{row.kind} (operation {row.uuid}) {_why_not(row)}")


def task_of(row: OperationRow) -> Task:
    """The row without its plan."""
    steps = _steps_of(row)
    under_way = _under_way(row, steps)
    counted = under_way is not None and row.step == under_way.name
    done, total, rate = (row.bytes_done, row.bytes_total, row.rate_bytes_s) if counted else (0, 0, 0)
    state = _state_of(row)
    moves = state in (TaskState.RUNNING, TaskState.FINISHING)
    return Task(
        uuid=row.uuid,
        kind=row.kind,
        compute_uuid=row.vm_uuid,
        compute_name=row.vm_name,
        tenant=row.tenant,
        snapshot=row.snapshot,
        state=state,
        cancellable=_can_be_cancelled(row) and not row.cancel_requested,
        step=under_way.name if under_way else "",
        # marks stand among what is done; of a plan that cannot be read it is not known which they are
        steps_done=sum(step.name in row.steps_done for step in steps) if steps else len(row.steps_done),
        steps_total=len(steps),
        progress=_progress(row, steps, done / total if total > 0 else 0.0),
        bytes_done=done,
        bytes_total=total,
        rate_bytes_s=rate,
        time_left_s=math.ceil(max(0, total - done) / rate) if moves and rate > 0 and total > 0 else None,
        started_at=row.started_at,
        ended_at=row.ended_at,
        error=row.error,
        scode=case.code if (case := case_in(row.error)) else None,
    )


def _known(row: OperationRow | None, task_uuid: str, viewer: Principal) -> OperationRow:
    if row is None or not viewer.sees(row.tenant):
        raise Refused(ErrorCase.TASK_UNKNOWN, f"task {task_uuid}")
    return row


def _can_be_cancelled(row: OperationRow) -> bool:
    """A call without steps of its own has no undo: it only holds the slot for a moment."""
    return row.state in _CANCELLABLE and row.kind in OPERATIONS


def _state_of(row: OperationRow) -> TaskState:
    return next(
        state
        for state, (states, cancelling) in _ROWS_IN.items()
        if row.state in states and cancelling in (None, row.cancel_requested)
    )


def _steps_of(row: OperationRow) -> Sequence[Step[Any]]:
    if not row.plan or row.kind not in OPERATIONS:
        return ()
    operation = OPERATIONS[row.kind]
    try:
        return operation.steps_of(operation.decode(row.plan))
    except (ValueError, StillframeError):
        # an older version may have written it in another form: the rest of the row can be shown all the same
        log.warning("operation %s (%s): its plan is not of this version's form", row.uuid, row.kind)
        return ()


def _under_way(row: OperationRow, steps: Sequence[Step[Any]]) -> Step[Any] | None:
    if row.ended_at is not None:
        return None
    return next((step for step in steps if step.name not in row.steps_done), None)


def _progress(row: OperationRow, steps: Sequence[Step[Any]], of_step: float) -> int:
    if row.state is OperationState.DONE:
        return 100
    if row.state in (OperationState.REFUSED, OperationState.UNDONE) or not steps:
        return 0
    done = float(sum(step.weight for step in steps if step.name in row.steps_done))
    under_way = _under_way(row, steps)
    if under_way is not None:
        done += under_way.weight * min(1.0, of_step)
    return min(_UNFINISHED_MAX, int(100 * done / sum(step.weight for step in steps)))


def _why_not(row: OperationRow) -> str:
    task = task_of(row)
    match row.state:
        case OperationState.PLANNING | OperationState.RUNNING:
            return "has nothing to be undone; it ends by itself"
        case OperationState.COMMITTED:
            bytes_said = f", {task.bytes_done} of {task.bytes_total} bytes" if task.bytes_total else ""
            return f"is past its point of no return: at step '{task.step}'{bytes_said}, {task.progress} % done"
        case OperationState.UNDOING:
            return f"is being undone already: {row.error}"
        case OperationState.LEFT:
            return f"is being finished by itself: {row.error}"
        case _:
            return f"has ended: {task.state}" + (f": {row.error}" if row.error else "")
