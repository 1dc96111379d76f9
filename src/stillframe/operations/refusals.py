"""Calls that are refused at the door, before a use case has begun: they are in the operation log as well.

One line each, as of every other call. But nothing bounds how often somebody without a key comes, or one with a key comes
too often, or asks for what is not its own to see; so that nobody can fill the database or keep its one writer busy, these share lines: of one address, or one
key, at most one in a minute, which says how many attempts it stands for, and a bounded number of them all together.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from stillframe.domain.access import Principal
from stillframe.domain.errors import ErrorCase
from stillframe.operations.log import write_line
from stillframe.operations.world import World
from stillframe.ports.log import LogLine

WINDOW_S = 60.0
# the lines that strangers, and those who come too often, can make in a minute; one of them is everybody else's
SOURCES_MAX = 60
_OTHERS = "others"  # neither an address nor a key's id


@dataclass(frozen=True)
class RefusedCall:
    """What is known of it. ``principal``: None without a valid key. ``call``: "" for one that changes nothing.

    ``vm_uuid``, ``snapshot`` and ``mark`` are what the client named, whether it may know of it or not.
    """

    principal: Principal | None
    address: str
    call: str
    case: ErrorCase
    desc: str
    vm_uuid: str = ""
    snapshot: str = ""
    mark: str = ""
    duration_ms: int = 0


@dataclass
class _Window:
    """A source within a minute; ``count``: its attempts that no line stands for yet, ``first`` the first of them."""

    begun: float
    count: int = 0
    first: RefusedCall | None = None
    first_at: int = 0


@dataclass(frozen=True)
class Counted:
    """Attempts of one source that become one line."""

    count: int
    first: RefusedCall
    first_at: int


class Tally:
    """Counts attempts by source, so that each makes one line a minute at most, and all together ``SOURCES_MAX``.

    The first attempt of a source is a line at once; those that follow become one when the minute is over. Sources beyond
    the bound are counted together. Safe from many threads.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._windows: dict[str, _Window] = {}

    def comes(self, source: str, refused: RefusedCall, at: int) -> RefusedCall | None:
        """What is to be written at once; None: it is counted."""
        with self._lock:
            if source not in self._windows and len(self._windows) >= SOURCES_MAX - 1:
                source, refused = _OTHERS, _one_of_many(source, refused)
            window = self._windows.get(source)
            if window is None:
                self._windows[source] = _Window(self._clock())
                return refused
            if window.first is None:
                window.first, window.first_at = refused, at
            elif window.first.call != refused.call:
                window.first = replace(window.first, call="")
            window.count += 1
            return None

    def due(self, *, all_of_them: bool = False) -> Iterator[Counted]:
        """What was counted in minutes that are over, or in those under way as well."""
        now = self._clock()
        with self._lock:
            over = [key for key, one in self._windows.items() if all_of_them or now - one.begun >= WINDOW_S]
            ended = [(key, self._windows.pop(key)) for key in over]
            for source, window in ended:
                if window.count:  # the line that this becomes is the first of the next minute
                    self._windows[source] = _Window(now)
        for _source, window in ended:
            if window.first is not None:
                yield Counted(window.count, window.first, window.first_at)


def _one_of_many(source: str, refused: RefusedCall) -> RefusedCall:
    """As it stands for others as well, it is nobody's and no tenant's."""
    desc = f"many at once, among them {source}: {refused.desc}"
    return RefusedCall(None, "", refused.call, refused.case, desc, duration_ms=refused.duration_ms)


class Refusals:
    """Writes the lines."""

    def __init__(self, world: World, clock: Callable[[], float] = time.monotonic) -> None:
        self._world = world
        self._strangers = Tally(clock)
        self._hasty = Tally(clock)

    def note(self, refused: RefusedCall) -> None:
        """Write its line, or count it. Blocks, but not for what is counted."""
        at = int(self._world.now_s())
        now: RefusedCall | None = refused
        if refused.principal is None:
            now = self._strangers.comes(refused.address, refused, at)
        elif refused.case is ErrorCase.RATE_LIMITED or not refused.call:
            now = self._hasty.comes(refused.principal.key_id, refused, at)
        if now is not None:
            self._write(now, at)

    def write_counted(self, *, all_of_them: bool = False) -> None:
        """Write what was counted, as far as its time has come."""
        for tally in (self._strangers, self._hasty):
            for counted in tally.due(all_of_them=all_of_them):
                first = counted.first
                since = datetime.fromtimestamp(counted.first_at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
                desc = f"{counted.count} more since {since}; the first: {first.desc}"
                self._write(replace(first, desc=desc), int(self._world.now_s()))

    def _write(self, refused: RefusedCall, at: int) -> None:
        principal = refused.principal
        line = LogLine(
            uuid=self._world.new_uuid(),
            at=at,
            who=principal.key_id if principal else "",
            address=refused.address,
            tenant=principal.tenant if principal else "",
            call=refused.call,
            vm_uuid=refused.vm_uuid,
            vm_name="",
            mark=refused.mark,
            snapshot=refused.snapshot,
            scode=refused.case.code,
            desc=refused.desc,
            duration_ms=refused.duration_ms,
            operation_uuid="",
        )
        write_line(self._world, line)
