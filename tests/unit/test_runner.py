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
from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.operations.moments import Moment, Phase
from stillframe.operations.rows import About
from stillframe.operations.runner import Runner
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import Limits, World
from stillframe.ports.instruments import Unheard
from stillframe.ports.metadata import OperationFilter, OperationState, Slot

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
    world = SimpleNamespace(
        metadata=metadata,
        now_s=lambda: 1.0,
        new_uuid=lambda: str(uuid.uuid4()),
        watch=lambda moment: None,
        instruments=Unheard(),
        limits=Limits(host_patience_s=30.0),
    )
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
                raise Failed(ErrorCase.HYPERVISOR_FAILED, f"undo of {name} broke")

        return Step(name, do, undo, commits=commits)

    steps = (step("a"), step("b"), step("c", commits=True), step("d"))
    return Operation("test", Slot.EXCLUSIVE, Plan, lambda _plan: steps, ("a", "b", "c", "d"), "c")


def run(runner: Runner, plan: Plan) -> tuple[Story, StillframeError | None, OperationState]:
    story = Story()
    error: StillframeError | None = None
    with runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim:
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
        runner.claim(About(VM), Slot.EXCLUSIVE, "test"),
        pytest.raises(StillframeError) as refusal,
        runner.claim(About(VM), Slot.EXCLUSIVE, "other"),
    ):
        raise AssertionError("two operations held one slot")
    assert refusal.value.case is ErrorCase.VM_BUSY
    assert "test" in refusal.value.desc
    assert "1970" in refusal.value.desc


def test_a_refused_operation_says_why_and_not_only_about_what(runner: Runner) -> None:
    refused = Refused(ErrorCase.SNAPSHOT_HAS_CHILDREN, 'snapshot "base"')
    with pytest.raises(Refused), runner.claim(About(VM), Slot.EXCLUSIVE, "test"):
        raise refused
    with runner.world.metadata.read() as tx:
        (row,) = tx.journal.page(OperationFilter(vm_uuid=VM, limit=2))
    assert row.state is OperationState.REFUSED
    assert row.error == f'{ErrorCase.SNAPSHOT_HAS_CHILDREN.value.message} (snapshot "base")'


def test_the_plan_is_in_the_journal_before_the_first_step(runner: Runner) -> None:
    seen: list[Any] = []

    def look(world: World, _plan: Plan, _scratch: Scratch) -> None:
        with world.metadata.read() as tx:
            seen.extend(tx.journal.active([VM]))

    watched = Operation(
        "test", Slot.EXCLUSIVE, Plan, lambda _plan: (Step("look", look, commits=True),), ("look",), "look"
    )
    with runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim:
        claim.run(watched, Plan("nowhere"))
    (row,) = seen
    assert row.state is OperationState.RUNNING
    assert watched.decode(row.plan) == Plan("nowhere")


def state_of(runner: Runner, operation_uuid: str) -> OperationState:
    with runner.world.metadata.read() as tx:
        row = tx.journal.get(operation_uuid)
    assert row is not None
    return row.state


def the_active(runner: Runner) -> str:
    with runner.world.metadata.read() as tx:
        (row,) = tx.journal.active([VM])
    return row.uuid


def simple(*steps: Step[Plan], resumes: bool = False) -> Operation[Plan]:
    families = tuple(step.family for step in steps)
    (commit,) = (step.family for step in steps if step.commits)
    return Operation("test", Slot.EXCLUSIVE, Plan, lambda _plan: steps, families, commit, resumes)


def test_a_step_that_is_not_declared_keeps_everything_from_running(runner: Runner) -> None:
    """The suite that kills at every step takes its list from the declaration."""
    acted = Story()
    undeclared = Operation(
        "test", Slot.EXCLUSIVE, Plan, lambda _plan: (Step("new 1", tell("new", acted)),), ("old",), "old"
    )
    with (
        pytest.raises(StillframeError, match="new 1"),
        runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim,
    ):
        claim.run(undeclared, Plan(""))
    assert acted == []


def tell(what: str, story: Story) -> Any:
    return lambda *_arguments: story.append(what)


def test_a_hypervisor_that_is_away_is_waited_for_once_there_is_no_way_back(runner: Runner) -> None:
    away = [True, True, False]
    story = Story()

    def act(_world: World, _plan: Plan, _scratch: Scratch) -> None:
        story.append("tried")
        if away.pop(0):
            raise Failed(ErrorCase.HOST_UNREACHABLE, "libvirt is away")

    with runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim:
        claim.run(simple(Step("commit", commits=True), Step("act", act)), Plan(""))
    assert story == ["tried"] * 3
    assert state_of(runner, claim.row.uuid) is OperationState.DONE


