"""Work on large files behind guests' backs: nobody waits for it, and nobody is to feel it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TypeVar

T = TypeVar("T")
_LONGEST_REST_S = 0.1


def unhurried(steps: Iterator[T], goes_on: Callable[[], bool]) -> Iterator[T | None]:
    """Each step, and a rest as long as it took: half of a thread at most. None, and the end, when it is not to go on."""
    begun_s = time.monotonic()
    for step in steps:
        yield step
        time.sleep(min(_LONGEST_REST_S, time.monotonic() - begun_s))
        if not goes_on():
            yield None
            return
        begun_s = time.monotonic()
