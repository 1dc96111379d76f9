"""A part of the matrix that ``make fault`` runs whole: each step of each operation once, in one of its scenarios.

Which steps there are is the operations' own declaration: one that no scenario goes through fails here.
"""

from __future__ import annotations

import pytest

from fault.matrix import Cell, Course, Strike, cells, observe, run_cell
from fault.scenarios import SCENARIOS, Scenario
from stillframe.operations.recovery import OPERATIONS
from support.lab import Lab

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

# Of the scenarios those that go through every step of every operation between them; a step that is in none of them fails the
# first test. The others, which take other ways through the same steps, are struck by `make fault`.
_ENOUGH = (
    "create, disks, running",
    "create, memory",
    "rollback, memory",
    "rollback, one disk",
    "delete, live, below another",
    "delete, live, a branch",
    "delete, live, pulled into the head",
    "delete of the VM",
)
_STRUCK = tuple(scenario for scenario in SCENARIOS if scenario.name in _ENOUGH)
# by operation: what is struck here of each of its steps
_CHOSEN = (Strike.KILLED_AFTER, Strike.UNDO_FAILED)


@pytest.fixture(scope="module")
def courses(lab: Lab) -> dict[str, Course]:
    return {scenario.name: observe(lab, scenario) for scenario in _STRUCK}


def test_every_step_of_every_operation_is_struck_by_some_scenario(courses: dict[str, Course]) -> None:
    assert len(_STRUCK) == len(_ENOUGH), "a scenario has another name now"
    declared = {(kind, family) for kind, operation in OPERATIONS.items() for family in operation.families}
    seen = {(kind, step) for course in courses.values() for kind in OPERATIONS for step in course.steps(kind)}
    assert seen == declared
    undone = {kind for course in courses.values() for kind, _step in course.undone}
    assert undone == {
        kind for kind, operation in OPERATIONS.items() if operation.point_of_no_return != operation.families[0]
    }


def _choose(courses: dict[str, Course]) -> list[tuple[Scenario, Cell]]:
    chosen: list[tuple[Scenario, Cell]] = []
    met: set[tuple[Strike, str, str]] = set()
    for scenario in _STRUCK:
        for cell in cells(scenario, courses[scenario.name]):
            what = (cell.strike, cell.at.kind, cell.at.step)
            if cell.strike in _CHOSEN and cell.at.step and what not in met:
                met.add(what)
                chosen.append((scenario, cell))
    return chosen


@pytest.mark.parametrize("kind", sorted(OPERATIONS))
def test_struck_at_any_step_nothing_is_lost_and_nothing_is_left(
    lab: Lab, courses: dict[str, Course], kind: str
) -> None:
    """Killed after each step's act, before it is noted; and with an undo that fails."""
    mine = [(scenario, cell) for scenario, cell in _choose(courses) if cell.at.kind == kind]
    assert len(mine) >= len(OPERATIONS[kind].families)
    for scenario, cell in mine:
        try:
            run_cell(lab, scenario, cell)
        except AssertionError as error:
            raise AssertionError(f"{scenario.name}: {cell}: {error}") from error
