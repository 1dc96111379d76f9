"""A program that is told to end unwinds as after Ctrl-C, so that what it has started ends with it."""

from __future__ import annotations

import signal
import time
from types import FrameType

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_IN_PEACE_S = 60.0


def end_in_order() -> None:
    """From now on SIGTERM and SIGHUP do what SIGINT does: KeyboardInterrupt in the main thread.

    Further ones must not interrupt the unwinding: for a minute they are ignored. A terminal and who started us may well
    tell us both.
    """
    heard_at: list[float] = []

    def hear(_number: int, _frame: FrameType | None) -> None:
        now = time.monotonic()
        if heard_at and now - heard_at[-1] < _IN_PEACE_S:
            return
        heard_at.append(now)
        raise KeyboardInterrupt

    for ending in _ENDINGS:
        # what our starter wants ignored stays ignored: nohup does so with SIGHUP
        if signal.getsignal(ending) is not signal.SIG_IGN:
            signal.signal(ending, hear)
