"""The suite in lanes side by side; exit code 0 when all of them passed.

    python scripts/lanes.py whole|fast [pytest options]

"fast" is what needs no guest and no service. More lanes than two cores ask for, because tests wait a lot: for guests that
boot, for time to pass. The lanes share nothing: each has its own services, libvirts and directories. Lines are shown as
they come, with the lane's name in front. Told to end, they end when all lanes have ended what they had started.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Collection
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.ending import end_in_order

ROOT = Path(__file__).resolve().parents[1]
_TOLD_AGAIN_S = 65.0  # longer than a lane that has heard it is deaf
# about equally long; what a pattern takes is not there for those after it
LANES = {
    "whole": {
        "faults": ("tests/fault/test_[a-k]*.py", "tests/integration/test_documents.py"),
        "guests": ("tests/integration/test_[a-l]*.py",),
        "more": ("tests/fault/test_*.py",),
        "rest": (
            "tests/browser/test_*.py",
            "tests/integration/test_*.py",
            "tests/contract/test_*.py",
            "tests/unit/**/test_*.py",
        ),
    },
    "fast": {
        "waiting": (
            "tests/unit/test_http_limits.py",
            "tests/unit/test_http_tls.py",
            "tests/contract/test_metadata_[kt]*.py",
            "tests/unit/test_cli_[cs]*.py",
        ),
        "unit": ("tests/unit/**/test_*.py",),
        "database": ("tests/contract/test_metadata.py", "tests/contract/test_metadata_[dl]*.py"),
        "contract": ("tests/contract/test_*.py",),
    },
}

# the inner loop does without the second database, what is built to be installed elsewhere, and shells that are typed into
_LATER = ("tests/contract/test_distributions.py", "tests/unit/test_cli_completion_shells.py")
OPTIONS = {"whole": [], "fast": ["-k", "not postgresql", *(f"--deselect={file}" for file in _LATER)]}


def files_of(suite: str) -> dict[str, list[str]]:
    """The files of each lane: every test file of the suite is in one of them, and in no other."""
    taken: set[Path] = set()
    lanes = {}
    for lane, patterns in LANES[suite].items():
        found = [path for pattern in patterns for path in sorted(ROOT.glob(pattern)) if path not in taken]
        taken.update(found)
        lanes[lane] = [str(path.relative_to(ROOT)) for path in found]
    if suite == "whole" and (lost := set(ROOT.glob("tests/**/test_*.py")) - taken):
        raise SystemExit(f"in no lane: {', '.join(sorted(map(str, lost)))}")
    return lanes


def show(lane: str, lines: IO[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{lane:>8} | {line}")
        sys.stdout.flush()


def start(files: list[str], options: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *files],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # progress would be held back in a pipe
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def end_all(lanes: Collection[subprocess.Popen[str]]) -> None:
    """All of them have ended. A lane that goes on is told once more: Python may drop an exception that a signal raises where
    none can be raised, and whoever unwinds already does not hear it a second time (``end_in_order``).
    """
    while going_on := [process for process in lanes if process.poll() is None]:
        for process in going_on:
            process.terminate()
        told_s = time.monotonic()
        for process in going_on:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(max(0.0, told_s + _TOLD_AGAIN_S - time.monotonic()))


def run(lanes: dict[str, list[str]], options: list[str]) -> int:
    """Every lane's files with these options of pytest's; the exit code."""
    end_in_order()
    running: dict[str, subprocess.Popen[str]] = {}
    shown: list[threading.Thread] = []
    try:
        for lane, files in lanes.items():
            running[lane] = start(files, options)
            shown.append(threading.Thread(target=show, args=(lane, running[lane].stdout)))
            shown[-1].start()
        for process in running.values():
            process.wait()
    except KeyboardInterrupt:
        end_all(running.values())
    for thread in shown:
        thread.join()
    for lane, process in running.items():
        print(f"{lane}: {'passed' if process.returncode == 0 else f'FAILED (pytest exit code {process.returncode})'}")
    return max(process.returncode != 0 for process in running.values())


if __name__ == "__main__":
    if sys.argv[1] == "whole":
        os.environ["STILLFRAME_WHOLE_SUITE"] = "1"  # a test that is skipped has failed there (tests/conftest.py)
    sys.exit(run(files_of(sys.argv[1]), [*OPTIONS[sys.argv[1]], *sys.argv[2:]]))
