"""Runs operations: plans of steps with durable undo, written to the journal before the first side effect.

The order for every step: act, then one short transaction that changes rows and notes the step as done. Before the
point of no return a failure undoes every step that may have begun, in reverse. After it the operation only goes
forward; what cannot be finished now is left in the journal, is said, and is taken up again by the next operation on
the VM and at the next start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationRow, OperationState, Slot, Transaction

log = logging.getLogger(__name__)
P = TypeVar("P")


class Scratch(dict[str, Any]):
    """What one step tells a later one within a run. Never durable: undo and recovery work from the plan alone."""


Do = Callable[[World, P, Scratch], None]
Undo = Callable[[World, P], None]
Record = Callable[[Transaction, P, Scratch], None]


def nothing(_world: World, _plan: Any, _scratch: Scratch) -> None:
    """A step that only changes rows, or only marks the point of no return."""


@dataclass(frozen=True)
class Step(Generic[P]):
    """One step. ``do`` and ``undo`` are idempotent; ``record`` changes rows together with the done-mark.

    ``commits``: the point of no return lies behind this step.
    """

    name: str
    do: Do[P] = nothing
    undo: Undo[P] | None = None
    record: Record[P] | None = None
    commits: bool = False


@dataclass(frozen=True)
class Operation(Generic[P]):
    """A kind of operation. ``steps`` is a pure function of the plan.

    ``resumes``: interrupted before its point of no return it is tried forward again first (saving memory goes on in
    QEMU while we were away).
    """

    kind: str
    slot: Slot
    plan_type: type[P]
    steps: Callable[[P], tuple[Step[P], ...]]
    resumes: bool = False

    def encode(self, plan: P) -> str:
        return TypeAdapter(self.plan_type).dump_json(plan).decode()

    def decode(self, text: str) -> P:
        return TypeAdapter(self.plan_type).validate_json(text)


@dataclass
class Claim:
    """A VM's slot, held. ``run`` at most once; without it the slot was only held for a moment (power calls)."""

    runner: Runner
    row: OperationRow
    planned: bool = field(default=False)

    def run(self, operation: Operation[P], plan: P, scratch: Scratch | None = None) -> Scratch:
        """Write the plan, do it.

        Raises:
            StillframeError: the step's error after a complete undo; LEFT_BEHIND when something is left.
        """
        with self.runner.world.metadata.write() as tx:
            tx.journal.set_plan(self.row.uuid, operation.encode(plan))
        self.planned = True
        return self.runner.drive(self.row.uuid, operation, plan, frozenset(), scratch)


class Runner:
    """Drives operations; one instance per service."""

    def __init__(self, world: World) -> None:
        self.world = world

    @contextmanager
    def claim(self, vm_uuid: str, slot: Slot, kind: str) -> Iterator[Claim]:
        """Take the VM's slot, for planning under its protection.

        Raises:
            Refused: VM_BUSY.
        """
        row = new_row(self.world, vm_uuid, slot, kind)
        with self.world.metadata.write() as tx:
            tx.journal.open(row)
        claim = Claim(self, row)
        try:
            yield claim
        except BaseException as error:
            if not claim.planned:
                self._close(row.uuid, OperationState.REFUSED, str(error))
            raise
        if not claim.planned:
            self._close(row.uuid, OperationState.DONE)

    def drive(
        self,
        operation_uuid: str,
        operation: Operation[P],
        plan: P,
        done: frozenset[str],
        scratch: Scratch | None = None,
    ) -> Scratch:
        """Do every step that is not among ``done``; the operation is closed when this returns or raises."""
        told = Scratch() if scratch is None else scratch
        steps = operation.steps(plan)
        committed = False
        for position, step in enumerate(steps):
            if step.name not in done:
                try:
                    self._do(operation_uuid, step, plan, told)
                except BaseException as error:
                    if committed:
                        words = self._leave(operation_uuid, operation.kind, step.name, error)
                        if isinstance(error, Exception):
                            raise Failed(ErrorCase.LEFT_BEHIND, words) from error
                        raise
                    self.undo(operation_uuid, operation, plan, steps[: position + 1], error)
                    raise
            committed = committed or step.commits
        self._close(operation_uuid, OperationState.DONE)
        return told

    def _do(self, operation_uuid: str, step: Step[P], plan: P, told: Scratch) -> None:
        log.debug("operation %s: %s", operation_uuid, step.name)
        step.do(self.world, plan, told)
        with self.world.metadata.write() as tx:
            if step.record is not None:
                step.record(tx, plan, told)
            tx.journal.step_done(operation_uuid, step.name, committed=step.commits)

    def undo(
        self,
        operation_uuid: str,
        operation: Operation[P],
        plan: P,
        steps: tuple[Step[P], ...],
        cause: BaseException,
        *,
        holds_slot: bool = True,
    ) -> None:
        """Undo ``steps`` in reverse and close the operation as undone.

        It stops at the first undo that fails: those of earlier steps would take away what it still needs (the overlay
        that a guest is writing to). ``holds_slot`` is false for an operation that was left: its slot may be another's.

        Raises:
            Failed: LEFT_BEHIND when one failed; the operation is then left for recovery.
        """
        if holds_slot:
            self._set_state(operation_uuid, OperationState.UNDOING, str(cause))
        for step in reversed(steps):
            if step.undo is None:
                continue
            try:
                step.undo(self.world, plan)
            except Exception as error:
                log.exception("operation %s (%s): undo of %s failed", operation_uuid, operation.kind, step.name)
                words = f"{operation.kind} failed ({describe(cause)}) and could not be undone: {step.name}: {describe(error)}"
                self._close(operation_uuid, OperationState.LEFT, words)
                raise Failed(ErrorCase.LEFT_BEHIND, words) from cause
        self._close(operation_uuid, OperationState.UNDONE, str(cause))

    def _leave(self, operation_uuid: str, kind: str, step: str, error: BaseException) -> str:
        words = f"{kind} is past its point of no return and will be finished by the next operation: {step}: {describe(error)}"
        log.error("operation %s: %s", operation_uuid, words)
        self._close(operation_uuid, OperationState.LEFT, words)
        return words

    def _close(self, operation_uuid: str, state: OperationState, error: str = "") -> None:
        self._set_state(operation_uuid, state, error)

    def _set_state(self, operation_uuid: str, state: OperationState, error: str) -> None:
        with self.world.metadata.write() as tx:
            tx.journal.set_state(operation_uuid, state, at=int(self.world.now_s()), error=error)


def new_row(
    world: World,
    vm_uuid: str,
    slot: Slot,
    kind: str,
    *,
    state: OperationState = OperationState.PLANNING,
    plan: str = "",
) -> OperationRow:
    """A fresh operation of this kind, not yet in the journal."""
    return OperationRow(
        uuid=world.new_uuid(),
        vm_uuid=vm_uuid,
        slot=slot,
        kind=kind,
        state=state,
        plan=plan,
        steps_done=(),
        started_at=int(world.now_s()),
        ended_at=None,
        progress=0,
        error="",
    )


def describe(error: BaseException) -> str:
    """One line for a row: ours speak for themselves, others name their type."""
    return error.desc or str(error) if isinstance(error, StillframeError) else f"{type(error).__name__}: {error}"
