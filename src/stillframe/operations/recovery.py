"""After a crash: guests that we had paused run first; then every interrupted operation is undone or carried forward.

The journal alone decides: PLANNING had no side effect; RUNNING and UNDOING are undone (or resumed, where the operation
says so); COMMITTED goes forward. LEFT operations are tried again, also while the service runs (mending.py).
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from enum import Enum, auto
from queue import Empty, SimpleQueue
from typing import Any

from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.operations import create, delete, forget, rollback, rollback_volumes, save_memory
from stillframe.operations.merging import COMMIT, MERGE_FAMILIES, PULL, SWITCH, MergePlan
from stillframe.operations.moments import Phase
from stillframe.operations.runner import Runner
from stillframe.operations.steps import Operation, Step
from stillframe.operations.wording import describe
from stillframe.ports.correlation import in_operation
from stillframe.ports.metadata import OperationRow, OperationState, Slot

log = logging.getLogger(__name__)
KIND = "recovery"
_WORKERS = 4
_START_WAIT_S = 3.0
_AWAY = "; it waits: libvirt does not know the virtual machine, and it goes on when that is defined again"


class Outcome(Enum):
    """What came of an attempt to finish an operation. AWAY: its VM is proved absent."""

    FINISHED = auto()
    UNFINISHED = auto()
    AWAY = auto()


OPERATIONS: dict[str, Operation[Any]] = {
    operation.kind: operation
    for operation in (
        create.OPERATION,
        save_memory.OPERATION,
        rollback.OPERATION,
        rollback_volumes.OPERATION,
        delete.OPERATION,
        forget.OPERATION,
    )
}


class Recovery:
    """Finishes what was interrupted. ``run`` at start-up, ``settle`` before a new operation on a VM."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._world = runner.world
        self.has_run = False  # what was interrupted is finished, or holds its virtual machine's slot until it is

    def run(self, *, wait_s: float = _START_WAIT_S) -> None:
        """Guests that we had stopped run when this returns; operations are being finished, in the background if need be.

        Each holds its VM's slot until then, so nothing new can start on that VM. ``wait_s``: how long the start waits
        for them, because most take no time; a merge of gigabytes does. Never raises for one operation's sake.
        """
        with self._world.metadata.read() as tx:
            interrupted = tx.journal.active()
            left = tx.journal.left()
        self._release_guests(interrupted)
        for row in interrupted:
            if row.slot is Slot.MEMORY:
                self.continue_in_background(row)
        rest = SimpleQueue[OperationRow]()
        for row in (*(row for row in interrupted if row.slot is not Slot.MEMORY), *left):
            rest.put(row)
        workers = self._start_workers(rest, _WORKERS)
        until = time.monotonic() + wait_s
        for worker in workers:
            worker.join(max(0.0, until - time.monotonic()))
        # the workers may be at merges of hours, which must not keep the other VMs waiting
        self._start_workers(rest, rest.qsize())
        self.has_run = True

    def _start_workers(self, rows: SimpleQueue[OperationRow], most: int) -> list[threading.Thread]:
        workers = [
            threading.Thread(target=self._finish_all, args=(rows,), name=f"recovery-{number}", daemon=True)
            for number in range(min(most, rows.qsize()))
        ]
        for worker in workers:
            worker.start()
        return workers

    def _finish_all(self, rows: SimpleQueue[OperationRow]) -> None:
        with suppress(Empty):
            while True:
                self.finish_logged(rows.get_nowait())

    def settle(self, vm_uuid: str) -> None:
        """Finish what an earlier operation left on this VM, whose exclusive slot the caller holds.

        Raises:
            Failed: LEFT_BEHIND when that is still not possible and a new operation could do harm.
        """
        with self._world.metadata.read() as tx:
            left = [row for row in tx.journal.left() if row.vm_uuid == vm_uuid]
        for row in left:
            try:
                # the exclusive slot is the caller's; the other may be a mender's at this moment
                self.finish(row, takes_slot=row.slot is not Slot.EXCLUSIVE)
            except StillframeError as error:
                if row.kind == delete.KIND and self._may_be_planned_anew(row):
                    # so that a full disk does not lock a VM
                    self._close(row, f"left to the next delete: {describe(error)}")
                    continue
                raise Failed(
                    ErrorCase.LEFT_BEHIND, f"VM {vm_uuid}: an earlier {row.kind} is unfinished: {describe(error)}"
                ) from error

    def forget_left(self, vm_uuid: str) -> None:
        """What operations left on a VM that is gone now is nobody's any more."""
        with self._world.metadata.read() as tx:
            left = [row for row in tx.journal.left() if row.vm_uuid == vm_uuid]
        for row in left:
            self._close(row, "the VM was deleted")

    def continue_in_background(self, row: OperationRow) -> None:
        """Carry an operation on in a thread of its own; its outcome is in the journal."""
        threading.Thread(target=self.finish_logged, args=(row,), name=f"{row.kind}-{row.uuid[:8]}", daemon=True).start()

    def finish(self, row: OperationRow, *, takes_slot: bool = True) -> None:
        """Undo or carry forward one operation, whatever state it was left in.

        ``takes_slot``: one that was LEFT takes its slot again first; false when the caller holds it.

        Raises:
            Refused: VM_BUSY, when the slot is another's; VM_UNKNOWN, when it was left on a VM that libvirt does not know.
                Nothing was done.
            StillframeError: it could not be finished; it is in state LEFT then.
        """
        with in_operation(row.uuid):
            self._finish(row, takes_slot=takes_slot)

    def _finish(self, row: OperationRow, *, takes_slot: bool) -> None:
        if row.state is OperationState.PLANNING:
            self._runner.end(row.uuid, OperationState.REFUSED, "interrupted while planning")
            return
        operation, plan = self._read(row)
        steps = operation.steps_of(plan)
        was_left = row.state is OperationState.LEFT
        if was_left and operation.needs_vm:
            self._check_there(row)
        current = self._still_left(row, steps, takes_slot=takes_slot) if was_left else row
        if current is None:
            return  # somebody else has finished it
        with self._runner.being_about(row):
            self._carry_on(current, operation, plan, was_left=was_left, takes_slot=takes_slot)

    def _carry_on(
        self, current: OperationRow, operation: Operation[Any], plan: Any, *, was_left: bool, takes_slot: bool
    ) -> None:
        steps = operation.steps_of(plan)
        if _is_committed(current, steps) or (operation.resumes and current.state is OperationState.RUNNING):
            self._runner.drive(current.uuid, operation, plan, frozenset(current.steps_done))
            return
        cause = Failed(ErrorCase.INTERRUPTED, current.error or "the service ended in the middle of it")
        self._runner.undo(current.uuid, operation, plan, steps, cause, holds_slot=takes_slot or not was_left)

    def _read(self, row: OperationRow) -> tuple[Operation[Any], Any]:
        """Raises ``Failed`` LEFT_BEHIND for a row that this version cannot read; it is LEFT then, for doctor to name."""
        try:
            operation = OPERATIONS[row.kind]
            return operation, operation.decode(row.plan)
        except (KeyError, ValueError):
            words = f"this version of Stillframe cannot read the plan of this {row.kind}: start the one that began it"
            if row.state is not OperationState.LEFT:
                self._runner.end(row.uuid, OperationState.LEFT, words)
            # not chained: what the decoder says repeats the plan, which holds secrets
            raise Failed(ErrorCase.LEFT_BEHIND, words) from None

    def _still_left(self, row: OperationRow, steps: Sequence[Step[Any]], *, takes_slot: bool) -> OperationRow | None:
        """The row as it is now, its slot taken again; None when it is not LEFT any more.

        What the caller holds may be old: hours may lie between a look into the journal and the turn of this row, and
        an operation that has ended must never act again. So one transaction looks and takes.

        Raises:
            Refused: VM_BUSY.
        """
        with self._world.metadata.write() as tx:
            now = tx.journal.get(row.uuid)
            if now is None or now.state is not OperationState.LEFT:
                return None
            if takes_slot:
                state = OperationState.COMMITTED if _is_committed(now, steps) else OperationState.UNDOING
                tx.journal.set_state(row.uuid, state, at=int(self._world.now_s()), error=now.error.removesuffix(_AWAY))
        return replace(now, error=now.error.removesuffix(_AWAY))

    def _check_there(self, row: OperationRow) -> None:
        """The VM exists, or at least nobody says that it does not.

        It may be defined again under its uuid, and on any of its files. So what was left on one that is gone stays as
        it is: nothing of it can be undone or carried forward on a guess. That is said once, in the journal.

        Raises:
            Refused: VM_UNKNOWN, proved absent.
        """
        try:
            self._world.inventory.get_vm(row.vm_uuid)
        except StillframeError as error:
            if not (isinstance(error, Refused) and error.case is ErrorCase.VM_UNKNOWN):
                return  # it could not be looked at, which proves nothing: the steps will see for themselves
            with self._world.metadata.write() as tx:
                now = tx.journal.get(row.uuid)
                if now is not None and now.state is OperationState.LEFT and not now.error.endswith(_AWAY):
                    ended_at = now.ended_at if now.ended_at is not None else int(self._world.now_s())
                    tx.journal.set_state(row.uuid, OperationState.LEFT, at=ended_at, error=now.error + _AWAY)
            raise

    def _may_be_planned_anew(self, row: OperationRow) -> bool:
        """Nothing of a delete that failed is left but merges that have not begun: the next delete finds those itself.

        One that has begun may have moved the VM's disk already; only its own plan can tell what then has to follow.
        """
        with self._world.metadata.read() as tx:
            now = tx.journal.get(row.uuid)
        if now is None:
            return False
        plan = delete.OPERATION.decode(now.plan)
        rest = [step.family for step in delete.OPERATION.steps_of(plan) if step.name not in now.steps_done]
        begun = any(step.endswith((COMMIT, SWITCH, PULL)) for step in now.steps_done)
        if begun or not all(family in MERGE_FAMILIES for family in rest):
            return False
        if any(self._has_left_its_base(merge) for merge in plan.merges):
            return False
        vm = self._world.inventory.get_vm(row.vm_uuid)
        bases = {merge.base.path for merge in plan.merges}
        return not any(disk.path in bases for disk in (*vm.disks, *vm.saved_disks))

    def _has_left_its_base(self, merge: MergePlan) -> bool:
        """A pull that was cut off before it was noted has gone as far as to the layer's header."""
        if merge.parent is None:
            return False
        info = self._world.volumes.probe_image(merge.top.path, merge.top.format)
        return info is None or info.backing_path == merge.parent.path

    def finish_logged(self, row: OperationRow) -> Outcome:
        """Like ``finish``, for nobody who waits: the log gets what happened."""
        with in_operation(row.uuid):
            return self._finish_logged(row)

    def _finish_logged(self, row: OperationRow) -> Outcome:
        try:
            self.finish(row)
        except Exception as error:
            with self._world.metadata.read() as tx:
                now = tx.journal.get(row.uuid)
            if now is not None and now.state is OperationState.UNDONE:
                log.warning("operation %s (%s on VM %s) failed: %s", row.uuid, row.kind, row.vm_uuid, describe(error))
                return Outcome.FINISHED
            if now is not None and now.error.endswith(_AWAY):
                if not row.error.endswith(_AWAY):
                    log.warning("operation %s (%s on VM %s): %s", row.uuid, row.kind, row.vm_uuid, now.error)
                return Outcome.AWAY
            if isinstance(error, Refused) and error.case is ErrorCase.VM_BUSY:
                log.info("operation %s (%s on VM %s) waits: %s", row.uuid, row.kind, row.vm_uuid, describe(error))
                return Outcome.UNFINISHED
            log.exception("operation %s (%s on VM %s) could not be finished", row.uuid, row.kind, row.vm_uuid)
            return Outcome.UNFINISHED
        log.info("operation %s (%s on VM %s) finished", row.uuid, row.kind, row.vm_uuid)
        return Outcome.FINISHED

    def _release_guests(self, rows: list[OperationRow]) -> None:
        for row in rows:
            if row.kind != create.KIND or not row.plan:
                continue
            try:
                plan = create.OPERATION.decode(row.plan)
            except ValueError:
                continue  # its turn comes, and then it is said
            if not plan.vm_was_running:
                continue
            try:
                self._runner.tell(row.uuid, KIND, "release guests", Phase.BEFORE)
                if self._world.power.ensure_resumed(plan.vm_uuid):
                    log.warning("VM %s was found paused by an interrupted create: it runs again", plan.vm_uuid)
                self._runner.tell(row.uuid, KIND, "release guests", Phase.NOTED)
            except StillframeError:
                log.exception("VM %s could not be released", plan.vm_uuid)

    def _close(self, row: OperationRow, words: str) -> None:
        self._runner.end(row.uuid, OperationState.DONE, words)


def _is_committed(row: OperationRow, steps: Sequence[Step[Any]]) -> bool:
    return any(step.commits and step.name in row.steps_done for step in steps)
