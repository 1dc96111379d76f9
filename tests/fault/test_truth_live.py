"""Randomised truth on a guest that runs: what was fixed is fixed, whatever comes after it.

The model keeps each snapshot's checksums and the guest's boot id as they were right after its creation, and the tree.
``STILLFRAME_SEED=<seed>`` takes the same steps again.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Iterator
from random import Random

import pytest

from fault.live import LiveBench, open_live_bench

pytestmark = [pytest.mark.guest, pytest.mark.timeout(600)]

STEPS = 24


@pytest.fixture
def bench() -> Iterator[LiveBench]:
    with open_live_bench() as opened:
        yield opened


def test_snapshots_of_a_running_guest_stay_what_they_were(bench: LiveBench) -> None:
    seed = int(os.environ.get("STILLFRAME_SEED") or secrets.randbelow(1 << 32))
    try:
        bench.run(Random(seed), STEPS)
    except BaseException as error:
        error.add_note("\n".join([f"seed: STILLFRAME_SEED={seed}", *bench.history]))
        raise
    assert bench.crashes
