"""When the witness's lines arrive in the console file, seen from outside the guest."""

from __future__ import annotations

import os
import threading
import time
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Self

_POLL_S = 0.0005
_LEAD_S = 0.2  # the gap that a request falls into began before it


@dataclass(frozen=True)
class Arrival:
    """A line ``T <boot id> <n>`` and the host's monotonic time at which it was there."""

    at_s: float
    boot: str
    n: int


class ConsoleTail:
    """Reads a console file as it grows, from its present end on, in a thread of its own; use as a context."""

    def __init__(self, console: Path) -> None:
        self.torn: list[str] = []
        self._arrivals: list[Arrival] = []
        self._descriptor = os.open(console, os.O_RDONLY | os.O_CLOEXEC)
        os.lseek(self._descriptor, 0, os.SEEK_END)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="console-tail", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_error: object) -> None:
        self._ended.set()
        self._thread.join()
        os.close(self._descriptor)

    def last(self) -> Arrival:
        """The newest tick; waits for the first one."""
        while not self._arrivals:
            time.sleep(0.01)
        return self._arrivals[-1]

    def first(self, timeout_s: float) -> Arrival:
        """The first tick of all; waits for it.

        Raises:
            RuntimeError: none came.
        """
        deadline = time.monotonic() + timeout_s
        while not self._arrivals:
            if time.monotonic() > deadline:
                raise RuntimeError(f"no tick within {timeout_s:g} s")
            time.sleep(0.002)
        return self._arrivals[0]

    def gaps_ms(self, begun_s: float, ended_s: float) -> list[float]:
        """The times between each two ticks that came between two moments."""
        times = [a.at_s for a in list(self._arrivals) if begun_s <= a.at_s <= ended_s]
        return [(later - earlier) * 1000 for earlier, later in pairwise(times)]

    def worst_gap_ms(self, begun_s: float, ended_s: float) -> float:
        """The longest time without a tick between two moments, the gaps at both ends included."""
        times = [a.at_s for a in list(self._arrivals) if begun_s - _LEAD_S <= a.at_s <= ended_s]
        # a guest that stands still to the end has not ended its gap
        inside = [(a, b) for a, b in pairwise([*times, ended_s]) if b >= begun_s]
        return max((b - a for a, b in inside), default=ended_s - begun_s) * 1000

    def await_jump_back(self, before: Arrival, timeout_s: float = 120.0) -> Arrival:
        """The first tick that counts on from an earlier one of the same boot: the guest goes on from saved memory.

        Raises:
            RuntimeError: none came, or the guest booted anew.
        """
        deadline = time.monotonic() + timeout_s
        seen = self._arrivals.index(before)
        while time.monotonic() < deadline:
            arrivals = self._arrivals[seen:]
            for earlier, later in pairwise(arrivals):
                if later.boot != before.boot:
                    raise RuntimeError("the guest booted anew instead of going on from its memory")
                if later.n <= earlier.n:
                    return later
            seen += max(0, len(arrivals) - 1)
            time.sleep(0.002)
        raise RuntimeError(f"no tick within {timeout_s:g} s after the rollback")

    def _run(self) -> None:
        rest = b""
        while not self._ended.is_set():
            data = os.read(self._descriptor, 1 << 16)
            if not data:
                time.sleep(_POLL_S)
                continue
            now_s = time.monotonic()
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                self._take(line.decode(errors="replace").split(), now_s)

    def _take(self, words: list[str], now_s: float) -> None:
        if len(words) == 3 and words[0] == "T" and words[2].isdigit():
            self._arrivals.append(Arrival(now_s, words[1], int(words[2])))
        elif "TORN" in words:
            self.torn.append(" ".join(words))
