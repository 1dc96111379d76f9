"""The moments of an operation, told to whoever watches: for traces and figures, and for tests that strike at one.

A watcher that raises at ``BEFORE`` or ``ACTED`` makes the step fail without or with its effect; at ``UNDOING`` it makes the
undo fail. At the other moments it must not raise.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum


class Phase(StrEnum):
    CLAIMED = "claimed"  # the VM's slot is held; no plan yet
    PLANNED = "planned"  # the plan is in the journal
    BEFORE = "before"  # the step has not begun
    ACTED = "acted"  # the step has acted; its rows and its done-mark are not written
    NOTED = "noted"  # they are
    UNDOING = "undoing"  # the step's undo has not begun
    TAKEN_BACK = "taken back"  # it has ended
    CLOSING = "closing"  # all is done or undone; the operation still holds its slot
    CLOSED = "closed"


@dataclass(frozen=True)
class Moment:
    """``step`` is the step's family (see ``Step.family``), "" for the operation as a whole."""

    operation_uuid: str
    kind: str
    step: str
    phase: Phase


Watch = Callable[[Moment], None]


def unwatched(_moment: Moment) -> None:
    """Nobody watches."""
