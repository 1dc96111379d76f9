"""Runs operations: plans of steps with durable undo, written to the journal before the first side effect.

The order for every step: act, then one short transaction that changes rows and notes the step as done. Before the
point of no return a failure undoes every step that may have begun, in reverse. After it the operation only goes
forward; what cannot be finished now is left in the journal, is said, and is taken up again: by and by in the background,
by the next operation on the VM, and at the next start.

Where giving up would leave something half-done (undo, and everything after the point of no return), a hypervisor that
cannot be reached is waited for.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.domain.quota import Demand
from stillframe.operations.moments import Moment, Phase
from stillframe.operations.overtaking import carry_over
from stillframe.operations.patience import patiently
from stillframe.operations.quotas import check_busy, reserve
from stillframe.operations.rows import About, new_row
from stillframe.operations.steps import Operation, P, Scratch, Step
from stillframe.operations.telling import telling_step
from stillframe.operations.wording import (
    NOT_UNDONE,
    UNDONE_LATER,
    describe,
    describe_in_full,
    first_cause,
    remark_in,
    story,
    with_remark,
)
from stillframe.operations.work import Work
from stillframe.operations.world import World
from stillframe.ports.correlation import in_operation
from stillframe.ports.instruments import Begun
from stillframe.ports.metadata import OperationRow, OperationState, Slot

log = logging.getLogger(__name__)
_DATABASE_AWAY = (ErrorCase.STORAGE_FAILED, ErrorCase.SPACE_EXHAUSTED, ErrorCase.DATABASE_DAMAGED)


@dataclass
class Claim:
    """A VM's slot, held. ``run`` at most once; without it the slot was only held for a moment (power calls)."""

    runner: Runner
    row: OperationRow
    planned: bool = field(default=False)

    def run(self, operation: Operation[P], plan: P, demand: Demand | None = None) -> Scratch:
        """Write the plan, do it. ``demand``: what it may need of its tenant's budget.

        Raises:
            Refused: QUOTA_EXHAUSTED; nothing was done.
            StillframeError: the step's error after a complete undo; LEFT_BEHIND when something is left.
        """
        with self.runner.world.metadata.write() as tx:
            if demand is not None:
                reserve(tx, self.row.uuid, demand)
            tx.journal.set_plan(self.row.uuid, operation.encode(plan))
        self.planned = True
        self.runner.tell(self.row.uuid, operation.kind, "", Phase.PLANNED)
        return self.runner.drive(self.row.uuid, operation, plan, frozenset())


