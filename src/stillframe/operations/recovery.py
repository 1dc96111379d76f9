"""After a crash: guests that we had paused run first; then every interrupted operation is undone or carried forward.

The journal alone decides: PLANNING had no side effect; RUNNING and UNDOING are undone (or resumed, where the operation
says so); COMMITTED goes forward. LEFT operations are tried again.
"""

from __future__ import annotations

import logging
import threading
from typing import Any

from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.operations import create, delete, forget, rollback, rollback_volumes, save_memory
from stillframe.operations.runner import Operation, Runner, describe
from stillframe.ports.metadata import OperationRow, OperationState, Slot

log = logging.getLogger(__name__)

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

    def run(self) -> None:
        """Never raises for one operation's sake: what cannot be finished stays in the journal and is logged."""
        with self._world.metadata.read() as tx:
            interrupted = tx.journal.active()
            left = tx.journal.left()
        self._release_guests(interrupted)
        for row in interrupted:
            if row.slot is Slot.MEMORY:
                self.continue_in_background(row)
            else:
                self._finish_logged(row)
        for row in left:
            self._finish_logged(row)

    def settle(self, vm_uuid: str) -> None:
        """Finish what an earlier operation left on this VM.

        Raises:
            Failed: LEFT_BEHIND when that is still not possible and a new operation could do harm.
        """
        with self._world.metadata.read() as tx:
            left = [row for row in tx.journal.left() if row.vm_uuid == vm_uuid]
        for row in left:
            try:
                self.finish(row)
            except StillframeError as error:
                if row.kind == delete.KIND:
                    # its loose layers are planned anew by the next delete; nothing stands on a half-done merge
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
        threading.Thread(
            target=self._finish_logged, args=(row,), name=f"{row.kind}-{row.uuid[:8]}", daemon=True
        ).start()

    def finish(self, row: OperationRow) -> None:
        """Undo or carry forward one operation, whatever state it was left in.

        Raises:
            StillframeError: it could not be finished; it is in state LEFT then.
        """
        if row.state is OperationState.PLANNING:
            with self._world.metadata.write() as tx:
                tx.journal.set_state(
                    row.uuid, OperationState.REFUSED, at=int(self._world.now_s()), error="interrupted while planning"
                )
            return
        operation = OPERATIONS[row.kind]
        plan = operation.decode(row.plan)
        steps = operation.steps(plan)
        done = frozenset(row.steps_done)
        committed = any(step.commits and step.name in done for step in steps)
        if committed or (operation.resumes and row.state is OperationState.RUNNING):
            self._runner.drive(row.uuid, operation, plan, done)
            return
        cause = Failed(ErrorCase.INTERRUPTED, row.error or "the service ended in the middle of it")
        self._runner.undo(row.uuid, operation, plan, steps, cause, holds_slot=row.state is not OperationState.LEFT)

    def _finish_logged(self, row: OperationRow) -> None:
        try:
            self.finish(row)
            log.info("operation %s (%s on VM %s) finished", row.uuid, row.kind, row.vm_uuid)
        except Exception as error:
            with self._world.metadata.read() as tx:
                now = tx.journal.get(row.uuid)
            if now is not None and now.state is OperationState.UNDONE:
                log.warning("operation %s (%s on VM %s) failed: %s", row.uuid, row.kind, row.vm_uuid, describe(error))
            else:
                log.exception("operation %s (%s on VM %s) could not be finished", row.uuid, row.kind, row.vm_uuid)

    def _release_guests(self, rows: list[OperationRow]) -> None:
        for row in rows:
            if row.kind != create.KIND or not row.plan:
                continue
            plan = create.OPERATION.decode(row.plan)
            if not plan.vm_was_running:
                continue
            try:
                if self._world.power.ensure_resumed(plan.vm_uuid):
                    log.warning("VM %s was found paused by an interrupted create: it runs again", plan.vm_uuid)
            except StillframeError:
                log.exception("VM %s could not be released", plan.vm_uuid)

    def _close(self, row: OperationRow, words: str) -> None:
        with self._world.metadata.write() as tx:
            tx.journal.set_state(row.uuid, OperationState.DONE, at=int(self._world.now_s()), error=words)
