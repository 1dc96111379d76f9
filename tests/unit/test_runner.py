"""The runner's promises, on a real database: order, undo, and what happens when an undo fails."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from stillframe.adapters.metadata.database import open_metadata
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.operations.runner import Operation, Runner, Scratch, Step
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationState, Slot

VM = str(uuid.uuid4())


@dataclass(frozen=True)
class Plan:
    breaks_at: str
    undo_breaks_at: str = ""


class Story(list[str]):
    """What was done and undone, in order."""


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    metadata = open_metadata(f"sqlite:///{tmp_path / 'journal.db'}")
    world = SimpleNamespace(metadata=metadata, now_s=lambda: 1.0, new_uuid=lambda: str(uuid.uuid4()))
    yield Runner(cast("World", world))
    metadata.close()


def operation(story: Story) -> Operation[Plan]:
    def step(name: str, *, commits: bool = False) -> Step[Plan]:
        def do(_world: World, plan: Plan, _scratch: Scratch) -> None:
            story.append(name)
            if plan.breaks_at == name:
                raise Failed(ErrorCase.STORAGE_FAILED, f"{name} broke")

        def undo(_world: World, plan: Plan) -> None:
            story.append(f"undo {name}")
            if plan.undo_breaks_at == name:
                raise Failed(ErrorCase.HOST_UNREACHABLE, f"undo of {name} broke")

        return Step(name, do, undo, commits=commits)

    steps = (step("a"), step("b"), step("c", commits=True), step("d"))
    return Operation("test", Slot.EXCLUSIVE, Plan, lambda _plan: steps)


def run(runner: Runner, plan: Plan) -> tuple[Story, StillframeError | None, OperationState]:
    story = Story()
    error: StillframeError | None = None
    with runner.claim(VM, Slot.EXCLUSIVE, "test") as claim:
        try:
            claim.run(operation(story), plan)
        except StillframeError as raised:
            error = raised
    with runner.world.metadata.read() as tx:
        row = tx.journal.get(claim.row.uuid)
    assert row is not None
    return story, error, row.state


def test_steps_run_in_order_and_the_slot_is_free_again(runner: Runner) -> None:
    for _again in range(2):
        assert run(runner, Plan("")) == (["a", "b", "c", "d"], None, OperationState.DONE)


@pytest.mark.parametrize(("breaks_at", "story"), [("a", "a,undo a"), ("b", "a,b,undo b,undo a")])
def test_before_the_point_of_no_return_everything_is_undone_in_reverse(
    runner: Runner, breaks_at: str, story: str
) -> None:
    done, error, state = run(runner, Plan(breaks_at))
    assert ",".join(done) == story
    assert error is not None
    assert error.case is ErrorCase.STORAGE_FAILED
    assert state is OperationState.UNDONE


def test_the_committing_step_itself_can_still_be_undone(runner: Runner) -> None:
    done, _error, state = run(runner, Plan("c"))
    assert done == ["a", "b", "c", "undo c", "undo b", "undo a"]
    assert state is OperationState.UNDONE


def test_a_failed_undo_stops_the_undoing_and_is_said(runner: Runner) -> None:
    """What earlier steps made may still be needed: a guest may be writing to it."""
    done, error, state = run(runner, Plan("c", undo_breaks_at="b"))
    assert done == ["a", "b", "c", "undo c", "undo b"]
    assert error is not None
    assert error.case is ErrorCase.LEFT_BEHIND
    assert "undo of b broke" in error.desc
    assert "c broke" in error.desc
    assert state is OperationState.LEFT


def test_after_the_point_of_no_return_nothing_is_undone(runner: Runner) -> None:
    done, error, state = run(runner, Plan("d"))
    assert done == ["a", "b", "c", "d"]
    assert error is not None
    assert error.case is ErrorCase.LEFT_BEHIND
    assert "d broke" in error.desc
    assert state is OperationState.LEFT


def test_a_busy_vm_is_refused_with_what_and_since_when(runner: Runner) -> None:
    with (
        runner.claim(VM, Slot.EXCLUSIVE, "test"),
        pytest.raises(StillframeError) as refusal,
        runner.claim(VM, Slot.EXCLUSIVE, "other"),
    ):
        raise AssertionError("two operations held one slot")
    assert refusal.value.case is ErrorCase.VM_BUSY
    assert "test" in refusal.value.desc
    assert "1970" in refusal.value.desc


def test_the_plan_is_in_the_journal_before_the_first_step(runner: Runner) -> None:
    seen: list[Any] = []

    def look(world: World, _plan: Plan, _scratch: Scratch) -> None:
        with world.metadata.read() as tx:
            seen.extend(tx.journal.active([VM]))

    watched = Operation("test", Slot.EXCLUSIVE, Plan, lambda _plan: (Step("look", look),))
    with runner.claim(VM, Slot.EXCLUSIVE, "test") as claim:
        claim.run(watched, Plan("nowhere"))
    (row,) = seen
    assert row.state is OperationState.RUNNING
    assert watched.decode(row.plan) == Plan("nowhere")
