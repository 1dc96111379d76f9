"""The matrix: every moment of every scenario, struck one at a time, and what must be true after it.

A cell is one strike at one moment. The lists come from the operations' own declarations and from what a scenario was
seen to go through, never from a list kept here: a new step is in the matrix by itself.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from fault.scenarios import Scenario
from stillframe.domain.errors import ErrorCase
from stillframe.operations.recovery import OPERATIONS
from support.lab import Lab, settle
from support.ledger import check_census, checksums, head_checksums, rows
from support.service import Vm, eventually
from support.struck import At

BEFORE, ACTED, NOTED, UNDOING, TAKEN_BACK = "before", "acted", "noted", "undoing", "taken back"
_LIFE = ("claimed", "planned", "closing", "closed")
_MEMORY_KIND = "save_memory"


class Strike(StrEnum):
    """The columns of the table."""

    KILLED_BEFORE = "killed before"
    KILLED_AFTER = "killed after"
    KILLED_NOTED = "killed noted"
    FAILED_BEFORE = "failed before"
    FAILED_AFTER = "failed after"
    UNDO_KILLED_BEFORE = "undo killed before"
    UNDO_KILLED_AFTER = "undo killed after"
    UNDO_FAILED = "undo failed"
    RECOVERY_KILLED_BEFORE = "recovery killed before"
    RECOVERY_KILLED_AFTER = "recovery killed after"


class Outcome(StrEnum):
    UNDONE = "undone"
    COMPLETE = "complete"
    WITHOUT_MEMORY = "without memory"  # saving failed: the snapshot stays as a disk-only one
    FINISHED = "complete, by itself"  # the caller was told that it goes on
    MENDED = "undone, by itself"  # the undo had failed


@dataclass(frozen=True)
class Cell:
    """``first`` brings the service into recovery or into the undo that ``at`` strikes."""

    strike: Strike
    at: At
    outcomes: tuple[Outcome, ...]
    first: At | None = None

    def __str__(self) -> str:
        return f"{self.at.kind}: {self.at.step or 'as a whole'}: {self.strike} ({self.at.phase})"


@dataclass(frozen=True)
class Course:
    """What a scenario was seen to go through: the moments of its request, unstruck, and of its operations' undos.

    ``undone``: (kind, step) of every undo.
    """

    moments: tuple[At, ...]
    undone: tuple[tuple[str, str], ...]

    def steps(self, kind: str) -> list[str]:
        """Each family once, in order."""
        return list(dict.fromkeys(at.step for at in self.moments if at.kind == kind and at.phase == NOTED and at.step))


def observe(lab: Lab, scenario: Scenario) -> Course:
    """Run the scenario once in peace, and once with a failure of the step that would commit."""
    _prepare(lab, scenario)
    lab.service.forget_moments()
    answer = _send(lab, scenario)
    assert answer is not None
    assert answer["scode"] == 0, answer
    settle(lab.service)
    moments = tuple(at for at in lab.service.moments() if at.kind in scenario.kinds)
    assert scenario.is_done(lab)
    scenario.clean(lab)
    settle(lab.service)
    undone = tuple((kind, step) for kind in scenario.kinds for step in _undos(lab, scenario, kind))
    return Course(moments, undone)


def _undos(lab: Lab, scenario: Scenario, kind: str) -> list[str]:
    """The steps whose undo runs when the step that would commit fails."""
    _prepare(lab, scenario)
    lab.service.forget_moments()
    lab.service.strike(fail=(At(kind, OPERATIONS[kind].point_of_no_return, ACTED),))
    answer = _send(lab, scenario)
    settle(lab.service)
    lab.service.spare()
    assert answer is not None
    is_own = kind == scenario.kinds[0]
    # nobody waits for an operation that another one opens
    assert answer["scode"] == (ErrorCase.STORAGE_FAILED.code if is_own else 0), answer
    found = [at.step for at in lab.service.moments() if at.kind == kind and at.phase == TAKEN_BACK]
    if is_own:
        assert not scenario.is_done(lab)
        again = _send(lab, scenario)
        assert again is not None
        assert again["scode"] == 0, again
        settle(lab.service)
    scenario.clean(lab)
    settle(lab.service)
    return found


def cells(scenario: Scenario, course: Course) -> list[Cell]:
    """Every cell of a scenario."""
    found: list[Cell] = []
    for kind in scenario.kinds:
        for step in course.steps(kind):
            found += _step_cells(kind, step, course)
        found += [
            Cell(Strike.KILLED_AFTER, At(kind, "", phase), _killed(kind, "", phase, course))
            for phase in _LIFE
            if At(kind, "", phase) in course.moments
        ]
    for kind, step in course.undone:
        last = At(kind, OPERATIONS[kind].point_of_no_return, ACTED)
        undone = Outcome.UNDONE if kind != _MEMORY_KIND else Outcome.WITHOUT_MEMORY
        mended = Outcome.MENDED if kind != _MEMORY_KIND else Outcome.WITHOUT_MEMORY
        found += [
            Cell(Strike.UNDO_KILLED_BEFORE, At(kind, step, UNDOING), (undone,), last),
            Cell(Strike.UNDO_KILLED_AFTER, At(kind, step, TAKEN_BACK), (undone,), last),
            Cell(Strike.UNDO_FAILED, At(kind, step, UNDOING), (mended,), last),
        ]
        if kind != _MEMORY_KIND:  # which is not undone after a crash, but goes on
            found += [
                Cell(Strike.RECOVERY_KILLED_BEFORE, At(kind, step, UNDOING), (undone,), last),
                Cell(Strike.RECOVERY_KILLED_AFTER, At(kind, step, TAKEN_BACK), (undone,), last),
            ]
    for kind in scenario.kinds:
        steps = course.steps(kind)
        resumes = OPERATIONS[kind].resumes
        begin = 0 if resumes else steps.index(OPERATIONS[kind].point_of_no_return)
        behind = At(kind, steps[begin], NOTED)
        for step in steps[begin + 1 :]:
            found += [
                Cell(Strike.RECOVERY_KILLED_BEFORE, At(kind, step, BEFORE), (Outcome.COMPLETE,), behind),
                Cell(Strike.RECOVERY_KILLED_AFTER, At(kind, step, ACTED), (Outcome.COMPLETE,), behind),
            ]
    return found


def _step_cells(kind: str, step: str, course: Course) -> list[Cell]:
    return [
        *(
            Cell(strike, At(kind, step, phase), _killed(kind, step, phase, course))
            for strike, phase in (
                (Strike.KILLED_BEFORE, BEFORE),
                (Strike.KILLED_AFTER, ACTED),
                (Strike.KILLED_NOTED, NOTED),
            )
        ),
        *(
            Cell(strike, At(kind, step, phase), _failed(kind, step, course))
            for strike, phase in ((Strike.FAILED_BEFORE, BEFORE), (Strike.FAILED_AFTER, ACTED))
        ),
    ]


def _is_behind(kind: str, step: str, phase: str, course: Course) -> bool:
    """The moment lies behind the point of no return."""
    if not step:
        return phase in ("closing", "closed")
    steps = course.steps(kind)
    commit = steps.index(OPERATIONS[kind].point_of_no_return)
    return steps.index(step) > commit or (steps.index(step) == commit and phase == NOTED)


def _killed(kind: str, step: str, phase: str, course: Course) -> tuple[Outcome, ...]:
    if kind == _MEMORY_KIND or _is_behind(kind, step, phase, course):
        return (Outcome.COMPLETE,)
    return (Outcome.UNDONE,)


def _failed(kind: str, step: str, course: Course) -> tuple[Outcome, ...]:
    if _is_behind(kind, step, ACTED, course):
        return (Outcome.FINISHED,)
    return (Outcome.WITHOUT_MEMORY,) if kind == _MEMORY_KIND else (Outcome.UNDONE,)


# --- running a cell ---------------------------------------------------------------------------------------------------


def run_cell(lab: Lab, scenario: Scenario, cell: Cell) -> Outcome:
    """Strike, let the service come back, check everything, make the request again, go back to the lab's tree."""
    vm = scenario.vm(lab)
    _prepare(lab, scenario)
    before, head = checksums(vm), _head(lab, vm)
    answer = _strike(lab, scenario, cell)
    settle(lab.service)
    _check_guest(vm, lab)
    done = scenario.is_done(lab)
    outcome = _outcome(scenario, cell, answer, done=done, lab=lab)
    assert outcome in cell.outcomes, f"{outcome}, expected {cell.outcomes}; answered {answer}"
    _check_data(lab, vm, before, head, scenario, done=done)
    check_census(lab.service)
    check_doctor(lab)
    if not done:
        again = _send(lab, scenario)
        assert again is not None
        assert again["scode"] == 0, f"the same request again: {again}"
        settle(lab.service)
        assert scenario.is_done(lab)
    scenario.clean(lab)
    settle(lab.service)
    check_census(lab.service)
    return outcome


