"""Compare the service with the model for a while: random steps from fresh seeds, and what came of them.

    scripts/soak.py --minutes 10 [--seed n]

Every round has a seed of its own; one that found a difference is printed with its steps, and
``STILLFRAME_SEED=<seed>`` makes it again (tests/fault/test_truth.py). Exit code 1 when there was any.
"""

from __future__ import annotations

import argparse
import secrets
import sys
import time
import traceback
from pathlib import Path
from random import Random

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from fault.live import open_live_bench
from fault.test_truth import run_truth
from fault.test_truth_live import STEPS as LIVE_STEPS
from fault.truth import Figures, open_bench
from support.ending import end_in_order

LIVE_EVERY = 5  # rounds on a shut-off VM to one on a guest that runs


def run_live(number: int) -> bool:
    """One round on a running guest; false when it found a difference, which is printed."""
    with open_live_bench() as bench:
        try:
            bench.run(Random(number), LIVE_STEPS)  # noqa: S311 -- it must be repeatable
        except Exception:  # noqa: BLE001 -- whatever it is, the next round begins
            traceback.print_exc()
            print(f"on a running guest, STILLFRAME_SEED={number}", *bench.history, sep="\n")
            return False
        print(f"on a running guest, seed {number}: {len(bench.history)} requests, {bench.crashes} crashes", flush=True)
    return True


def main() -> int:
    parser = argparse.ArgumentParser(description="Random steps against the model, for a while.")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--seed", type=int, help="the first round's; the others are drawn")
    told = parser.parse_args()
    end_in_order()
    total, seeds, bad = Figures(), [], []
    begun = time.monotonic()
    number = told.seed if told.seed is not None else secrets.randbelow(1 << 32)
    while not seeds or time.monotonic() < begun + 60 * told.minutes:
        seeds.append(number)
        with open_bench() as bench:
            try:
                run_truth(bench, number)
            except Exception:  # noqa: BLE001 -- whatever it is, the next round begins
                bad.append(number)
                traceback.print_exc()
            total += bench.figures
        print(f"{(time.monotonic() - begun) / 60:.1f} min, seed {number}: {bench.figures}", flush=True)
        if len(seeds) % LIVE_EVERY == 0 and not run_live(number):
            bad.append(number)
        number = secrets.randbelow(1 << 32)
    print(f"in {(time.monotonic() - begun) / 60:.1f} minutes, {len(seeds)} seeds: {total}")
    print(f"seeds: {' '.join(map(str, seeds))}")
    print(f"differences: {' '.join(map(str, bad)) if bad else 'none'}")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
