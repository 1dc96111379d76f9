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
from hypothesis.stateful import RuleBasedStateMachine, rule, run_state_machine_as_test

from fault.model import BLOCKS
from fault.truth import TARGETS, Bench, Strike, open_bench, strike_of

pytestmark = pytest.mark.timeout(600)

RUNS, STEPS = 6, 30
NAMES = ("a", "b", "base", "快照", "e f", "g-1", "h.2", "Ü")
UNKNOWN = "no such"
CALLS = (*["create"] * 3, *["delete"] * 2, *["rollback"] * 2, "rollback_volume", "modify")
_STRUCK = 10  # one request in so many

_picks = st.integers(0, 31)
_parts = st.tuples(st.sampled_from(TARGETS), st.integers(0, BLOCKS - 1), st.integers(1, 24), st.integers(1, 255))
_strikes = st.sampled_from(range(_STRUCK * 4096))  # of a range all numbers are drawn alike


class Truth(RuleBasedStateMachine):
    """One run on one VM."""

    bench: Bench

    def __init__(self) -> None:
        super().__init__()
        self.bench.begin()

    def _pick(self, number: int) -> str:
        """A snapshot that there is; now and then one that there is not."""
        known = tuple(self.bench.model.snapshots)
        if not known or number % 8 == 7:
            return UNKNOWN
        return known[number % len(known)]

    @rule(
        call=st.sampled_from(CALLS),
        pick=_picks,
        name=st.sampled_from(NAMES),
        parts=st.lists(_parts, max_size=2),
        disks=st.permutations(TARGETS),
        count=st.integers(1, len(TARGETS)),
        strike=_strikes,
    )
    def request(
        self,
        *,
        call: str,
        pick: int,
        name: str,
        parts: list[tuple[str, int, int, int]],
        disks: list[str],
        count: int,
        strike: int,
    ) -> None:
        """One rule for all, because hypothesis would switch some of several off for a whole run."""
        bench = self.bench
        if parts:
            bench.write(parts)
        known = tuple(bench.model.snapshots)
        match call:
            case "delete":
                bench.delete(self._pick(pick), _strike("delete", strike))
            case "rollback":
                bench.rollback(self._pick(pick), _strike("rollback", strike))
            case "rollback_volume" if known:
                bench.rollback_disks(known[pick % len(known)], tuple(disks[:count]), _strike(call, strike))
            case "modify":
                bench.modify(self._pick(pick), f"description {pick}")
            case _:
                bench.create(name, f"of {name}", _strike("create", strike))

    def teardown(self) -> None:
        if not self.bench.broken:
            self.bench.end()


def _strike(kind: str, number: int) -> Strike | None:
    number, rest = divmod(number, _STRUCK)
    return strike_of(kind, number) if rest == _STRUCK - 1 else None


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
