"""What the runner does with an operation that may not be undone any more, and with remarks, on a real database."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stillframe.adapters.metadata.database import open_metadata
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.operations.moments import Moment, Phase
from stillframe.operations.rows import About
from stillframe.operations.runner import Runner
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import Limits, World
from stillframe.ports.instruments import Unheard
from stillframe.ports.metadata import OperationRow, OperationState, Slot, Transaction

VM = str(uuid.uuid4())
WHY = "a guest was started on it"


@dataclass(frozen=True)
class Plan:
    pass


@dataclass
class Teller:
    """An operation of five steps whose parts note what they do; ``c`` is its point of no return."""

    breaks: set[str] = field(default_factory=set)
    remarks: dict[str, str] = field(default_factory=dict)
    why: str = WHY
    story: list[str] = field(default_factory=list)

    def tell(self, what: str) -> None:
        self.story.append(what)
        if what in self.breaks:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{what} broke")

    def step(self, name: str) -> Step[Plan]:
        def do(_world: World, _plan: Plan, scratch: Scratch) -> None:
            self.tell(name)
            if name in self.remarks:
                scratch.add_remark(self.remarks[name])

        def undo(_world: World, _plan: Plan) -> None:
            self.tell(f"undo {name}")

        def record(_tx: Transaction, _plan: Plan, _scratch: Scratch) -> None:
            self.tell(f"{name} recorded")

        return Step(name, do, undo, record if name == "c" else None, commits=name == "c")

    def overtaken(self, _world: World, _plan: Plan) -> str:
        self.tell("look")
        return self.why

    @property
    def operation(self) -> Operation[Plan]:
        steps = tuple(map(self.step, "abcde"))
        return Operation("test", Slot.EXCLUSIVE, Plan, lambda _: steps, tuple("abcde"), "c", overtaken=self.overtaken)


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


def run(runner: Runner, teller: Teller, *, cancel: bool = False) -> tuple[Failed | None, OperationRow]:
    failure: Failed | None = None
    with runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim:
        if cancel:
            with runner.world.metadata.write() as tx:
                tx.journal.request_cancel(claim.row.uuid)
        try:
            claim.run(teller.operation, Plan())
        except Failed as raised:
            failure = raised
    return failure, row_of(runner, claim.row.uuid)


def row_of(runner: Runner, operation_uuid: str) -> OperationRow:
    with runner.world.metadata.read() as tx:
        row = tx.journal.get(operation_uuid)
    assert row is not None
    return row


def test_what_was_overtaken_is_finished_and_not_undone(runner: Runner) -> None:
    teller = Teller(breaks={"c"})
    failure, row = run(runner, teller)
    assert teller.story == ["a", "b", "c", "look", "c recorded", "d", "e"]
    assert (failure, row.state, row.error) == (None, OperationState.DONE, WHY)
    assert row.steps_done == tuple("abcde")


def test_what_was_not_is_undone_as_ever(runner: Runner) -> None:
    teller = Teller(breaks={"c"}, why="")
    failure, row = run(runner, teller)
    assert teller.story == ["a", "b", "c", "look", "undo c", "undo b", "undo a"]
    assert failure is not None
    assert row.state is OperationState.UNDONE


def test_an_interrupted_one_that_was_left_is_finished_also_while_another_has_its_slot(runner: Runner) -> None:
    teller = Teller(breaks={"b", "look"})
    failure, row = run(runner, teller)
    assert teller.story == ["a", "b", "look"], "what cannot be looked at is not undone"
    assert failure is not None
    assert (failure.case, row.state) == (ErrorCase.LEFT_BEHIND, OperationState.LEFT)
    teller.breaks.clear()
    cause = Failed(ErrorCase.INTERRUPTED, row.error)
    with runner.claim(About(VM), Slot.EXCLUSIVE, "other"):
        steps = teller.operation.steps_of(Plan())
        told = runner.undo(row.uuid, teller.operation, Plan(), steps, cause, holds_slot=False)
    assert told is not None
    assert teller.story[3:] == ["look", "c recorded", "d", "e"]
    assert row_of(runner, row.uuid).state is OperationState.DONE


def test_one_whose_cancelling_was_accepted_is_neither_undone_nor_finished(runner: Runner) -> None:
    teller = Teller()
    failure, row = run(runner, teller, cancel=True)
    assert teller.story == ["look"]
    assert failure is not None
    assert (failure.case, row.state) == (ErrorCase.LEFT_BEHIND, OperationState.LEFT)
    assert "cancelled" in row.error
    assert WHY in row.error


def test_a_remark_is_kept_until_the_end(runner: Runner) -> None:
    """Whoever drives the operation on knows nothing but the journal."""
    teller = Teller(breaks={"e"}, remarks={"d": "the memory is gone"})
    seen: list[str] = []

    def watch(moment: Moment) -> None:
        if (moment.step, moment.phase) == ("e", Phase.BEFORE):
            seen.append(row_of(runner, moment.operation_uuid).error)

    cast("SimpleNamespace", runner.world).watch = watch
    failure, row = run(runner, teller)
    assert failure is not None
    assert "e broke" in failure.desc
    teller.breaks.clear()
    told = runner.drive(row.uuid, teller.operation, Plan(), frozenset(row.steps_done))
    assert all("the memory is gone" in words for words in (*seen, row.error))
    assert len(seen) == 2
    assert "refusal" not in told
    ended = row_of(runner, row.uuid)
    assert (ended.state, ended.error) == (OperationState.DONE, "the memory is gone")
