"""While the service runs: operations that were left are taken up again, until they are finished."""

from __future__ import annotations

import logging
import threading
import time

from stillframe.domain.errors import StillframeError
from stillframe.operations.recovery import Recovery
from stillframe.operations.runner import Runner

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 2.0
_STOP_WAIT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 120.0


class Mender:
    """A thread that looks for LEFT operations. Each is tried again after pauses that double."""

    def __init__(self, runner: Runner, recovery: Recovery) -> None:
        self._runner = runner
        self._world = runner.world
        self._recovery = recovery
        self._stopped = threading.Event()
        self._pause_s: dict[str, float] = {}
        self._due_at: dict[str, float] = {}
        self._thread = threading.Thread(target=self._run, name="mender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No new attempt begins; one under way is given a moment, and may be cut off like by a crash. After ``start``."""
        self._stopped.set()
        self._thread.join(_STOP_WAIT_S)

    def _run(self) -> None:
        while not self._stopped.wait(_LOOK_EVERY_S):
            try:
                self.mend()
            except StillframeError:
                log.exception("looking for unfinished operations failed; it is repeated")

    def mend(self) -> None:
        """Note what the database did not take earlier, and try every LEFT operation that is due."""
        self._runner.note_ends()
        with self._world.metadata.read() as tx:
            left = tx.journal.left()
        for uuid in self._due_at.keys() - {row.uuid for row in left}:
            del self._due_at[uuid], self._pause_s[uuid]
        for row in left:
            if self._stopped.is_set() or time.monotonic() < self._due_at.get(row.uuid, 0.0):
                continue
            if not self._recovery.finish_logged(row):
                pause_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s.get(row.uuid, _FIRST_PAUSE_S / 2))
                self._pause_s[row.uuid] = pause_s
                self._due_at[row.uuid] = time.monotonic() + pause_s
