"""What an operation is made of: steps that act, undo and record, and the families that a suite can enumerate."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Generic, TypeVar

from pydantic import TypeAdapter

from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.operations.wording import describe
from stillframe.operations.work import Work
from stillframe.operations.world import World
from stillframe.ports.metadata import Slot, Transaction

P = TypeVar("P")
_NUMBER = re.compile(r"\d+")


class Scratch(dict[str, Any]):
    """What one step tells a later one within a run. Never durable: undo and recovery work from the plan alone.

    ``work`` takes the progress of long steps, and says when they are to stop. ``remark`` is durable: what a step past the
    point of no return leaves there, the operation will be done with.
    """

    def __init__(self, work: Work, remark: str = "") -> None:
        super().__init__()
        self.work = work
        self.remark = remark

    def refuse(self, error: StillframeError) -> None:
        """The operation goes on to its end; who waits for it gets this then, and the journal has it from now on."""
        self["refusal"] = error
        self.add_remark(describe(error))

    def add_remark(self, words: str) -> None:
        if words not in self.remark:
            self.remark = f"{self.remark}; {words}" if self.remark else words


Do = Callable[[World, P, Scratch], None]
Undo = Callable[[World, P], None]
Record = Callable[[Transaction, P, Scratch], None]


def nothing(_world: World, _plan: Any, _scratch: Scratch) -> None:
    """A step that only changes rows, or only marks the point of no return."""


@dataclass(frozen=True)
class Step(Generic[P]):
    """One step. ``do`` and ``undo`` are idempotent; ``record`` changes rows together with the done-mark.

    ``commits``: the point of no return lies behind this step. ``name`` is unique in its plan. ``weight``: its share of
    the operation's progress, beside the other steps'.
    """

    name: str
    do: Do[P] = nothing
    undo: Undo[P] | None = None
    record: Record[P] | None = None
    commits: bool = False
    weight: int = 1

    @property
    def family(self) -> str:
        """The name without the numbers that a plan gives: "merge *: commit"."""
        return _NUMBER.sub("*", self.name)


@dataclass(frozen=True)
class Operation(Generic[P]):
    """A kind of operation. ``steps`` is a pure function of the plan.

    ``families`` names every step that a plan can have: whoever adds a step adds it here, or nothing runs; the suite
    that kills and fails operations at each step takes its list from here. ``point_of_no_return`` is the one that commits.
    ``resumes``: interrupted before its point of no return it is tried forward again first (saving memory goes on in
    QEMU while we were away). ``needs_vm``: what is left of it on a VM that libvirt does not know waits for the VM.
    ``overtaken`` is asked before it is undone: why that would destroy something by now, so that it has to be carried
    forward; "" when it can be undone.
    """

    kind: str
    slot: Slot
    plan_type: type[P]
    steps: Callable[[P], tuple[Step[P], ...]]
    families: tuple[str, ...]
    point_of_no_return: str
    resumes: bool = False
    needs_vm: bool = True
    overtaken: Callable[[World, P], str] | None = None

    def steps_of(self, plan: P) -> tuple[Step[P], ...]:
        found = self.steps(plan)
        strange = [step.name for step in found if step.family not in self.families]
        if strange:
            raise Failed(ErrorCase.INTERNAL, f"{self.kind} does not declare its steps {', '.join(strange)}")
        if [step.family for step in found if step.commits] != [self.point_of_no_return]:
            raise Failed(ErrorCase.INTERNAL, f"{self.kind} must commit at {self.point_of_no_return}, and only there")
        return found

    def encode(self, plan: P) -> str:
        return self._adapter.dump_json(plan).decode()

    def decode(self, text: str) -> P:
        return self._adapter.validate_json(text)

    @cached_property
    def _adapter(self) -> TypeAdapter[P]:
        """Kept, because making one takes longer than reading a plan, and a list of tasks reads many."""
        return TypeAdapter(self.plan_type)
