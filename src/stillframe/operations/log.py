"""The operation log: one line for every mutating call, also for a refused one."""

from __future__ import annotations

import logging
import time
import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from stillframe.domain.access import Principal
from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.operations.requests import Caller
from stillframe.operations.world import World
from stillframe.ports.log import LogFilter, LogLine

log = logging.getLogger(__name__)
DESC_MAX_CHARS = 1000
TEXT_MAX_CHARS = 256
_CUT_OFF = "the service ended before this was finished; the task tells what became of it"
# what could begin a new line, or turn the direction of reading, wherever a line is printed
_MOVES = frozenset({"Cc", "Cs", "Zl", "Zp"})
_TURNS = frozenset("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")


@dataclass
class Attempt:
    """One mutating call; what becomes known on the way is filled in.

    ``tenant`` is the caller's own until the call is known to concern another's. ``about``: what else there is to say
    of a call that went well. ``line_uuid``: drawn when the line is begun.
    """

    caller: Caller
    call: str
    vm_uuid: str = ""
    vm_name: str = ""
    tenant: str = ""
    snapshot: str = ""
    operation_uuid: str = ""
    about: str = ""
    line_uuid: str = ""

    def __post_init__(self) -> None:
        self.tenant = self.tenant or self.caller.principal.tenant

    def began(self, operation_uuid: str) -> None:
        """The call is this operation; it is in the journal."""
        self.operation_uuid = operation_uuid
        self.caller.hears(operation_uuid)


@contextmanager
def logged(world: World, attempt: Attempt, *, only_refused: bool = False) -> Iterator[Attempt]:
    """Write the line when the call ends, well or badly; ``only_refused``: what goes well has lines of its own."""
    begun = time.monotonic()
    scode, desc = 0, ""
    try:
        yield attempt
    except StillframeError as error:
        scode, desc = error.case.code, error.desc
        raise
    except BaseException as error:
        scode, desc = ErrorCase.INTERNAL.code, type(error).__name__
        raise
    finally:
        if scode or not only_refused:
            _append(world, attempt, scode, desc or attempt.about, int((time.monotonic() - begun) * 1000))


def begin_line(world: World, attempt: Attempt) -> None:
    """What is known so far is durable: should the service be cut off, the next start writes the line. Repeatable."""
    if not attempt.line_uuid:
        attempt.line_uuid = world.new_uuid()
        line = _plain(_line(world, attempt))
        with world.metadata.write() as tx:
            tx.log.begin(line)


def write_begun_lines(world: World) -> None:
    """At the start: calls that the end of the service cut off get their lines, each one.

    Where the database does not take them they wait for the next start: a full disk is no reason not to start.
    """
    now = int(world.now_s())
    try:
        with world.metadata.write() as tx:
            for line in tx.log.begun():
                duration_ms = max(0, now - line.at) * 1000
                ended = replace(line, at=now, scode=ErrorCase.STOPPING.code, desc=_CUT_OFF, duration_ms=duration_ms)
                tx.log.append(ended)
    except StillframeError:
        log.exception("the operation log could not be written: calls that were cut off wait for the next start")


def _append(world: World, attempt: Attempt, scode: int, desc: str, duration_ms: int) -> None:
    line = _line(world, attempt)
    attempt.caller.noted()
    write_line(world, replace(line, scode=scode, desc=desc, duration_ms=duration_ms))


def _line(world: World, attempt: Attempt) -> LogLine:
    """As far as the attempt is known."""
    return LogLine(
        uuid=attempt.line_uuid or world.new_uuid(),
        at=int(world.now_s()),
        who=attempt.caller.who,
        address=attempt.caller.address,
        tenant=attempt.tenant,
        call=attempt.call,
        vm_uuid=attempt.vm_uuid,
        vm_name=attempt.vm_name,
        mark=attempt.caller.mark,
        snapshot=attempt.snapshot,
        scode=0,
        desc="",
        duration_ms=0,
        operation_uuid=attempt.operation_uuid,
    )


def write_line(world: World, line: LogLine) -> None:
    """Durable when this returns, or in the service's log, when the database does not take it."""
    plain = _plain(line)
    try:
        with world.metadata.write() as tx:
            tx.log.append(plain)
    except StillframeError:
        # the call's own outcome stands; the line goes to the service's log instead
        log.exception("the operation log could not be written: %s", plain)


def _plain(line: LogLine) -> LogLine:
    """Every text that a client or a guest's owner chose is short, and stays one line wherever it is printed.

    The tenant is left as it is: lines are compared by it.
    """
    return replace(
        line,
        address=one_line(line.address),
        vm_name=one_line(line.vm_name),
        snapshot=one_line(line.snapshot),
        desc=one_line(line.desc, DESC_MAX_CHARS),
    )


def one_line(text: str, max_chars: int = TEXT_MAX_CHARS) -> str:
    """As the log has it: in NFC, cut, and with "?" for what moves the cursor."""
    composed = unicodedata.normalize("NFC", text[:max_chars])[:max_chars]
    return "".join("?" if unicodedata.category(char) in _MOVES or char in _TURNS else char for char in composed)


@dataclass(frozen=True)
class LogQuery:
    """Filters of the log; None and "" do not narrow. ``since`` and ``until``: Unix seconds, inclusive.

    ``after``: the uuid of the last line of the page before.
    """

    cluster_uuid: str = ""
    compute_uuid: str = ""
    tenant: str = ""
    key_id: str = ""
    call: str = ""
    snapshot: str = ""
    operation_uuid: str = ""
    scode: int | None = None
    failed: bool = False
    since: int | None = None
    until: int | None = None
    after: str = ""
    limit: int = 100


@dataclass(frozen=True)
class LogPage:
    """``next`` is what ``after`` has to be for the following page; "" at the end."""

    lines: tuple[LogLine, ...]
    next: str


def list_log(world: World, query: LogQuery, viewer: Principal) -> LogPage:
    """Newest first, those of the viewer's tenant; an administrator's are all.

    Raises:
        Refused: LOG_LINE_UNKNOWN, for an ``after`` that names no line, or one that does not exist for the viewer.
    """
    if query.tenant and not viewer.sees(query.tenant):
        return LogPage((), "")
    wanted = LogFilter(
        tenant=viewer.bound if viewer.bound is not None else query.tenant or None,
        vm_uuid=query.compute_uuid,
        who=query.key_id,
        call=query.call,
        snapshot=one_line(query.snapshot),
        operation_uuid=query.operation_uuid,
        scode=query.scode,
        failed=query.failed,
        since=query.since,
        until=query.until,
        after=query.after,
        limit=query.limit + 1,  # one more tells whether there is a next page
    )
    with world.metadata.read() as tx:
        if query.after:
            last = tx.log.get(query.after)
            if last is None or not viewer.sees(last.tenant):
                raise Refused(ErrorCase.LOG_LINE_UNKNOWN, f"line {query.after}")
        rows = tx.log.page(wanted)
    shown = rows[: query.limit]
    return LogPage(tuple(shown), shown[-1].uuid if len(rows) > len(shown) else "")
