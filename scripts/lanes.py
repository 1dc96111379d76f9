"""The whole suite in two lanes side by side, one for each core; exit code 0 when both passed.

    python scripts/lanes.py [pytest options]

The lanes share nothing: each has its own services, libvirts and directories. Lines are shown as they come, with the lane's
name in front.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from typing import IO

LANES = {
    "guests": ("tests/integration",),
    "rest": ("tests/unit", "tests/contract", "tests/fault"),
}


def show(lane: str, lines: IO[str]) -> None:
    for line in lines:
        sys.stdout.write(f"{lane:>6} | {line}")
        sys.stdout.flush()


def main(options: list[str]) -> int:
    running = {
        lane: subprocess.Popen(
            [sys.executable, "-m", "pytest", *options, *paths],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # progress would be held back in a pipe
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
        )
        for lane, paths in LANES.items()
    }
    shown = [
        threading.Thread(target=show, args=(lane, process.stdout))
        for lane, process in running.items()
        if process.stdout is not None
    ]
    for thread in shown:
        thread.start()
    try:
        for process in running.values():
            process.wait()
    except KeyboardInterrupt:
        for process in running.values():
            process.send_signal(signal.SIGINT)
            process.wait()
    for thread in shown:
        thread.join()
    for lane, process in running.items():
        print(f"{lane}: {'passed' if process.returncode == 0 else f'FAILED (pytest exit code {process.returncode})'}")
    return max(process.returncode != 0 for process in running.values())


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
