"""What files were found to consist of, kept in memory as long as there is room."""

from __future__ import annotations

import threading
from collections import OrderedDict


class Digests:
    """The digests of memory files by uuid, ``most_bytes`` of them together; those asked for last stay. Threads may share it."""

    def __init__(self, most_bytes: int) -> None:
        self._most_bytes = most_bytes
        self._held: OrderedDict[str, bytes] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()

    def put(self, uuid: str, digests: bytes) -> None:
        with self._lock:
            self._remove(uuid)
            self._held[uuid] = digests
            self._bytes += len(digests)
            while self._bytes > self._most_bytes:
                self._remove(next(iter(self._held)))

    def get(self, uuid: str) -> bytes | None:
        with self._lock:
            if uuid in self._held:
                self._held.move_to_end(uuid)
            return self._held.get(uuid)

    def drop(self, uuid: str) -> None:
        with self._lock:
            self._remove(uuid)

    def _remove(self, uuid: str) -> None:
        self._bytes -= len(self._held.pop(uuid, b""))