class Runner:
    """Drives operations; one instance per service."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._works: dict[str, Work] = {}
        # operation uuid -> how it ended, where the database did not take it yet
        self._unnoted: dict[str, tuple[OperationState, str]] = {}

    @contextmanager
    def claim(self, about: About, slot: Slot, kind: str) -> Iterator[Claim]:
        """Take the VM's slot, for planning under its protection.

        Raises:
            Refused: VM_BUSY, TOO_BUSY.
        """
        self.note_ends()
        row = new_row(self.world, about, slot, kind)
        with self.world.metadata.write() as tx:
            tx.journal.open(row)
            check_busy(tx, self.world, about.tenant)
        claim = Claim(self, row)
        with self.being_about(row):
            try:
                self.tell(row.uuid, kind, "", Phase.CLAIMED)
                yield claim
            except BaseException as error:
                if not claim.planned:
                    self.end(row.uuid, OperationState.REFUSED, describe_in_full(error))
                raise
            if not claim.planned:
                self.end(row.uuid, OperationState.DONE)

    @contextmanager
    def being_about(self, row: OperationRow) -> Iterator[None]:
        """What is logged inside is about this operation, which has begun."""
        with in_operation(row.uuid):
            self.world.instruments.began(Begun(row.uuid, row.kind, row.vm_uuid))
            yield

    def drive(self, operation_uuid: str, operation: Operation[P], plan: P, done: frozenset[str]) -> Scratch:
        """Do every step that is not among ``done``; the operation is closed when this returns or raises."""
        with self._working(operation_uuid) as told:
            return self._drive(operation_uuid, operation, plan, done, told)

    def _drive(
        self, operation_uuid: str, operation: Operation[P], plan: P, done: frozenset[str], told: Scratch
    ) -> Scratch:
        steps = operation.steps_of(plan)
        committed = False
        for position, step in enumerate(steps):
            if step.name not in done:
                try:
                    with telling_step(self.world.instruments, operation_uuid, step.family):
                        self._do(operation_uuid, operation, step, plan, told, committed=committed)
                except BaseException as error:
                    if committed or (step.commits and self._has_committed(operation_uuid)):
                        words = self._leave(operation_uuid, operation.kind, step.name, error, told)
                        if isinstance(error, Exception):
                            raise Failed(ErrorCase.LEFT_BEHIND, words) from error
                        raise
                    carried = self.undo(operation_uuid, operation, plan, steps[: position + 1], error)
                    if carried is None or not isinstance(error, Exception):
                        raise
                    return carried
                self.tell(operation_uuid, operation.kind, step.family, Phase.NOTED)
            committed = committed or step.commits
        if told.remark:
            log.warning("operation %s (%s) is done, but: %s", operation_uuid, operation.kind, told.remark)
        self._close(operation_uuid, operation.kind, OperationState.DONE, told.remark)
        return told

    def _do(
        self,
        operation_uuid: str,
        operation: Operation[P],
        step: Step[P],
        plan: P,
        told: Scratch,
        *,
        committed: bool,
    ) -> None:
        log.debug("operation %s: %s", operation_uuid, step.name)
        if not committed:
            told.work.check()
        told.work.begin_step(step.name)

        def act() -> None:
            self.tell(operation_uuid, operation.kind, step.family, Phase.BEFORE)
            step.do(self.world, plan, told)
            self.tell(operation_uuid, operation.kind, step.family, Phase.ACTED)

        def note() -> None:
            with self.world.metadata.write() as tx:
                if step.record is not None:
                    step.record(tx, plan, told)
                tx.journal.step_done(operation_uuid, step.name, committed=step.commits)
                if committed and told.remark:
                    tx.journal.set_error(operation_uuid, with_remark("", told.remark))

        what = f"{operation.kind}: {step.name}"
        if committed or operation.resumes:
            self._patiently(what, act)
        else:
            act()
        if operation.resumes:
            # nobody waits for its answer, and giving up would throw away what was saved
            self._patiently(what, note, cases=_DATABASE_AWAY)
        else:
            note()

    def undo(
        self,
        operation_uuid: str,
        operation: Operation[P],
        plan: P,
        steps: tuple[Step[P], ...],
        cause: BaseException,
        *,
        holds_slot: bool = True,
    ) -> Scratch | None:
        """Undo ``steps`` in reverse and close the operation as undone.

        It stops at the first undo that fails: those of earlier steps would take away what it still needs (the overlay
        that a guest is writing to). ``holds_slot`` is false for an operation that was left: its slot may be another's.

        One that the world has overtaken is carried forward instead; then what its steps told is returned.

        Raises:
            Failed: LEFT_BEHIND when one failed; the operation is then left for recovery.
        """
        if holds_slot:
            self._begin_undo(operation_uuid, operation.kind, cause)
        what = "looking whether it still can be"
        try:
            done = self._carried_over(operation_uuid, operation, plan, holds_slot=holds_slot)
            for step in () if done else reversed(steps):
                what = step.name
                self._undo_step(operation_uuid, operation.kind, step, plan)
        except Exception as error:
            log.exception("operation %s (%s): undo of %s failed", operation_uuid, operation.kind, what)
            words = f"{operation.kind} failed ({first_cause(cause)}){NOT_UNDONE}: {what}: {describe(error)}"
            self.end(operation_uuid, OperationState.LEFT, words)
            raise Failed(ErrorCase.LEFT_BEHIND, words) from cause
        if done:
            return self.drive(operation_uuid, operation, plan, done)
        if exc_info := story(cause):
            log.error("operation %s (%s) was undone", operation_uuid, operation.kind, exc_info=exc_info)
        self._close(operation_uuid, operation.kind, OperationState.UNDONE, first_cause(cause))
        return None

    def _carried_over(
        self, operation_uuid: str, operation: Operation[P], plan: P, *, holds_slot: bool
    ) -> frozenset[str]:
        """Steps that are done because the world has gone on; none when the operation can be undone."""
        overtaken = operation.overtaken
        if overtaken is None:
            return frozenset()
        told = Scratch(Work(self.world.metadata, operation_uuid))

        def look() -> None:
            told.remark = overtaken(self.world, plan)

        self._patiently(f"{operation.kind}: look whether it can be undone", look)
        if not told.remark:
            return frozenset()
        log.warning("operation %s (%s) is not undone but finished: %s", operation_uuid, operation.kind, told.remark)
        return carry_over(self.world, operation_uuid, operation, plan, told, holds_slot=holds_slot)

    def _begin_undo(self, operation_uuid: str, kind: str, cause: BaseException) -> None:
        try:
            self.set_state(operation_uuid, OperationState.UNDOING, first_cause(cause))
        except StillframeError as error:
            if error.case is ErrorCase.VM_BUSY:  # it was left, and the slot is another's by now: nothing is changed
                raise
            words = f"{kind} failed ({first_cause(cause)}){UNDONE_LATER}: {describe(error)}"
            log.error("operation %s: %s", operation_uuid, words)  # noqa: TRY400 -- the words say it
            self.end(operation_uuid, OperationState.LEFT, words)
            raise Failed(ErrorCase.LEFT_BEHIND, words) from cause

    def _undo_step(self, operation_uuid: str, kind: str, step: Step[P], plan: P) -> None:
        undo = step.undo
        if undo is None:
            return

        def act() -> None:
            self.tell(operation_uuid, kind, step.family, Phase.UNDOING)
            undo(self.world, plan)
            self.tell(operation_uuid, kind, step.family, Phase.TAKEN_BACK)

        with telling_step(self.world.instruments, operation_uuid, f"undo: {step.family}"):
            self._patiently(f"{kind}: undo of {step.name}", act)

    def cancel(self, operation_uuid: str) -> OperationState:
        """Let an operation be undone that has not passed its point of no return; returns the state that decided.

        PLANNING and RUNNING are cancelled: the database lets them commit no more. It does not wait for the undo.
        """
        with self.world.metadata.write() as tx:
            state = tx.journal.request_cancel(operation_uuid)
        work = self._works.get(operation_uuid)
        if work is not None and state in (OperationState.PLANNING, OperationState.RUNNING):
            work.cancel()
        return state

    @property
    def is_working(self) -> bool:
        """Some operation is being driven at this moment."""
        return bool(self._works)

    def tell(self, operation_uuid: str, kind: str, step: str, phase: Phase) -> None:
        self.world.watch(Moment(operation_uuid, kind, step, phase))

    def set_state(self, operation_uuid: str, state: OperationState, error: str = "") -> None:
        """One transaction. Raises ``Refused`` VM_BUSY when an active state is wanted and the slot is another's."""
        with self.world.metadata.write() as tx:
            tx.journal.set_state(operation_uuid, state, at=int(self.world.now_s()), error=error)

    def end(self, operation_uuid: str, state: OperationState, error: str = "") -> None:
        """Like ``set_state`` for a state that frees the slot, and never fails for the database's sake.

        Where it cannot be noted now the outcome stands, and the slot is held until ``note_ends`` has noted it. Should
        the service die before, recovery comes to the same end.
        """
        self.world.instruments.ended(operation_uuid, state.value)
        try:
            self.set_state(operation_uuid, state, error)
        except StillframeError as away:
            log.exception("operation %s is %s, which could not be noted", operation_uuid, state)
            if away.case in _DATABASE_AWAY:
                self._unnoted[operation_uuid] = (state, error)

    def note_ends(self) -> None:
        """Note how operations ended, of which the database did not hear when it happened; what fails is kept."""
        for operation_uuid in tuple(self._unnoted):
            # taken out first: another thread may be at the same
            outcome = self._unnoted.pop(operation_uuid, None)
            if outcome is not None:
                self.end(operation_uuid, *outcome)

    @contextmanager
    def _working(self, operation_uuid: str) -> Iterator[Scratch]:
        work = Work(self.world.metadata, operation_uuid)
        # registered before the look: a cancel is heard by the one or the other
        self._works[operation_uuid] = work
        try:
            row = self._row_or_none(operation_uuid)
            if row is not None and row.cancel_requested:
                work.cancel()
            yield Scratch(work, remark_in(row.error) if row is not None else "")
        finally:
            # one that is carried forward from its undo is driven within its own driving
            self._works.pop(operation_uuid, None)

    def _row_or_none(self, operation_uuid: str) -> OperationRow | None:
        """A database that cannot be read now must not keep an operation from being driven: nobody else would end it.

        Before it commits its own transaction looks once more whether it was cancelled.
        """
        try:
            with self.world.metadata.read() as tx:
                return tx.journal.get(operation_uuid)
        except StillframeError:
            log.exception("operation %s: whether it was cancelled cannot be read now", operation_uuid)
            return None

    def _patiently(
        self,
        what: str,
        act: Callable[[], None],
        *,
        cases: tuple[ErrorCase, ...] = (ErrorCase.HOST_UNREACHABLE,),
    ) -> None:
        patiently(what, act, self.world.limits.host_patience_s, cases)

    def _has_committed(self, operation_uuid: str) -> bool:
        """A commit whose reply was lost may have happened: the journal knows.

        Where it cannot be asked now, the operation is left as if it had: who takes it up again reads the journal first.
        """
        try:
            with self.world.metadata.read() as tx:
                row = tx.journal.get(operation_uuid)
        except StillframeError:
            log.exception("operation %s: whether it has committed cannot be read now", operation_uuid)
            return True
        return row is not None and row.state is OperationState.COMMITTED

    def _leave(self, operation_uuid: str, kind: str, step: str, error: BaseException, told: Scratch) -> str:
        words = f"{kind} is past its point of no return and goes on by itself: {step}: {describe(error)}"
        words = with_remark(words, told.remark)
        log.error("operation %s: %s", operation_uuid, words, exc_info=story(error))
        self.end(operation_uuid, OperationState.LEFT, words)
        return words

    def _close(self, operation_uuid: str, kind: str, state: OperationState, error: str = "") -> None:
        self.tell(operation_uuid, kind, "", Phase.CLOSING)
        self.end(operation_uuid, state, error)
        self.tell(operation_uuid, kind, "", Phase.CLOSED)
