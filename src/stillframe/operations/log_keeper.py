"""While the service runs: what the operation log has counted is written, and what is older than the retention goes.

That is lines of the log, and operations that have ended, which the list of tasks shows.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

from stillframe.domain.errors import StillframeError
from stillframe.operations.refusals import Refusals
from stillframe.operations.world import World
from stillframe.ports.metadata import Transaction

log = logging.getLogger(__name__)
DAY_S = 86400
BATCH_LINES = 500
# these stay whatever their time: a machine whose clock came up wrong has no others to compare them with
KEPT_LINES = 1000
JUMP_S = 600.0
SILENCE_S = 7 * DAY_S
_LOOK_EVERY_S = 5.0
_STOP_WAIT_S = 10.0
_RETRY_S = 3600.0
_PAUSE_S = 0.1  # between two batches, so that whoever waits for the database gets it


def seconds_since_boot() -> float:
    """Goes on while the machine sleeps, and no setting of the clock changes it."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class LogKeeper:
    """A thread. Lines and operations are removed at its start and once a day, in short transactions.

    Old is what the clock says; a clock that has jumped is not believed for a day. It has jumped when it does not agree with
    the time since boot, and, at the start, when the log's last line is from the future or from more than a week ago.
    """

    def __init__(
        self,
        world: World,
        refusals: Refusals,
        retention_days: int,
        *,
        kept_lines: int = KEPT_LINES,
        clock: Callable[[], float] = seconds_since_boot,
    ) -> None:
        """``retention_days`` 0: nothing is ever removed."""
        self._world = world
        self._refusals = refusals
        self._retention_days = retention_days
        self._kept_lines = kept_lines
        self._clock = clock
        self._stopped = threading.Event()
        self._seen: tuple[float, float] | None = None  # the wall's clock, and the one since boot
        self._due_at = 0.0
        self._thread = threading.Thread(target=self._run, name="log-keeper", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """What was counted until now is written. After ``start``."""
        self._stopped.set()
        self._thread.join(_STOP_WAIT_S)
        self._refusals.write_counted(all_of_them=True)

    def _run(self) -> None:
        while True:
            try:
                self.look()
            except StillframeError:
                log.exception("keeping the operation log failed; it is repeated")
            if self._stopped.wait(_LOOK_EVERY_S):
                return

    def look(self) -> int:
        """Do what is due; returns how many lines were removed."""
        self._refusals.write_counted()
        if not self._retention_days:
            return 0
        self._watch_the_clock()
        if self._clock() < self._due_at:
            return 0
        self._due_at = self._clock() + _RETRY_S
        removed = self._prune()
        self._forget_operations()
        self._due_at = self._clock() + DAY_S
        if removed:
            log.info("the operation log: %d lines older than %d days were removed", removed, self._retention_days)
        return removed

    def _watch_the_clock(self) -> None:
        now, since_boot = self._world.now_s(), self._clock()
        if self._seen is None:
            why = self._odd_at_start(now)
        else:
            jump_s = (now - self._seen[0]) - (since_boot - self._seen[1])
            why = f"the clock was set by {jump_s:+.0f} s" if abs(jump_s) > JUMP_S else ""
        self._seen = now, since_boot
        if why:
            log.warning("the operation log: nothing is removed for a day: %s", why)
            self._due_at = since_boot + DAY_S

    def _odd_at_start(self, now: float) -> str:
        with self._world.metadata.read() as tx:
            newest = tx.log.newest()
        if newest is None or now - SILENCE_S <= newest.at <= now + JUMP_S:
            return ""
        return f"its last line is {(now - newest.at) / DAY_S:.1f} days old by the clock"

    def _prune(self) -> int:
        now = int(self._world.now_s())
        with self._world.metadata.read() as tx:
            last = tx.log.last_old(now - self._retention_days * DAY_S, now + DAY_S, keep=self._kept_lines)
        return self._in_batches(lambda tx: tx.log.remove_until(last, batch=BATCH_LINES)) if last else 0

    def _forget_operations(self) -> None:
        before = int(self._world.now_s()) - self._retention_days * DAY_S
        self._in_batches(lambda tx: tx.journal.remove_ended(before, keep=self._kept_lines, batch=BATCH_LINES))

    def _in_batches(self, remove: Callable[[Transaction], int]) -> int:
        removed = 0
        while not self._stopped.is_set():
            with self._world.metadata.write() as tx:
                count = remove(tx)
            removed += count
            if count < BATCH_LINES:
                break
            self._stopped.wait(_PAUSE_S)
        return removed
