"""How often one caller may ask: so many requests a second, with a burst of twice as many."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable

from stillframe.domain.errors import ErrorCase, Refused

BURST_S = 2.0  # a caller that was quiet may ask at once what it might have asked in this time
CALLERS_MAX_REMEMBERED = 10_000
ROUNDING_S = 1e-6  # what thousands of sums may be off by; whoever waits as long as told is let in


class Throttle:
    """A bucket of tokens for each caller, refilled at ``requests_per_s``; 0: nobody is held back.

    Of a caller one number is kept: when its bucket is full again. That is all that a bucket is, and from that moment on
    the caller can be forgotten. Beyond ``remembered`` callers the one that was let in the longest ago is forgotten, which
    gives it a full bucket. Not for several threads at once: the event loop asks.
    """

    def __init__(
        self,
        requests_per_s: float,
        *,
        remembered: int = CALLERS_MAX_REMEMBERED,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._requests_per_s = requests_per_s
        self._remembered = remembered
        self._clock = clock
        self._full_at: OrderedDict[str, float] = OrderedDict()

    def __len__(self) -> int:
        """How many callers are remembered."""
        return len(self._full_at)

    def check(self, caller: str) -> None:
        """Count one request of ``caller``; a request that is refused is not counted.

        Raises:
            Refused: RATE_LIMITED, with ``retry_after_s``: from then on the next one is let in.
        """
        if not self._requests_per_s:
            return
        now = self._clock()
        full_at = max(now, self._full_at.get(caller, now)) + 1 / self._requests_per_s
        # a bucket of one token at least, or a rate below one in two seconds would let nobody in
        too_early_s = full_at - now - max(BURST_S, 1 / self._requests_per_s)
        if too_early_s > ROUNDING_S:
            raise Refused(
                ErrorCase.RATE_LIMITED,
                f"one key may ask {self._requests_per_s:g} times a second; the next time in {too_early_s:.2f} s",
                retry_after_s=too_early_s,
            )
        self._full_at[caller] = full_at
        self._full_at.move_to_end(caller)
        self._forget(now)

    def _forget(self, now: float) -> None:
        """One full bucket at the most for each request, so that no request pays for all the quiet callers."""
        oldest = next(iter(self._full_at))
        if self._full_at[oldest] <= now or len(self._full_at) > self._remembered:
            del self._full_at[oldest]
