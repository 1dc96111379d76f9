"""A running operation as its steps see it: they tell how far they are, and hear that they are to stop."""

from __future__ import annotations

import logging
import threading
import time

from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.ports.metadata import Metadata, Progress

log = logging.getLogger(__name__)
_NOTE_EVERY_S = 0.5


class Work:
    """One operation under way. ``note`` may be called as often as a step likes; few calls reach the database."""

    def __init__(self, metadata: Metadata, operation_uuid: str) -> None:
        self._metadata = metadata
        self._operation_uuid = operation_uuid
        self._cancelled = threading.Event()
        self.begin_step("")

    def begin_step(self, step: str) -> None:
        """What is noted from now on is this step's. Nothing is written."""
        self._step = step
        self._begun_at = time.monotonic()
        self._begun_bytes: int | None = None
        self._noted_at: float | None = None

    def note(self, bytes_done: int, bytes_total: int) -> bool:
        """So many bytes of so many. True when it is time to write it down, so that others may follow the rhythm.

        A database that does not take it is no reason to fail: it is the next time's.
        """
        now = time.monotonic()
        if self._begun_bytes is None:
            # what a resumed step finds done was not done at this step's rate
            self._begun_bytes, self._begun_at = bytes_done, now
        if self._noted_at is not None and now - self._noted_at < _NOTE_EVERY_S:
            return False
        self._noted_at = now
        passed_s = now - self._begun_at
        rate = int((bytes_done - self._begun_bytes) / passed_s) if passed_s > 0 else 0
        try:
            with self._metadata.write() as tx:
                tx.journal.set_progress(
                    self._operation_uuid, self._step, Progress(bytes_done, bytes_total, max(0, rate))
                )
        except StillframeError as error:
            log.warning("progress of operation %s could not be noted: %s", self._operation_uuid, error)
        return True

    def mark(self, words: str) -> None:
        """The operation has come so far inside of a step: durable when this returns, see ``is_marked``.

        Raises:
            StillframeError: the database did not take it.
        """
        mark(self._metadata, self._operation_uuid, words)

    def is_marked(self, words: str) -> bool:
        return is_marked(self._metadata, self._operation_uuid, words)

    def cancel(self) -> None:
        """``check`` refuses from now on; the journal has noted it before."""
        self._cancelled.set()

    def check(self) -> None:
        """Called by steps before the point of no return, in their long waits.

        Raises:
            Refused: CANCELLED.
        """
        if self._cancelled.is_set():
            raise Refused(ErrorCase.CANCELLED, f"operation {self._operation_uuid} was cancelled")


def mark(metadata: Metadata, operation_uuid: str, words: str) -> None:
    """``Work.mark`` for an undo, which has no work. Marks are kept beside the names of the steps that are done."""
    with metadata.write() as tx:
        tx.journal.step_done(operation_uuid, words, committed=False)


def is_marked(metadata: Metadata, operation_uuid: str, words: str) -> bool:
    with metadata.read() as tx:
        row = tx.journal.get(operation_uuid)
    return row is not None and words in row.steps_done