def _prepare(lab: Lab, scenario: Scenario) -> None:
    lab.service.spare()
    lab.service.ensure_started()
    scenario.prepare(lab)
    settle(lab.service)


def _send(lab: Lab, scenario: Scenario) -> dict[str, Any] | None:
    """What the caller is told; in a batch of one: of the one."""
    path, body = scenario.request(lab)
    answer = lab.service.send(path, cluster_uuid="", compute_uuid=scenario.vm(lab).uuid, **body)
    if answer is not None and answer["scode"] == 0 and "results" in answer["data"]:
        (result,) = answer["data"]["results"]
        return dict(result)
    return answer


def _strike(lab: Lab, scenario: Scenario, cell: Cell) -> dict[str, Any] | None:
    """Returns what the caller was told; None when the service died over the request."""
    service = lab.service
    if cell.strike in (Strike.FAILED_BEFORE, Strike.FAILED_AFTER):
        service.strike(fail=(cell.at,))
        answer = _send(lab, scenario)
        settle(service)
        service.spare()
        return answer
    if cell.strike is Strike.UNDO_FAILED:
        assert cell.first is not None
        service.strike(fail=(cell.first,), always=(cell.at,))
        answer = _send(lab, scenario)
        _check_named_and_repaired(lab)
        return answer
    if cell.strike in (Strike.UNDO_KILLED_BEFORE, Strike.UNDO_KILLED_AFTER):
        assert cell.first is not None
        service.strike(fail=(cell.first,), kill=cell.at)
        answer = _send(lab, scenario)
    elif cell.first is not None:
        service.strike(kill=cell.first)
        answer = _send(lab, scenario)
        service.await_death()
        service.strike(kill=cell.at)
        service.fork()
    else:
        service.strike(kill=cell.at)
        answer = _send(lab, scenario)
    service.await_death()
    service.spare()
    service.start()
    return answer


