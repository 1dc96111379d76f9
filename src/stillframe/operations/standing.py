"""How things stand, for those who watch from outside: found out by looking, seldom, and never waited for long.

Database and hypervisor may hang. Each look has a thread of its own, one at a time; whoever asks gets what the last one found
while that is fresh, else waits a moment for the next, and is told when nothing came.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Generic, TypeVar

from stillframe.domain.errors import StillframeError
from stillframe.operations.quotas import TenantUse, largest
from stillframe.operations.recovery import Recovery
from stillframe.operations.world import World
from stillframe.ports.instruments import DatabaseFigures, Standing, TenantFigures

log = logging.getLogger(__name__)
T = TypeVar("T")

TENANTS_SHOWN = 50  # each is a handful of time series for as long as whoever scrapes keeps them
FRESH_S = 5.0
WAIT_S = 0.5
_READY_FACT = "ready_at"


class Glance(Generic[T]):
    """One look at one thing. Safe from many threads; a look that hangs keeps one thread, however often is asked."""

    def __init__(self, what: str, look: Callable[[], T], *, fresh_s: float = FRESH_S) -> None:
        """``look`` may raise ``StillframeError``, which is logged once until it comes right again."""
        self._what = what
        self._look = look
        self._fresh_s = fresh_s
        self._lock = threading.Lock()
        self._looking: threading.Event | None = None
        self._seen: T | None = None
        self._fresh_until = 0.0
        self._is_failing = False

    def begin(self) -> None:
        """A look is under way, unless there is no need of one."""
        with self._lock:
            if self._looking is None and time.monotonic() >= self._fresh_until:
                self._looking = threading.Event()
                threading.Thread(
                    target=self._run, args=(self._looking,), name=f"look: {self._what}", daemon=True
                ).start()

    def take(self, wait_s: float = WAIT_S) -> T | None:
        """What is to be seen; None when the look failed, or has no end within ``wait_s``."""
        self.begin()
        with self._lock:
            looking = self._looking
        if looking is not None and not looking.wait(wait_s):
            return None
        with self._lock:
            return self._seen

    def _run(self, looking: threading.Event) -> None:
        seen = None
        try:
            seen = self._look()
            self._note(failing=False)
        except StillframeError as error:
            self._note(failing=True, why=str(error))
        finally:
            with self._lock:
                self._seen, self._fresh_until, self._looking = seen, time.monotonic() + self._fresh_s, None
            looking.set()

    def _note(self, *, failing: bool, why: str = "") -> None:
        if failing and not self._is_failing:
            log.warning("%s: %s", self._what, why)
        elif self._is_failing and not failing:
            log.info("%s: it answers again", self._what)
        self._is_failing = failing


class Observer:
    """What scrapes and probes are told; one per service."""

    def __init__(self, world: World, recovery: Recovery) -> None:
        self._world = world
        self._recovery = recovery
        self._database = Glance("the database is looked at for figures", self._figures)
        self._writing = Glance("the database is written to for a probe", self._write)
        self._host = Glance("libvirt is asked for a probe", self._ask_host)

    def standing(self) -> Standing:
        """Within ``WAIT_S``, whatever hangs."""
        until = time.monotonic() + WAIT_S
        self._host.begin()
        figures = self._database.take(WAIT_S)
        return Standing(figures, self._host.take(max(0.0, until - time.monotonic())) is not None)

    def why_not_ready(self) -> str:
        """In a word or two, for strangers: "" when calls can be served. Within ``WAIT_S``."""
        until = time.monotonic() + WAIT_S
        if not self._recovery.has_run:
            return "recovering"
        self._host.begin()
        if self._writing.take(WAIT_S) is None:
            return "database"
        if self._host.take(max(0.0, until - time.monotonic())) is None:
            return "hypervisor"
        return ""

    def _figures(self) -> DatabaseFigures:
        with self._world.metadata.read() as tx:
            active = Counter(row.kind for row in tx.journal.active())
            left = Counter(row.kind for row in tx.journal.left())
            uses = largest(tx, self._world, TENANTS_SHOWN)
        return DatabaseFigures(active, left, tuple(_tenant_figures(use) for use in uses))

    def _write(self) -> bool:
        """Only a commit proves that the disk takes one."""
        with self._world.metadata.write() as tx:
            tx.facts.put(_READY_FACT, str(int(self._world.now_s())))
        return True

    def _ask_host(self) -> bool:
        self._world.inventory.check_reachable()
        return True


def _tenant_figures(use: TenantUse) -> TenantFigures:
    return TenantFigures(
        tenant=use.limits.tenant,
        space_bytes=use.used.space_bytes,
        space_budget_bytes=use.space_budget_bytes,
        memory_bytes=use.used.memory_bytes,
        memory_budget_bytes=use.limits.memory_bytes,
        snapshots=use.used.snapshots,
    )
