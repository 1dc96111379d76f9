"""A process that has everything of the service loaded and forks one for every start: a service in a tenth of a second.

    python striker.py

It reads one JSON object a line and answers with one:

    {"start": {"settings": {…}, "log": path, "strikes": path}}  ->  {"pid": n}
    {"wait": pid}                                               ->  {"status": n}    blocks until that service has ended

The service is the real one (``bootstrap.serve``) in a process of its own; what it is told of its operations' moments goes
through ``Strikes``. At the end of the input every service that still runs is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

from stillframe import bootstrap
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.operations.moments import Moment
from stillframe.operations.world import World
from stillframe.settings import Settings

FAIL_WORDS = "struck by the test"
_HELD_POLL_S = 0.005


class Strikes:
    """Reads at every moment what is to happen there, and notes every moment.

    The file holds a JSON list of {"kind", "step", "phase", "act": "kill" | "fail" | "hold", "once": bool}. Beside it lies
    ``<file>.moments`` with a line "kind|step|phase" for each moment that came.

    A hold has a "flag", too: a path. There the operation stands still, once, from when the file is made until it is
    removed.
    """

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self._moments = os.open(path + ".moments", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        self._done: set[str] = set()

    def __call__(self, moment: Moment) -> None:
        name = f"{moment.kind}|{moment.step}|{moment.phase.value}"
        os.write(self._moments, f"{name}\n".encode())
        for strike in self._wanted():
            if f"{strike['kind']}|{strike['step']}|{strike['phase']}" != name:
                continue
            key = json.dumps(strike, sort_keys=True)
            if strike["act"] == "kill":
                os.kill(os.getpid(), signal.SIGKILL)
            if strike["once"] and key in self._done:
                continue
            self._done.add(key)
            if strike["act"] == "hold":
                self._hold(Path(strike["flag"]))
                continue
            raise Failed(ErrorCase.STORAGE_FAILED, f"{FAIL_WORDS} at {name}")

    def _hold(self, flag: Path) -> None:
        flag.touch()
        while flag.exists():
            time.sleep(_HELD_POLL_S)

    def _wanted(self) -> list[dict[str, Any]]:
        try:
            found: list[dict[str, Any]] = json.loads(self._path.read_text())
        except FileNotFoundError:
            return []
        return found


def step_clock(file: Path) -> None:
    """From now on this process's wall clock is off by as many seconds as the file says; the monotonic one is not."""
    true_clock = time.time

    def stepped() -> float:
        try:
            return true_clock() + float(file.read_text())
        except (FileNotFoundError, ValueError):
            return true_clock()

    time.time = stepped
    bootstrap.World = partial(World, now_s=stepped)  # its own default is the true clock


def start(settings: dict[str, Any], log: str, strikes: str) -> int:
    child = os.fork()
    if child:
        return child
    status = 1
    try:
        os.setsid()
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        nothing = os.open(os.devnull, os.O_RDONLY)
        for target, source in ((0, nothing), (1, output), (2, output)):
            os.dup2(source, target)
        step_clock(Path(strikes + ".clock"))
        status = bootstrap.serve(Settings(**settings), Strikes(strikes))
    finally:
        os._exit(status)


def main() -> None:
    alive: set[int] = set()
    for line in sys.stdin:
        request = json.loads(line)
        if "start" in request:
            answer = {"pid": start(**request["start"])}
            alive.add(answer["pid"])
        else:
            answer = {"status": os.waitpid(request["wait"], 0)[1]}
            alive.discard(request["wait"])
        sys.stdout.write(json.dumps(answer) + "\n")
        sys.stdout.flush()
    for pid in alive:
        os.kill(pid, signal.SIGKILL)


if __name__ == "__main__":
    main()
