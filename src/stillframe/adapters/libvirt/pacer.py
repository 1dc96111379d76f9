"""Keeps a merge in a running QEMU at the pace that its guest allows (pace.py)."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stillframe.adapters.libvirt.pace import Activity, Bounds, Pace, bounds, first_pace, next_pace

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 0.15
_SOON_S, _LATER = 0.02, 1.1  # each look at a job takes its part of QEMU's main loop, and with it of the guest's own I/O
_FEW = 8  # a mean of fewer writes says little
_WAIT_FOR_MORE_S = 1.0
_LOOKED_BEFORE_S = 0.5
_WORTH_IT_BYTES = 16 << 20  # less is copied before anything could be learned


@dataclass(frozen=True)
class Speed:
    """``bytes_per_s``: how fast a merge may be, 0: as fast as it goes. ``gives_way``: it slows down for its guest."""

    bytes_per_s: int = 0
    gives_way: bool = False


AS_FAST_AS_IT_GOES = Speed()


def looks() -> Iterator[None]:
    """Comes back for each look at a job: soon at first, because a small one has ended by then, and then ever less often."""
    wait_s = _SOON_S
    while True:
        yield
        time.sleep(wait_s)
        wait_s = min(_LOOK_EVERY_S, wait_s * _LATER)


class Pacer:
    """The pace of one merge. ``bytes_per_s`` is the speed that it is to have now; 0 is as fast as it goes."""

    def __init__(self, domain: Any, target: str, source_path: str, speed: Speed) -> None:
        """Watches the guest for a moment first. ``source_path``: the file whose data is copied."""
        self._domain = domain
        self._target = target
        self._bounds: Bounds = bounds(speed.bytes_per_s)
        self._pace: Pace | None = None
        self._fixed = speed.bytes_per_s
        if speed.gives_way and Path(source_path).stat().st_blocks * 512 >= _WORTH_IT_BYTES:
            before = self._look()
            time.sleep(_LOOKED_BEFORE_S)
            self._pace = first_pace(self._look().since(before), self._bounds)
        self._begin_look(0)

    @property
    def bytes_per_s(self) -> int:
        return self._fixed if self._pace is None else self._pace.bytes_per_s

    @property
    def holds_back(self) -> bool:
        """It may be slower than it could be."""
        return self.bytes_per_s > 0

    def take_over(self, set_speed: Callable[[int], None]) -> None:
        """A job was found, with the speed of somebody who is gone."""
        if self._pace is not None:
            set_speed(self._pace.bytes_per_s)

    def release(self) -> None:
        """From now on it goes as fast as it can, whatever the guest feels."""
        self._pace, self._fixed = None, 0

    def saw(self, bytes_done: int, set_speed: Callable[[int], None]) -> None:
        """To be called with every look at the job."""
        if self._pace is None:
            return
        passed_s = time.monotonic() - self._since_s
        if passed_s < _LOOK_EVERY_S:
            return
        now = self._look().since(self._counters)
        if now.operations < _FEW and passed_s < _WAIT_FOR_MORE_S:
            return
        copied_per_s = int((bytes_done - self._done) / passed_s)
        pace = next_pace(self._pace, now, copied_per_s, self._bounds)
        if pace.bytes_per_s != self._pace.bytes_per_s:
            log.debug("disk %s: %d bytes a second after %s", self._target, pace.bytes_per_s, now)
            set_speed(pace.bytes_per_s)
        self._pace = pace
        self._begin_look(bytes_done)

    def _begin_look(self, bytes_done: int) -> None:
        self._since_s, self._done = time.monotonic(), bytes_done
        self._counters = self._look() if self._pace is not None else Activity()

    def _look(self) -> Activity:
        found = self._domain.blockStatsFlags(self._target, 0)
        return Activity(
            int(found.get("wr_operations", 0)),
            int(found.get("wr_total_times", 0)),
            int(found.get("flush_operations", 0)),
            int(found.get("flush_total_times", 0)),
        )
