"""Calls that may hang: each in a thread that it has for itself, waited for with a limit; and whether libvirt answers at all.

A thread that hangs in a call cannot be ended. When the limit is over nobody waits for it any more, but the call may
still do what it was to do. So until it has ended no other call begins about the same VM: what takes it back, or looks
what came of it, must not be overtaken by it.
"""

from __future__ import annotations

import contextlib
import logging
import threading
import time
from collections.abc import Callable
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from stillframe.domain.errors import StillframeError

log = logging.getLogger(__name__)
T = TypeVar("T")
_IDLE_S = 10.0


class NoAnswerError(Exception):
    """The limit is over. The words say what has no answer: the call itself, or an earlier one about its VM."""


@dataclass
class _Call:
    """``subject``: the VM's uuid, or "" for what concerns none. ``wanted`` is false when nobody waits any more."""

    what: str
    subject: str
    act: Callable[[], Any]
    begun_at: float = field(default_factory=time.monotonic)
    ended: threading.Event = field(default_factory=threading.Event)
    wanted: bool = True
    result: Any = None
    error: BaseException | None = None


class _Threads:
    """A thread for each job, at once. One whose job has ended waits a while for another: libvirt's first call in a new
    thread takes five times as long as its next.
    """

    def __init__(self, idle_s: float = _IDLE_S) -> None:
        self._idle_s = idle_s
        self._idle: list[SimpleQueue[tuple[str, Callable[[], object]]]] = []  # what each listens to; changed atomically

    def run(self, name: str, job: Callable[[], object]) -> None:
        """Begin the job, which raises nothing."""
        try:
            jobs = self._idle.pop()
        except IndexError:
            jobs = SimpleQueue()
            threading.Thread(target=self._work, args=(jobs,), daemon=True).start()
        jobs.put((name, job))

    def _work(self, jobs: SimpleQueue[tuple[str, Callable[[], object]]]) -> None:
        while True:
            try:
                name, job = jobs.get(timeout=self._idle_s)
            except Empty:
                try:
                    self._idle.remove(jobs)
                except ValueError:
                    continue  # taken at this very moment: its job is on the way
                return
            threading.current_thread().name = name
            job()
            del job  # what came of it belongs to who waited for it
            self._idle.append(jobs)


class Calls:
    """Safe from every thread. A call that hangs keeps one thread and its own VM, and nothing else."""

    def __init__(self) -> None:
        self._answered = threading.Condition()
        self._unanswered: list[_Call] = []
        self._here = threading.local()
        self._threads = _Threads()

    def run(self, what: str, subject: str, act: Callable[[], T], limit_s: float, *, patient: bool = True) -> T:
        """What ``act`` returns or raises.

        ``patient``: one before it about the same VM, for which nobody waits any more, is waited for within the limit;
        else it is refused at once.

        Raises:
            NoAnswerError: it did not end within the limit, and may still do what it was to do; or it was not begun,
                because one before it about the same VM has not ended.
        """
        until = time.monotonic() + limit_s
        self._await_earlier(what, subject, limit_s if patient else 0.0)
        call = _Call(what, subject, act)
        # what is logged in there is about the same request and operation
        self._threads.run(f"libvirt: {what}", partial(copy_context().run, self._run, call))
        if not call.ended.wait(until - time.monotonic()):
            with self._answered:
                if not call.ended.is_set():
                    call.wanted = False
                    self._unanswered.append(call)
                    raise NoAnswerError(f"{what}: no answer from libvirt within {limit_s:g} s")
        if call.error is not None:
            raise call.error
        result: T = call.result
        return result

    @property
    def is_wanted(self) -> bool:
        """Asked by an ``act``: somebody still waits for it. What takes long ends itself when nobody does."""
        call: _Call | None = getattr(self._here, "call", None)
        return call is None or call.wanted

    def _await_earlier(self, what: str, subject: str, limit_s: float) -> None:
        def earlier() -> list[str]:
            return [call.what for call in self._unanswered if subject and call.subject == subject]

        with self._answered:
            if not self._answered.wait_for(lambda: not earlier(), limit_s):
                raise NoAnswerError(f"{what}: not asked, because libvirt has not answered yet: {', '.join(earlier())}")

    def _run(self, call: _Call) -> None:
        self._here.call = call
        try:
            call.result = call.act()
        except BaseException as error:  # noqa: BLE001 -- it is raised where the call is waited for
            call.error = error
        self._here.call = None
        with self._answered:
            call.ended.set()
            if not call.wanted:
                self._unanswered.remove(call)
                self._answered.notify_all()
        if not call.wanted:
            came = "answered" if call.error is None else f"failed ({call.error})"
            log.warning("%s: %s after %.0f s", call.what, came, time.monotonic() - call.begun_at)


class Pulse:
    """Whether libvirt answers at all; asked when a call has no answer.

    As long as it does not, one thread waits for its answer, and everybody else can know at once.
    """

    def __init__(self, ask: Callable[[], object]) -> None:
        """``ask`` returns or raises ``StillframeError`` when there was an answer, whatever it was."""
        self._ask = ask
        self._lock = threading.Lock()
        self._asking: threading.Event | None = None
        self._asked_at = 0.0
        self._missing = False

    @property
    def missing_s(self) -> float:
        """For how many seconds there has been no answer; 0 when nothing speaks against asking."""
        with self._lock:
            return time.monotonic() - self._asked_at if self._missing else 0.0

    def take(self, wait_s: float) -> bool:
        """True when libvirt answers within this time. If not, it is missing until it does."""
        with self._lock:
            answered = self._asking
            if answered is None:
                answered = self._asking = threading.Event()
                self._asked_at = time.monotonic()
                threading.Thread(target=self._take, args=(answered,), name="libvirt: pulse", daemon=True).start()
        if answered.wait(wait_s):
            return True
        with self._lock:
            self._missing = self._asking is answered
            return not self._missing

    def _take(self, answered: threading.Event) -> None:
        with contextlib.suppress(StillframeError):  # an error is an answer, too
            self._ask()
        with self._lock:
            if self._missing:
                log.warning("libvirt answers again, after %.0f s", time.monotonic() - self._asked_at)
            self._asking, self._missing = None, False
            answered.set()
