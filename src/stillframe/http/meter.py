"""Each request is counted once, whatever becomes of it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.types import Scope

from stillframe.http.access import BEGUN
from stillframe.http.ledger import ENTRY, Entry
from stillframe.http.paths import CallNames
from stillframe.ports.instruments import RequestMeter


@dataclass
class Answered:
    """How far the answer is. ``status`` 0: it has not begun. ``at``: seconds of the monotonic clock."""

    status: int = 0
    at: float = 0.0

    def begins(self, status: int) -> None:
        self.status, self.at = status, time.monotonic()


class Meter:
    """Tells a ``RequestMeter`` (ports/instruments.py), by the names that it may know."""

    def __init__(self, meter: RequestMeter, names: CallNames) -> None:
        self._meter = meter
        self._names = names

    @contextmanager
    def counting(self, scope: Scope) -> Iterator[Answered]:
        """Around a request; ``scope`` holds when it began, and in its entry at the end what error it was."""
        self._meter.request_began()
        answered = Answered()
        try:
            yield answered
        finally:
            entry: Entry = scope[ENTRY]
            self._meter.request_ended(
                self._names.of(scope["method"], scope["path"]),
                answered.status,
                entry.error.case.code if entry.error is not None else 0,
                answered.at - scope[BEGUN],
            )
