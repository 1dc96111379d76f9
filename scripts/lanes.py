"""The whole suite in two lanes side by side, one for each core; exit code 0 when both passed.

    python scripts/lanes.py [pytest options]

The lanes share nothing: each has its own services, libvirts and directories. Lines are shown as they come, with the lane's
name in front. Told to end, they end when both lanes have ended what they had started.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import IO

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from support.ending import end_in_order

LANES = {
    "guests": ("tests/integration",),
    "rest": ("tests/unit", "tests/contract", "tests/fault"),
}


def show(lane: str, lines: IO[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{lane:>6} | {line}")
        sys.stdout.flush()


def start(paths: tuple[str, ...], options: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "pytest", *options, *paths],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        # progress would be held back in a pipe
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )


def main(options: list[str]) -> int:
    end_in_order()
    running: dict[str, subprocess.Popen[str]] = {}
    shown: list[threading.Thread] = []
    try:
        for lane, paths in LANES.items():
            running[lane] = start(paths, options)
            shown.append(threading.Thread(target=show, args=(lane, running[lane].stdout)))
            shown[-1].start()
        for process in running.values():
            process.wait()
    except KeyboardInterrupt:
        for process in running.values():
            process.terminate()
        for process in running.values():
            process.wait()
    for thread in shown:
        thread.join()
    for lane, process in running.items():
        print(f"{lane}: {'passed' if process.returncode == 0 else f'FAILED (pytest exit code {process.returncode})'}")
    return max(process.returncode != 0 for process in running.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
