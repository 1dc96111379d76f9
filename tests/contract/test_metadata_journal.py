"""What every metadata adapter promises about the journal and the log, on real SQLite and real PostgreSQL."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from uuid import uuid4

import pytest

from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.ports.metadata import ACTIVE_STATES, Metadata, OperationRow, OperationState, Progress, Slot

if TYPE_CHECKING:
    pass

VM = "0b6b2f0e-vm"
OTHER_VM = "1c7c3f1f-vm"
ENDED_STATES = tuple(state for state in OperationState if state not in ACTIVE_STATES)


def an_operation(
    kind: str = "create", *, vm_uuid: str = VM, slot: Slot = Slot.EXCLUSIVE, started_at: int = 1_700_000_000
) -> OperationRow:
    return OperationRow(
        uuid=str(uuid4()),
        vm_uuid=vm_uuid,
        slot=slot,
        kind=kind,
        state=OperationState.PLANNING,
        plan="",
        steps_done=(),
        started_at=started_at,
        ended_at=None,
        error="",
    )


class TestJournal:
    def test_words_are_replaced_and_nothing_else(self, metadata: Metadata) -> None:
        operation = an_operation()
        with metadata.write() as tx:
            tx.journal.open(operation)
            tx.journal.set_error(operation.uuid, "one")
            tx.journal.set_error(operation.uuid, "two")
            assert tx.journal.get(operation.uuid) == replace(operation, error="two")
        with pytest.raises(Failed), metadata.write() as tx:
            tx.journal.set_error("nobody", "words")

    def test_an_operation_comes_back(self, metadata: Metadata) -> None:
        operation = an_operation()
        with metadata.write() as tx:
            tx.journal.open(operation)
        with metadata.read() as tx:
            assert tx.journal.get(operation.uuid) == operation
            assert tx.journal.get("none") is None

    def test_a_taken_slot_says_what_has_it_and_since_when(self, metadata: Metadata) -> None:
        holder = an_operation("rollback")
        with metadata.write() as tx:
            tx.journal.open(holder)
        with metadata.write() as tx:
            with pytest.raises(Refused) as refused:
                tx.journal.open(an_operation())
            assert refused.value.case is ErrorCase.VM_BUSY
            assert "rollback" in refused.value.desc
            assert holder.uuid in refused.value.desc
            assert "2023-11-14T22:13:20Z" in refused.value.desc
            tx.journal.open(an_operation(slot=Slot.MEMORY))
            tx.journal.open(an_operation(vm_uuid=OTHER_VM))
        with metadata.read() as tx:
            assert len(tx.journal.active()) == 3

    @pytest.mark.parametrize("ended", ENDED_STATES)
    def test_an_ended_operation_frees_its_slot(self, metadata: Metadata, ended: OperationState) -> None:
        first, second = an_operation(), an_operation()
        with metadata.write() as tx:
            tx.journal.open(first)
            tx.journal.set_state(first.uuid, ended, at=1_700_000_009, error="why")
            tx.journal.open(second)
        with metadata.read() as tx:
            expected = replace(first, state=ended, ended_at=1_700_000_009, error="why")
            assert tx.journal.get(first.uuid) == expected
            assert tx.journal.active() == [second]
            assert tx.journal.left() == ([expected] if ended is OperationState.LEFT else [])

    def test_an_active_state_keeps_the_slot(self, metadata: Metadata) -> None:
        operation = an_operation()
        with metadata.write() as tx:
            tx.journal.open(operation)
            tx.journal.set_state(operation.uuid, OperationState.UNDOING, at=5, error="step broke")
            assert tx.journal.active([VM]) == [replace(operation, state=OperationState.UNDOING, error="step broke")]
            with pytest.raises(Refused, match="VM_BUSY"):
                tx.journal.open(an_operation())

    def test_what_was_left_takes_its_slot_again_only_when_it_is_free(self, metadata: Metadata) -> None:
        left, other = an_operation(), an_operation("delete")
        with metadata.write() as tx:
            tx.journal.open(left)
            tx.journal.set_state(left.uuid, OperationState.LEFT, at=5, error="file stayed")
            tx.journal.open(other)
        with metadata.write() as tx:
            with pytest.raises(Refused, match=r"VM_BUSY.*delete"):
                tx.journal.set_state(left.uuid, OperationState.UNDOING, at=6)
            assert [operation.uuid for operation in tx.journal.left()] == [left.uuid]
            tx.journal.set_state(other.uuid, OperationState.DONE, at=7)
            tx.journal.set_state(left.uuid, OperationState.UNDOING, at=8)
        with metadata.read() as tx:
            assert tx.journal.active() == [replace(left, state=OperationState.UNDOING)]
            assert tx.journal.left() == []

    def test_plan_steps_commit_and_progress(self, metadata: Metadata) -> None:
        operation = an_operation()
        with metadata.write() as tx:
            tx.journal.open(operation)
            tx.journal.set_plan(operation.uuid, '{"计划": 1}')
            planned = replace(operation, plan='{"计划": 1}', state=OperationState.RUNNING)
            assert tx.journal.get(operation.uuid) == planned
            for step in ("z", "a", "z", "m"):
                tx.journal.step_done(operation.uuid, step, committed=False)
            for _ in range(2):
                tx.journal.step_done(operation.uuid, "publish", committed=True)
            tx.journal.step_done(operation.uuid, "after", committed=False)
            tx.journal.set_progress(operation.uuid, "after", Progress(42, 100, 7))
        with metadata.read() as tx:
            assert tx.journal.get(operation.uuid) == replace(
                planned,
                state=OperationState.COMMITTED,
                steps_done=("z", "a", "m", "publish", "after"),
                step="after",
                bytes_done=42,
                bytes_total=100,
                rate_bytes_s=7,
            )

    def test_active_operations_are_oldest_first_and_of_the_vms_asked_for(self, metadata: Metadata) -> None:
        """By what was begun first, also when the clock was set back in between."""
        first = an_operation(started_at=30)
        second = an_operation(vm_uuid=OTHER_VM, started_at=10)
        third = an_operation(slot=Slot.MEMORY, started_at=10)
        with metadata.write() as tx:
            for operation in (first, second, third):
                tx.journal.open(operation)
        with metadata.read() as tx:
            assert tx.journal.active() == [first, second, third]
            assert tx.journal.active([VM]) == [first, third]
            assert tx.journal.active([]) == []

    def test_the_caller_s_mistakes_are_said(self, metadata: Metadata) -> None:
        operation = an_operation()
        with metadata.write() as tx:
            tx.journal.open(operation)
            with pytest.raises(Failed, match="cannot commit"):
                tx.journal.step_done(operation.uuid, "publish", committed=True)
            tx.journal.set_state(operation.uuid, OperationState.REFUSED, at=5)
            with pytest.raises(Failed, match="takes no plan"):
                tx.journal.set_plan(operation.uuid, "{}")
            for mistake in (
                lambda: tx.journal.set_plan("none", "{}"),
                lambda: tx.journal.step_done("none", "s", committed=False),
                lambda: tx.journal.set_state("none", OperationState.DONE, at=5),
                lambda: tx.journal.set_progress("none", "step", Progress(1, 2, 3)),
            ):
                with pytest.raises(Failed, match="the journal has no operation none"):
                    mistake()
