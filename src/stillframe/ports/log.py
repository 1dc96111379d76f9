"""The operation log as the operations need it: lines are added, read, and removed when they are old. None is ever changed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class LogLine:
    """One line. ``who``: a key's id, never a secret; ``mark``: GCD | GDT | "".

    ``uuid`` names the line and says nothing else: a number would tell a tenant how much others do.
    """

    uuid: str
    at: int
    who: str
    address: str
    tenant: str
    call: str
    vm_uuid: str
    vm_name: str
    mark: str
    snapshot: str
    scode: int
    desc: str
    duration_ms: int
    operation_uuid: str


@dataclass(frozen=True)
class LogFilter:
    """Which lines a page shows; None and "" do not narrow.

    ``failed``: only those with an ``scode`` other than 0. ``after``: the uuid of the last line of the page before.
    """

    tenant: str | None = None
    vm_uuid: str = ""
    who: str = ""
    call: str = ""
    snapshot: str = ""
    operation_uuid: str = ""
    scode: int | None = None
    failed: bool = False
    since: int | None = None
    until: int | None = None
    after: str = ""
    limit: int = 100


class LogRows(Protocol):
    """The operation log."""

    def begin(self, line: LogLine) -> None:
        """Keep what is known of a call that is under way; its end (``scode``, ``desc``, ``duration_ms``) is not."""
        ...

    def begun(self) -> list[LogLine]:
        """What ``begin`` kept and no ``append`` has ended, oldest first; ``at`` is when it began."""
        ...

    def append(self, line: LogLine) -> None:
        """If ``begin`` kept it, it is begun no more."""
        ...

    def get(self, uuid: str) -> LogLine | None: ...

    def page(self, wanted: LogFilter) -> list[LogLine]:
        """Newest first; within a second the one that was appended last comes first. Nothing after a line that is none."""
        ...

    def newest(self) -> LogLine | None:
        """The one that was appended last, whatever its time."""
        ...

    def last_old(self, young_from: int, young_until: int, *, keep: int) -> str:
        """The uuid of the last line that is old, in the order in which they were appended; "" when none is.

        Old is one from before ``young_from`` that stands before the first line of ``young_from`` .. ``young_until``: a time
        that a wrong clock wrote counts for little beside its neighbours'. None of the ``keep`` lines that were appended
        last is old.
        """
        ...

    def remove_until(self, uuid: str, *, batch: int) -> int:
        """Remove lines up to and with this one, the oldest first, at most ``batch``; returns how many.

        Raises:
            Failed: STORAGE_FAILED, when one of them is less than 23 hours old: that is never removed.
        """
        ...


__all__ = ("LogFilter", "LogLine", "LogRows")
