"""What a task says of its row in the journal, and when it may be cancelled."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stillframe.adapters.metadata.database import open_metadata
from stillframe.domain.access import Principal, Role
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.layers import Layer
from stillframe.operations import delete
from stillframe.operations.delete import DeletePlan, DropPlan
from stillframe.operations.merging import MergePlan
from stillframe.operations.recovery import OPERATIONS
from stillframe.operations.runner import Runner
from stillframe.operations.tasks import TaskState, cancel_task, get_task, task_of
from stillframe.operations.wording import describe_in_full
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationRow, OperationState, Progress, Slot

LAYER = Layer("l", "v", None, "/d/secret-path.qcow2", "qcow2", foreign=False)
PLAN = DeletePlan("s", "vm", None, (DropPlan(LAYER),), (MergePlan(LAYER, LAYER, ()), MergePlan(LAYER, LAYER, ())))
STEPS = [step.name for step in delete.OPERATION.steps_of(PLAN)]
WEIGHT = 3 + 2 * 23  # unpublish, artefacts, one drop, two merges whose commit weighs 20

OLD_PLAN = """{"snapshot_uuid": "s", "vm_uuid": "vm", "memory_uuid": null, "drops": [], "merges": [{
  "top": {"uuid": "t", "volume_uuid": "v", "parent_uuid": "b", "path": "/t", "format": "qcow2", "foreign": false},
  "base": {"uuid": "b", "volume_uuid": "v", "parent_uuid": null, "path": "/b", "format": "raw", "foreign": true},
  "children": []}]}"""

EVERYBODY = Principal("a0a0a0a0a0a0", Role.ADMINISTRATOR)


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    metadata = open_metadata(f"sqlite:///{tmp_path / 'journal.db'}")
    yield Runner(cast("World", SimpleNamespace(metadata=metadata, now_s=lambda: 50.0)))
    metadata.close()


def a_row(state: OperationState = OperationState.COMMITTED, steps_done: int = 3, **changes: Any) -> OperationRow:
    row = OperationRow(
        uuid="o", vm_uuid="vm", slot=Slot.EXCLUSIVE, kind="delete", state=state, plan=delete.OPERATION.encode(PLAN),
        steps_done=tuple(STEPS[:steps_done]), started_at=10, ended_at=None, error="", tenant="t", vm_name="虚机",
        snapshot="name",
    )  # fmt: skip
    return replace(row, **changes)


def merging(**changes: Any) -> OperationRow:
    """Half of the first merge is copied."""
    counted = {"step": "merge 0: commit", "bytes_done": 50, "bytes_total": 100, "rate_bytes_s": 20}
    return a_row(**{**counted, **changes})


def test_a_plan_from_before_layers_were_pulled_is_carried_on_downwards() -> None:
    plan = delete.OPERATION.decode(OLD_PLAN)
    (merge,) = plan.merges
    assert (merge.parent, merge.source.uuid, merge.goal.uuid) == (None, "t", "b")
    assert [step.name for step in delete.OPERATION.steps_of(plan)][2:] == [
        "merge 0: commit", "merge 0: repoint", "merge 0: record", "merge 0: drop",
    ]  # fmt: skip


def test_a_plan_that_pulls_is_read_as_it_was_written() -> None:
    plan = replace(PLAN, merges=(MergePlan(LAYER, LAYER, (), LAYER),))
    assert delete.OPERATION.decode(delete.OPERATION.encode(plan)) == plan
    assert [step.name for step in delete.OPERATION.steps_of(plan)][3:] == [
        "merge 0: pull", "merge 0: record", "merge 0: drop",
    ]  # fmt: skip


def test_a_step_that_counts_bytes_moves_the_whole() -> None:
    task = task_of(merging())
    assert (task.state, task.step, task.steps_done, task.steps_total) == ("finishing", "merge 0: commit", 3, 11)
    assert (task.bytes_done, task.bytes_total, task.rate_bytes_s, task.time_left_s) == (50, 100, 20, 3)
    assert task.progress == int(100 * (3 + 10) / WEIGHT)
    assert (task.compute_uuid, task.compute_name, task.tenant, task.snapshot) == ("vm", "虚机", "t", "name")


def test_progress_never_falls_and_is_100_only_when_done() -> None:
    seen = [
        task_of(merging(steps_done=done, step=step, bytes_done=part)).progress
        for done, step in enumerate(STEPS)
        for part in (0, 30, 100, 130)
    ]
    assert seen == sorted(seen)
    assert seen[-1] <= 99
    assert task_of(a_row(steps_done=len(STEPS))).progress == 99
    assert task_of(a_row(OperationState.DONE, len(STEPS), ended_at=20)).progress == 100


def test_bytes_of_an_earlier_step_are_not_the_present_one_s() -> None:
    task = task_of(merging(steps_done=4))
    assert task.step == "merge 0: repoint"
    assert (task.bytes_done, task.bytes_total, task.rate_bytes_s, task.time_left_s) == (0, 0, 0, None)


def test_without_a_rate_the_time_is_unknown() -> None:
    assert task_of(merging(rate_bytes_s=0)).time_left_s is None
    assert task_of(merging(bytes_total=0)).time_left_s is None
    assert task_of(merging(bytes_done=150)).time_left_s == 0
    assert task_of(merging(state=OperationState.UNDOING)).time_left_s is None


@pytest.mark.parametrize(
    "state", [OperationState.DONE, OperationState.REFUSED, OperationState.UNDONE, OperationState.LEFT]
)
def test_what_has_ended_has_no_step_under_way(state: OperationState) -> None:
    task = task_of(merging(state=state, ended_at=20, error="why"))
    assert (task.step, task.bytes_done, task.bytes_total, task.time_left_s) == ("", 0, 0, None)
    assert (task.ended_at, task.error, task.cancellable) == (20, "why", False)
    assert (task.progress > 0) == (state in (OperationState.DONE, OperationState.LEFT))


def test_without_a_plan_there_are_no_steps_yet() -> None:
    task = task_of(a_row(OperationState.PLANNING, 0, plan=""))
    assert (task.state, task.cancellable, task.step, task.steps_total, task.progress) == ("planning", True, "", 0, 0)
    at_once = task_of(a_row(OperationState.DONE, 0, plan="", kind="modify", ended_at=10))
    assert (at_once.state, at_once.cancellable, at_once.steps_total, at_once.progress) == ("done", False, 0, 100)


def test_cancelling_is_a_state_of_its_own() -> None:
    task = task_of(a_row(OperationState.RUNNING, 0, cancel_requested=True))
    assert (task.state, task.cancellable) == (TaskState.CANCELLING, False)
    assert task_of(a_row(OperationState.UNDOING, cancel_requested=True)).state is TaskState.UNDOING


def test_nothing_of_the_plan_is_said() -> None:
    for state in OperationState:
        assert "secret-path" not in json.dumps(asdict(task_of(merging(state=state))))


def opened(runner: Runner, row: OperationRow) -> OperationRow:
    with runner.world.metadata.write() as tx:
        tx.journal.open(row)
        if row.step:
            tx.journal.set_progress(row.uuid, row.step, Progress(row.bytes_done, row.bytes_total, row.rate_bytes_s))
    return row


@pytest.mark.parametrize("state", [OperationState.PLANNING, OperationState.RUNNING])
def test_cancelling_before_the_point_of_no_return_is_noted(runner: Runner, state: OperationState) -> None:
    opened(runner, a_row(state, 0))
    for _ in range(2):
        assert cancel_task(runner, "o", EVERYBODY).state is TaskState.CANCELLING
    assert get_task(runner.world, "o", EVERYBODY).state is TaskState.CANCELLING


@pytest.mark.parametrize(
    ("row", "words"),
    [
        (merging(), ["past its point of no return", "merge 0: commit", "50 of 100 bytes", "26 %"]),
        (a_row(), ["past its point of no return", "merge 0: commit"]),
        (a_row(OperationState.UNDOING, error="disk full"), ["being undone already", "disk full"]),
        (a_row(OperationState.LEFT, error="disk full"), ["by itself", "disk full"]),
        (a_row(OperationState.DONE, ended_at=9), ["has ended: done"]),
        (a_row(OperationState.UNDONE, ended_at=9, error="disk full"), ["has ended: undone: disk full"]),
        (a_row(OperationState.PLANNING, 0, kind="power", plan=""), ["power", "nothing to be undone"]),
    ],
)
def test_anything_else_is_refused_and_says_why(runner: Runner, row: OperationRow, words: list[str]) -> None:
    opened(runner, row)
    before = get_task(runner.world, "o", EVERYBODY)
    with pytest.raises(Refused) as refused:
        cancel_task(runner, "o", EVERYBODY)
    assert refused.value.case is ErrorCase.TASK_NOT_CANCELLABLE
    assert [word for word in words if word not in refused.value.desc] == []
    assert get_task(runner.world, "o", EVERYBODY) == before


def test_an_unknown_task_is_unknown(runner: Runner) -> None:
    for act in (lambda: get_task(runner.world, "none", EVERYBODY), lambda: cancel_task(runner, "none", EVERYBODY)):
        with pytest.raises(Refused) as refused:
            act()
        assert refused.value.case is ErrorCase.TASK_UNKNOWN


def test_every_kind_with_steps_can_be_a_task() -> None:
    assert set(OPERATIONS) == {"create", "save_memory", "rollback", "rollback_volume", "delete", "forget"}


@pytest.mark.parametrize("plan", ["{}", "[1]", "not JSON"])
def test_a_plan_of_another_version_keeps_nobody_from_looking(plan: str) -> None:
    task = task_of(a_row(plan=plan))
    assert (task.state, task.kind, task.step, task.steps_done, task.progress) == ("finishing", "delete", "", 3, 0)
    assert task_of(a_row(OperationState.DONE, ended_at=20, plan=plan)).progress == 100


@pytest.mark.parametrize("case", ErrorCase)
@pytest.mark.parametrize("desc", ["", 'VM "web" (b) is running'])
def test_a_refused_task_has_the_code_of_its_refusal(case: ErrorCase, desc: str) -> None:
    error = describe_in_full(Refused(case, desc))
    task = task_of(a_row(OperationState.REFUSED, ended_at=9, error=error))
    assert (task.error, task.scode) == (error, case.code)


@pytest.mark.parametrize("error", ["", "disk full", "the disk (vda) is full", f"x {ErrorCase.VM_BUSY.value.message}"])
def test_what_does_not_say_its_code_has_none(error: str) -> None:
    assert task_of(a_row(OperationState.UNDONE, ended_at=9, error=error)).scode is None
