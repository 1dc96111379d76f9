"""The matrix as a table for people: operation x step x strike, with the outcome that was seen."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass

from fault.matrix import Cell, Strike

BEGIN, END = "<!-- fault matrix: begin -->", "<!-- fault matrix: end -->"
_COLUMNS = (
    ("killed before", (Strike.KILLED_BEFORE,)),
    ("killed after", (Strike.KILLED_AFTER, Strike.KILLED_NOTED)),
    ("failed", (Strike.FAILED_BEFORE, Strike.FAILED_AFTER)),
    ("killed in its undo", (Strike.UNDO_KILLED_BEFORE, Strike.UNDO_KILLED_AFTER)),
    ("undo failed", (Strike.UNDO_FAILED,)),
    ("killed again in recovery", (Strike.RECOVERY_KILLED_BEFORE, Strike.RECOVERY_KILLED_AFTER)),
)


@dataclass(frozen=True)
class Result:
    """``outcome`` is what was seen; "" when the cell failed."""

    scenario: str
    cell: Cell
    outcome: str


def table(results: Iterable[Result]) -> str:
    """Markdown. A field lists the outcomes of every scenario that has the step, each with how often it was seen."""
    seen: dict[tuple[str, str, str], dict[str, int]] = defaultdict(lambda: defaultdict(int))
    rows: dict[tuple[str, str], None] = {}
    for result in results:
        at = result.cell.at
        step = at.step or f"({at.phase})"
        rows[at.kind, step] = None
        column = next(name for name, strikes in _COLUMNS if result.cell.strike in strikes)
        seen[at.kind, step, column][result.outcome or "**FAILED**"] += 1
    lines = [
        "| operation | step | " + " | ".join(name for name, _strikes in _COLUMNS) + " |",
        "|---" * (len(_COLUMNS) + 2) + "|",
    ]
    for kind, step in rows:
        fields = [
            ", ".join(f"{outcome} {count}x" for outcome, count in sorted(seen[kind, step, name].items())) or "–"
            for name, _strikes in _COLUMNS
        ]
        lines.append(f"| {kind} | {step} | " + " | ".join(fields) + " |")
    return "\n".join(lines)
