"""Every cell of the matrix on real guests; prints a table, and writes it into a document.

    python tests/fault/run.py [--only TEXT] [--write docs/operating.md]

Exit code 1 when a cell failed. A cell that failed gets a new lab, so that the next one starts from a known state.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from fault.matrix import Cell, Course, cells, observe, run_cell
from fault.scenarios import SCENARIOS, Scenario
from fault.table import BEGIN, END, Result, table
from support.ending import end_in_order
from support.lab import Lab, open_lab
from support.struck import Striker


class Bench:
    """A lab that is replaced after a failure."""

    def __init__(self, striker: Striker) -> None:
        self._striker = striker
        self._stack = ExitStack()
        self._lab: Lab | None = None

    @property
    def lab(self) -> Lab:
        if self._lab is None:
            self._lab = self._stack.enter_context(open_lab(self._striker))
        return self._lab

    def close(self) -> None:
        self._stack.close()
        self._lab = None

    def spoil(self) -> None:
        if self._lab is not None:
            print(self._lab.service.log_path.read_text(errors="replace")[-3000:])
        self.close()


def run(bench: Bench, scenario: Scenario) -> Iterator[Result]:
    course: Course = observe(bench.lab, scenario)
    for cell in cells(scenario, course):
        yield Result(scenario.name, cell, _outcome(bench, scenario, cell))


def _outcome(bench: Bench, scenario: Scenario, cell: Cell) -> str:
    begun = time.monotonic()
    try:
        outcome = run_cell(bench.lab, scenario, cell).value
    except Exception:  # noqa: BLE001 -- one cell's failure is a result; the others are wanted as well
        traceback.print_exc()
        bench.spoil()
        outcome = ""
    print(f"{scenario.name}: {cell}: {outcome or 'FAILED'} ({time.monotonic() - begun:.1f} s)", flush=True)
    return outcome


def write(document: Path, results: list[Result], took_s: float) -> None:
    text = document.read_text()
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    failed = sum(not result.outcome for result in results)
    scenarios = len({result.scenario for result in results})
    summary = (
        f"Made on {datetime.now(UTC):%Y-%m-%d} at commit {commit.stdout.strip()} by `make fault`: {len(results)} cells of "
        f"{scenarios} of {len(SCENARIOS)} scenarios in {took_s / 60:.0f} minutes, {failed} failed."
    )
    document.write_text(f"{head}{BEGIN}\n{summary}\n\n{table(results)}\n{END}{tail}")


def main() -> int:
    parser = argparse.ArgumentParser(description="strike every moment of every operation")
    parser.add_argument("--only", default="", help="only scenarios whose name holds this text")
    parser.add_argument("--write", type=Path, help="the document that gets the table")
    chosen = parser.parse_args()
    end_in_order()
    begun = time.monotonic()
    striker = Striker()
    bench = Bench(striker)
    results: list[Result] = []
    try:
        for scenario in SCENARIOS:
            if chosen.only in scenario.name:
                results += run(bench, scenario)
                if chosen.write is not None:
                    # after each: an hour's results are not lost with the last minute's
                    write(chosen.write, results, time.monotonic() - begun)
    finally:
        bench.close()
        striker.close()
    print(table(results))
    failed = [result for result in results if not result.outcome]
    print(f"{len(results)} cells, {len(failed)} failed, {time.monotonic() - begun:.0f} s")
    for result in failed:
        print(f"FAILED {result.scenario}: {result.cell}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