def check_doctor(lab: Lab) -> None:
    """Database, files, memory states and hypervisor agree."""
    report = lab.service.get("/v1/stillframe/doctor")
    assert report["findings"] == []
    assert report["busy"] == []


def _check_named_and_repaired(lab: Lab) -> None:
    """What could not be undone is left, doctor names it, and finishes it once it can be."""
    eventually(lambda: bool(_left(lab)), "a failed undo is left, and said")
    # the mender tries as well, in vain, and the VM is busy for that moment
    eventually(lambda: "operation_left" in _kinds(lab.service.get("/v1/stillframe/doctor")), "doctor names it")
    lab.service.spare()

    def is_repaired() -> bool:
        report = lab.service.post("/v1/stillframe/doctor/repair")
        return not report["findings"] and not report["busy"]

    eventually(is_repaired, "doctor finishes it")


def _kinds(report: dict[str, Any]) -> list[str]:
    return [finding["kind"] for finding in report["findings"]]


def _left(lab: Lab) -> list[tuple[Any, ...]]:
    return rows(lab.service, "SELECT kind, error FROM operations WHERE state = 'left'")


def _outcome(scenario: Scenario, cell: Cell, answer: dict[str, Any] | None, *, done: bool, lab: Lab) -> Outcome:
    told = answer["scode"] if answer is not None else None
    if told == ErrorCase.LEFT_BEHIND.code:
        return Outcome.FINISHED if done else Outcome.MENDED
    if _MEMORY_KIND in scenario.kinds and done and lab.running.get("new")["attr"]["status"] == "failed":
        assert told == 0
        return Outcome.WITHOUT_MEMORY
    if cell.strike in (Strike.FAILED_BEFORE, Strike.FAILED_AFTER):
        assert told == ErrorCase.STORAGE_FAILED.code, answer
    return Outcome.COMPLETE if done else Outcome.UNDONE


def _head(lab: Lab, vm: Vm) -> dict[str, str] | None:
    return head_checksums(vm) if vm is lab.off else None


def _check_guest(vm: Vm, lab: Lab) -> None:
    for one in (vm, lab.running):
        assert one.state() != "paused", "a guest is never left paused"
    if lab.running.state() == "running":
        lab.running.await_ticks(3)
    assert lab.running.witness().torn() == []


def _check_data(
    lab: Lab,
    vm: Vm,
    before: dict[str, dict[str, str]],
    head: dict[str, str] | None,
    scenario: Scenario,
    *,
    done: bool,
) -> None:
    now = checksums(vm)
    assert set(before) - set(now) <= ({"doomed"} if done else set()), "no snapshot is lost"
    assert set(now) - set(before) <= ({"new"} if done else set())
    assert {name: now[name] for name in before if name in now} == {n: before[n] for n in before if n in now}
    lab.check_exact(vm)
    if head is not None and not (done and scenario.kinds[0].startswith("rollback")):
        assert head_checksums(vm) == head, "the VM's own state is what it was"
