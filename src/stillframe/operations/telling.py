"""Operations tell several listeners, and none of them can hurt an operation."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stillframe.ports.instruments import Begun, Instruments

log = logging.getLogger(__name__)


class Audience:
    """``Instruments`` (ports/instruments.py) that hands everything on to each of several.

    One that raises is logged with what it was told; the operation goes on as if it had not been there.
    """

    def __init__(self, *listeners: Instruments) -> None:
        self._listeners = listeners

    def began(self, operation: Begun) -> None:
        self._tell("began", lambda one: one.began(operation))

    def step_began(self, operation_uuid: str, step: str) -> None:
        self._tell("step began", lambda one: one.step_began(operation_uuid, step))

    def step_ended(self, operation_uuid: str, *, failed: bool) -> None:
        self._tell("step ended", lambda one: one.step_ended(operation_uuid, failed=failed))

    def ended(self, operation_uuid: str, outcome: str) -> None:
        self._tell("ended", lambda one: one.ended(operation_uuid, outcome))

    def guest_paused(self, operation_uuid: str, mode: str, pause_s: float) -> None:
        self._tell("guest paused", lambda one: one.guest_paused(operation_uuid, mode, pause_s))

    def memory_saved(self, size_bytes: int) -> None:
        self._tell("memory saved", lambda one: one.memory_saved(size_bytes))

    def merged(self, size_bytes: int) -> None:
        self._tell("merged", lambda one: one.merged(size_bytes))

    def _tell(self, what: str, say: Callable[[Instruments], None]) -> None:
        for one in self._listeners:
            try:
                say(one)
            except Exception:
                log.exception("%s could not be told: %s", type(one).__name__, what)


@contextmanager
def telling_step(instruments: Instruments, operation_uuid: str, step: str) -> Iterator[None]:
    """Around a step, its rows and its done-mark included."""
    instruments.step_began(operation_uuid, step)
    failed = True
    try:
        yield
        failed = False
    finally:
        instruments.step_ended(operation_uuid, failed=failed)
