"""What every metadata adapter promises about listing and cancelling operations, on real SQLite and real PostgreSQL."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import pytest

from stillframe.domain.access import Principal, Role
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.operations.tasks import TaskQuery, TaskState, list_tasks
from stillframe.ports.metadata import ACTIVE_STATES, Metadata, OperationFilter, OperationRow, OperationState, Slot

if TYPE_CHECKING:
    from stillframe.operations.world import World

EVERYBODY = Principal("a0a0a0a0a0a0", Role.ADMINISTRATOR)
VM = "0b6b2f0e-vm"
OTHER_VM = "1c7c3f1f-vm"
AT = 1_700_000_000


def an_operation(
    state: OperationState = OperationState.DONE, *, vm_uuid: str = VM, tenant: str = "t1", started_at: int = AT
) -> OperationRow:
    return OperationRow(
        uuid=str(uuid4()),
        vm_uuid=vm_uuid,
        slot=Slot.EXCLUSIVE,
        kind="create",
        state=state,
        plan="",
        steps_done=("a", "b"),
        started_at=started_at,
        ended_at=None if state in ACTIVE_STATES else started_at + 5,
        error="",
        tenant=tenant,
        vm_name="虚机",
        snapshot="s",
    )


def opened(metadata: Metadata, *operations: OperationRow) -> tuple[OperationRow, ...]:
    with metadata.write() as tx:
        for operation in operations:
            tx.journal.open(operation)
    return operations


def page(metadata: Metadata, wanted: OperationFilter) -> list[OperationRow]:
    with metadata.read() as tx:
        return tx.journal.page(wanted)


class TestPage:
    def test_newest_first_whatever_the_clock_said(self, metadata: Metadata) -> None:
        rows = opened(metadata, *(an_operation(started_at=at) for at in (30, 10, 20)))
        assert page(metadata, OperationFilter()) == list(rows[::-1])
        assert page(metadata, OperationFilter(limit=2)) == [rows[2], rows[1]]

    def test_every_filter_narrows(self, metadata: Metadata) -> None:
        first, second, third = opened(
            metadata,
            an_operation(started_at=10),
            an_operation(vm_uuid=OTHER_VM, started_at=20),
            an_operation(OperationState.RUNNING, tenant="t2", started_at=30),
        )
        for wanted, found in (
            (OperationFilter(vm_uuid=VM), [third, first]),
            (OperationFilter(tenant="t1"), [second, first]),
            (OperationFilter(states=(OperationState.RUNNING, OperationState.LEFT)), [third]),
            (OperationFilter(since=20), [third, second]),
            (OperationFilter(until=20), [second, first]),
            (OperationFilter(since=20, until=20), [second]),
            (OperationFilter(since=31), []),
            (OperationFilter(vm_uuid=VM, tenant="t1", since=0, until=99, states=(OperationState.DONE,)), [first]),
            (OperationFilter(after=third.uuid, vm_uuid=VM), [first]),
            (OperationFilter(after=first.uuid), []),
            (OperationFilter(after="none"), []),
            (OperationFilter(cancel_requested=True), []),
        ):
            assert page(metadata, wanted) == found, wanted
        with metadata.write() as tx:
            tx.journal.request_cancel(third.uuid)
        assert page(metadata, OperationFilter(cancel_requested=True)) == [replace(third, cancel_requested=True)]
        assert page(metadata, OperationFilter(cancel_requested=False)) == [second, first]

    def test_pages_stay_as_they_are_while_operations_begin(self, metadata: Metadata) -> None:
        rows = opened(metadata, *(an_operation() for _ in range(25)))
        seen: list[OperationRow] = []
        while found := page(metadata, OperationFilter(after=seen[-1].uuid if seen else "", limit=7)):
            seen += found
            opened(metadata, *(an_operation(started_at=AT - 100 + 50 * n) for n in range(3)))
        assert seen == list(rows[::-1])

    def test_pages_stay_as_they_are_while_others_write(self, metadata: Metadata) -> None:
        rows = opened(metadata, *(an_operation() for _ in range(60)))
        stop = threading.Event()

        def write() -> None:
            while not stop.is_set():
                opened(metadata, an_operation())

        writer = threading.Thread(target=write)
        writer.start()
        try:
            first = page(metadata, OperationFilter(limit=1))
            seen = list(first)
            while found := page(metadata, OperationFilter(after=seen[-1].uuid, limit=9)):
                seen += found
        finally:
            stop.set()
            writer.join()
        assert seen[-60:] == list(rows[::-1])
        assert len({row.uuid for row in seen}) == len(seen)

    def test_the_list_of_tasks_says_when_it_ends(self, metadata: Metadata) -> None:
        rows = opened(metadata, *(an_operation() for _ in range(6)))
        world = cast("World", SimpleNamespace(metadata=metadata))
        first = list_tasks(world, TaskQuery(limit=4), EVERYBODY)
        assert [task.uuid for task in first.tasks] == [row.uuid for row in rows[:1:-1]]
        assert first.next == rows[2].uuid
        last = list_tasks(world, TaskQuery(limit=2, after=first.next), EVERYBODY)
        assert ([task.uuid for task in last.tasks], last.next) == ([rows[1].uuid, rows[0].uuid], "")
        with pytest.raises(Refused) as refused:
            list_tasks(world, TaskQuery(after="none"), EVERYBODY)
        assert refused.value.case is ErrorCase.TASK_UNKNOWN

    def test_every_public_state_finds_its_own(self, metadata: Metadata) -> None:
        rows = opened(metadata, *(an_operation(state, vm_uuid=f"vm of {state}") for state in OperationState))
        cancelled = opened(metadata, an_operation(OperationState.RUNNING, vm_uuid="vm of a cancelled one"))
        with metadata.write() as tx:
            tx.journal.request_cancel(cancelled[0].uuid)
        world = cast("World", SimpleNamespace(metadata=metadata))
        found = {state: list_tasks(world, TaskQuery(state=state), EVERYBODY).tasks for state in TaskState}
        assert all(task.state == state for state, tasks in found.items() for task in tasks)
        assert sorted(task.uuid for tasks in found.values() for task in tasks) == sorted(
            row.uuid for row in (*rows, *cancelled)
        )
        assert {state: len(tasks) for state, tasks in found.items()} == dict.fromkeys(TaskState, 1)
        under_way = list_tasks(world, TaskQuery(under_way=True), EVERYBODY).tasks
        active = [row.uuid for row in (*rows, *cancelled) if row.state in ACTIVE_STATES]
        assert sorted(task.uuid for task in under_way) == sorted(active)


class TestCancel:
    @pytest.mark.parametrize("state", OperationState)
    def test_only_before_the_point_of_no_return_it_is_noted(self, metadata: Metadata, state: OperationState) -> None:
        (row,) = opened(metadata, an_operation(state))
        with metadata.write() as tx:
            assert tx.journal.request_cancel(row.uuid) is state
            assert tx.journal.request_cancel(row.uuid) is state
        noted = state in (OperationState.PLANNING, OperationState.RUNNING)
        with metadata.read() as tx:
            assert tx.journal.get(row.uuid) == replace(row, cancel_requested=noted)

    def test_a_cancelled_operation_commits_no_more(self, metadata: Metadata) -> None:
        (row,) = opened(metadata, an_operation(OperationState.RUNNING))
        with metadata.write() as tx:
            tx.journal.request_cancel(row.uuid)
        with pytest.raises(Refused, match=f"CANCELLED.*{row.uuid} was cancelled"), metadata.write() as tx:
            tx.journal.step_done(row.uuid, "publish", committed=True)
        with metadata.write() as tx:
            tx.journal.step_done(row.uuid, "before it", committed=False)
        with metadata.read() as tx:
            expected = replace(row, cancel_requested=True, steps_done=("a", "b", "before it"))
            assert tx.journal.get(row.uuid) == expected

    def test_a_cancel_after_the_commit_is_too_late(self, metadata: Metadata) -> None:
        (row,) = opened(metadata, an_operation(OperationState.RUNNING))
        with metadata.write() as tx:
            tx.journal.step_done(row.uuid, "publish", committed=True)
        with metadata.write() as tx:
            assert tx.journal.request_cancel(row.uuid) is OperationState.COMMITTED
            tx.journal.step_done(row.uuid, "publish", committed=True)

    def test_a_race_of_cancel_and_commit_has_one_winner(self, metadata: Metadata) -> None:
        start = threading.Barrier(2)

        def commits(uuid: str) -> bool:
            start.wait()
            try:
                with metadata.write() as tx:
                    tx.journal.step_done(uuid, "publish", committed=True)
            except Refused:
                return False
            return True

        def cancels(uuid: str) -> bool:
            start.wait()
            with metadata.write() as tx:
                return tx.journal.request_cancel(uuid) is OperationState.RUNNING

        with ThreadPoolExecutor(2) as pool:
            for _ in range(20):
                (row,) = opened(metadata, an_operation(OperationState.RUNNING, vm_uuid=str(uuid4())))
                committed, cancelled = pool.submit(commits, row.uuid), pool.submit(cancels, row.uuid)
                assert committed.result() != cancelled.result()

    def test_an_unknown_operation_is_the_caller_s_mistake(self, metadata: Metadata) -> None:
        with metadata.write() as tx, pytest.raises(Failed, match="the journal has no operation none"):
            tx.journal.request_cancel("none")
