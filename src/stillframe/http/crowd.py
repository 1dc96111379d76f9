"""The open connections of one server, and which of them is given up when there are too many, or they hold too much."""

from __future__ import annotations

import logging
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("stillframe.http")

COMPLAIN_EVERY_S = 60.0
CREST = 500


class Member(Protocol):
    """One connection."""

    def give_up(self) -> None:
        """Close at once, without a word."""


class _Queue:
    """Members in the order in which they came, each with the bytes that are held for it."""

    def __init__(self) -> None:
        # of a plain dict the first entry takes ever longer to find
        self._bytes: OrderedDict[Member, int] = OrderedDict()
        self.total_bytes = 0

    def __len__(self) -> int:
        return len(self._bytes)

    def first(self) -> Member:
        return next(iter(self._bytes))

    def hold(self, member: Member, held_bytes: int) -> None:
        """So many in all; whoever is here already keeps its place."""
        self.total_bytes += held_bytes - self._bytes.get(member, 0)
        self._bytes[member] = held_bytes

    def drop(self, member: Member) -> None:
        self.total_bytes -= self._bytes.pop(member, 0)


class Crowd:
    """Who is connected, and what of theirs lies in our memory: requests that are not complete, answers not taken.

    A client that has delivered its request and takes its answer is never given up. Where there are more than ``limit``
    connections, the first to go is the one that has been without a complete request for longest; then the one that has
    let its answer lie for longest. So whoever holds connections open pushes out its own, and a client that asks at once
    is answered. In the same order they go where requests, or answers, hold more than ``max_held_bytes``.

    Not for several threads at once: the event loop of the connections calls.
    """

    def __init__(self, limit: int, max_held_bytes: int, on_ebb: Callable[[], None]) -> None:
        """``on_ebb`` is called when a crowd has gone: of ``CREST`` or more, nine of ten."""
        self._limit = limit
        self._on_ebb = on_ebb
        self._crest = 0  # the most there were since
        self._max_held_bytes = max_held_bytes
        self._open: set[Member] = set()
        self._waiting = _Queue()  # for a complete request
        self._sending = _Queue()  # of a request, some bytes; they stay until it is answered
        self._answering = _Queue()  # what was a complete request's
        self._unread = _Queue()
        self._given_up = 0
        self._complain_at = 0.0

    def __len__(self) -> int:
        return len(self._open)

    def enter(self, member: Member) -> None:
        """A connection is made; it may be the very one that is given up."""
        self._open.add(member)
        self._crest = max(self._crest, len(self._open))
        self.asks(member)
        if len(self._open) > self._limit:
            victim = self._waiting.first()
            self._give_up(self._unread.first() if victim is member and self._unread else victim)

    def leave(self, member: Member) -> None:
        """It is closed; also more than once."""
        self._open.discard(member)
        for queue in (self._waiting, self._sending, self._answering, self._unread):
            queue.drop(member)
        if self._crest >= CREST and len(self._open) <= self._crest // 10:
            self._crest = len(self._open)
            self._on_ebb()

    def asks(self, member: Member) -> None:
        """From now on a request is waited for; what was held for the one before is forgotten."""
        for queue in (self._waiting, self._sending, self._answering):
            queue.drop(member)
        self._waiting.hold(member, 0)

    def says(self, member: Member, held_bytes: int) -> None:
        """Of its request so much is held in all."""
        if member not in self._open:
            return
        self._sending.hold(member, held_bytes)
        if self._sending.total_bytes + self._answering.total_bytes > self._max_held_bytes and len(self._sending) > 1:
            self._give_up(self._sending.first())

    def has_asked(self, member: Member, held_bytes: int) -> None:
        """Its request is complete, and holds so much until it is answered."""
        self._waiting.drop(member)
        self._sending.drop(member)
        self._answering.hold(member, held_bytes)

    def lets_lie(self, member: Member, held_bytes: int) -> None:
        """It has not taken so much of what was written to it."""
        if member not in self._open:
            return
        self._unread.hold(member, held_bytes)
        if self._unread.total_bytes > self._max_held_bytes and len(self._unread) > 1:
            self._give_up(self._unread.first())

    def reads(self, member: Member) -> None:
        """It has taken everything."""
        self._unread.drop(member)

    def _give_up(self, victim: Member) -> None:
        self.leave(victim)
        victim.give_up()
        self._given_up += 1
        now = time.monotonic()
        if now >= self._complain_at:
            log.warning("too many connections, or too much held for them: %d were given up", self._given_up)
            self._given_up, self._complain_at = 0, now + COMPLAIN_EVERY_S