def test_before_that_it_is_not_waited_for_but_for_the_undo(runner: Runner) -> None:
    away = [True, True, False]
    story = Story()

    def act(_world: World, _plan: Plan, _scratch: Scratch) -> None:
        story.append("tried")
        raise Failed(ErrorCase.HOST_UNREACHABLE, "libvirt is away")

    def undo(_world: World, _plan: Plan) -> None:
        story.append("undo")
        if away.pop(0):
            raise Failed(ErrorCase.HOST_UNREACHABLE, "libvirt is away")

    with (
        pytest.raises(StillframeError) as refusal,
        runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim,
    ):
        claim.run(simple(Step("act", act, undo), Step("commit", commits=True)), Plan(""))
    assert refusal.value.case is ErrorCase.HOST_UNREACHABLE
    assert story == ["tried", "undo", "undo", "undo"]
    assert state_of(runner, claim.row.uuid) is OperationState.UNDONE


def test_a_cancelled_operation_is_undone_before_its_next_step(runner: Runner) -> None:
    story = Story()

    def cancel(*_arguments: Any) -> None:
        story.append("first")
        assert runner.cancel(the_active(runner)) is OperationState.RUNNING

    steps = (Step("first", cancel, tell("undo first", story)), Step("second", tell("second", story), commits=True))
    with (
        pytest.raises(StillframeError) as refusal,
        runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim,
    ):
        claim.run(simple(*steps), Plan(""))
    assert refusal.value.case is ErrorCase.CANCELLED
    assert story == ["first", "undo first"]
    assert state_of(runner, claim.row.uuid) is OperationState.UNDONE


def test_a_cancel_that_comes_while_the_last_step_before_the_commit_acts_wins_by_the_database(runner: Runner) -> None:
    story = Story()

    def cancel(*_arguments: Any) -> None:
        # as another process would: only the journal knows
        uuid_now = the_active(runner)
        with runner.world.metadata.write() as tx:
            tx.journal.request_cancel(uuid_now)

    only = Step("commit", cancel, tell("undo", story), record=tell("recorded", story), commits=True)
    with (
        pytest.raises(StillframeError) as refusal,
        runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim,
    ):
        claim.run(simple(only), Plan(""))
    assert refusal.value.case is ErrorCase.CANCELLED
    assert story == ["recorded", "undo"], "what the transaction recorded is rolled back with it"
    assert state_of(runner, claim.row.uuid) is OperationState.UNDONE


def test_after_the_point_of_no_return_a_cancel_changes_nothing(runner: Runner) -> None:
    seen: list[OperationState] = []
    late = Step[Plan]("late", lambda *_arguments: seen.append(runner.cancel(the_active(runner))))
    with runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim:
        claim.run(simple(Step("commit", commits=True), late, Step("last", tell("last", Story()))), Plan(""))
    assert seen == [OperationState.COMMITTED]
    assert state_of(runner, claim.row.uuid) is OperationState.DONE


def test_every_moment_is_told(runner: Runner) -> None:
    told: list[tuple[str, Phase]] = []

    def watch(moment: Moment) -> None:
        told.append((moment.step, moment.phase))

    cast("Any", runner.world).watch = watch
    run(runner, Plan("b"))
    assert told == [
        ("", Phase.CLAIMED),
        ("", Phase.PLANNED),
        ("a", Phase.BEFORE),
        ("a", Phase.ACTED),
        ("a", Phase.NOTED),
        ("b", Phase.BEFORE),
        ("b", Phase.UNDOING),
        ("b", Phase.TAKEN_BACK),
        ("a", Phase.UNDOING),
        ("a", Phase.TAKEN_BACK),
        ("", Phase.CLOSING),
        ("", Phase.CLOSED),
    ]


@pytest.mark.parametrize("committed", [False, True])
def test_what_a_foreign_error_says_is_for_the_log_alone(
    runner: Runner, caplog: pytest.LogCaptureFixture, committed: bool
) -> None:
    """It may repeat what is in a plan; the row's own words are shown to clients."""

    def act(*_arguments: Any) -> None:
        raise ValueError("hunter2")

    steps = (Step[Plan]("commit", commits=True), Step[Plan]("act", act))
    with (
        pytest.raises(Failed if committed else ValueError),
        runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim,
    ):
        claim.run(simple(*(steps if committed else steps[::-1])), Plan(""))
    with runner.world.metadata.read() as tx:
        row = tx.journal.get(claim.row.uuid)
    assert row is not None
    assert row.state is (OperationState.LEFT if committed else OperationState.UNDONE)
    assert "ValueError" in row.error
    assert "hunter2" not in row.error
    assert "hunter2" in caplog.text


class UnreadableOnce:
    """The database, of which the next reading fails."""

    def __init__(self, metadata: Any) -> None:
        self.write = metadata.write
        self._metadata = metadata
        self._fails = True

    def read(self) -> Any:
        if self._fails:
            self._fails = False
            raise Failed(ErrorCase.STORAGE_FAILED, "it cannot be read now")
        return self._metadata.read()


def test_an_operation_is_driven_also_when_its_cancelling_cannot_be_looked_up(runner: Runner) -> None:
    """Nobody else would end it: it would hold its slot until the next start."""
    cast("Any", runner.world).metadata = UnreadableOnce(runner.world.metadata)
    assert run(runner, Plan("")) == (["a", "b", "c", "d"], None, OperationState.DONE)
