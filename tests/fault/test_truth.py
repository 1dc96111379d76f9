"""Randomised truth: random requests of the real service on real qcow2 files, against a model that keeps every byte.

Every run draws its steps from a seed, which a failure prints together with the steps::

    STILLFRAME_SEED=<seed> .venv/bin/python -m pytest tests/fault/test_truth.py

makes the same steps again. Hypothesis' own way back, the blob that it prints, works as well; ``STILLFRAME_SHRINK=1``
lets it look for a shorter run that fails too. ``make soak MINUTES=n`` goes on with fresh seeds for n minutes.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator

import pytest
from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule, run_state_machine_as_test

from fault.model import BLOCKS
from fault.truth import TARGETS, Bench, Strike, open_bench, strike_of

pytestmark = pytest.mark.timeout(600)

RUNS, STEPS = 10, 30
NAMES = ("a", "b", "base", "快照", "e f", "g-1", "h.2", "Ü")
UNKNOWN = "no such"

_picks = st.integers(0, 31)
_parts = st.tuples(st.sampled_from(TARGETS), st.integers(0, BLOCKS - 1), st.integers(1, 24), st.integers(1, 255))
_strikes = st.integers(0, (1 << 16) - 1)


class Truth(RuleBasedStateMachine):
    """One run on one VM."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.bench.begin()

    def _pick(self, number: int) -> str:
        """A snapshot that there is; now and then one that there is not."""
        known = (*self.bench.model.snapshots, *((UNKNOWN,) if number % 8 == 7 else ()))
        return known[number % len(known)]

    @precondition(lambda self: self.bench.model.snapshots)
    @rule(pick=_picks, strike=_strikes)
    def delete(self, pick: int, strike: int) -> None:
        self.bench.delete(self._pick(pick), _strike("delete", strike))

    @precondition(lambda self: self.bench.model.snapshots)
    @rule(pick=_picks, strike=_strikes)
    def rollback(self, pick: int, strike: int) -> None:
        self.bench.rollback(self._pick(pick), _strike("rollback", strike))

    @precondition(lambda self: self.bench.model.snapshots)
    @rule(pick=_picks, disks=st.permutations(TARGETS), count=st.integers(1, 2), strike=_strikes)
    def rollback_disks(self, pick: int, disks: list[str], count: int, strike: int) -> None:
        known = tuple(self.bench.model.snapshots)
        chosen = tuple(disks[:count])
        self.bench.rollback_disks(known[pick % len(known)], chosen, _strike("rollback_volume", strike))

    @precondition(lambda self: self.bench.model.snapshots)
    @rule(pick=_picks, number=st.integers(0, 999))
    def modify(self, pick: int, number: int) -> None:
        self.bench.modify(self._pick(pick), f"description {number}")

    @rule(name=st.sampled_from(NAMES), parts=st.lists(_parts, max_size=2), strike=_strikes)
    def create(self, name: str, parts: list[tuple[str, int, int, int]], strike: int) -> None:
        if parts:
            self.bench.write(parts)
        self.bench.create(name, f"of {name}", _strike("create", strike))

    @rule(parts=st.lists(_parts, min_size=1, max_size=3))
    def write(self, parts: list[tuple[str, int, int, int]]) -> None:
        self.bench.write(parts)

    def teardown(self) -> None:
        if not self.bench.broken:
            self.bench.end()


def _strike(kind: str, number: int) -> Strike | None:
    """One request in twelve is struck."""
    number, rest = divmod(number, 12)
    return strike_of(kind, number) if rest == 11 else None


def run_truth(bench: Bench, number: int, *, runs: int = RUNS, steps: int = STEPS) -> None:
    """As many runs of as many steps as said, all drawn from one seed."""
    phases = [Phase.generate, *([Phase.shrink] if "STILLFRAME_SHRINK" in os.environ else [])]
    machine = seed(number)(type("Truth", (Truth,), {"bench": bench}))
    options = settings(
        max_examples=runs,
        stateful_step_count=steps,
        deadline=None,
        database=None,
        print_blob=True,
        phases=phases,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(machine, settings=options)
    except BaseException as error:
        error.add_note(f"seed: STILLFRAME_SEED={number}")
        raise


@pytest.fixture
def bench() -> Iterator[Bench]:
    with open_bench() as opened:
        yield opened


def test_every_snapshot_is_always_what_the_model_says(bench: Bench) -> None:
    number = int(os.environ.get("STILLFRAME_SEED") or secrets.randbelow(1 << 32))
    run_truth(bench, number)
    assert bench.figures.steps > RUNS * STEPS / 2
    assert bench.figures.crashes
