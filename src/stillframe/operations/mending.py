"""While the service runs: operations that were left are taken up again, until they are finished, and lent files dropped."""

from __future__ import annotations

import logging
import threading
import time

from stillframe.domain.errors import StillframeError
from stillframe.operations.lending import drop_unneeded
from stillframe.operations.recovery import Outcome, Recovery
from stillframe.operations.runner import Runner
from stillframe.ports.metadata import OperationRow

log = logging.getLogger(__name__)
_LOOK_EVERY_S = 2.0
_STOP_WAIT_S = 10.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 2.0, 120.0
_DROP_EVERY_S = 10.0
_AWAY_PAUSE_S = 10.0  # to look whether a VM has been defined again costs nothing, and nobody hears of it


class Mender:
    """A thread that looks for LEFT operations. Each is tried again, in a thread of its own, after pauses that double.

    One whose VM libvirt does not know is finished soon after the VM is defined again.
    """

    def __init__(self, runner: Runner, recovery: Recovery) -> None:
        self._runner = runner
        self._world = runner.world
        self._recovery = recovery
        self._stopped = threading.Event()
        self._pause_s: dict[str, float] = {}
        self._due_at: dict[str, float] = {}
        self._trying: set[str] = set()
        self._drop_at = 0.0
        self._thread = threading.Thread(target=self._run, name="mender", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """No new attempt begins; those under way may be cut off like by a crash. After ``start``."""
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
        for uuid in self._due_at.keys() - {row.uuid for row in left} - self._trying:
            del self._due_at[uuid], self._pause_s[uuid]
        for row in left:
            if row.uuid in self._trying or time.monotonic() < self._due_at.get(row.uuid, 0.0):
                continue
            # one that takes hours must not keep another VM waiting
            self._trying.add(row.uuid)
            threading.Thread(target=self._try, args=(row,), name=f"mender-{row.uuid[:8]}", daemon=True).start()
        if time.monotonic() >= self._drop_at:  # last: it asks libvirt about every VM
            drop_unneeded(self._world)
            self._drop_at = time.monotonic() + _DROP_EVERY_S

    def _try(self, row: OperationRow) -> None:
        try:
            outcome = self._recovery.finish_logged(row)
            if outcome is not Outcome.FINISHED:
                is_away = outcome is Outcome.AWAY
                longer_s = min(_LONGEST_PAUSE_S, 2 * self._pause_s.get(row.uuid, _FIRST_PAUSE_S / 2))
                pause_s = self._pause_s[row.uuid] = _AWAY_PAUSE_S if is_away else longer_s
                self._due_at[row.uuid] = time.monotonic() + pause_s
        finally:
            self._trying.discard(row.uuid)
