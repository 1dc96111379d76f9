"""Where memory states and screenshots are kept: write once, checked before use."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol


class StoredKind(StrEnum):
    MEMORY = "memory"
    SCREENSHOT = "screenshot"


@dataclass(frozen=True)
class StoredFile:
    """A file of the store. ``uuid`` owns it: a memory state's, or for a screenshot its snapshot's.

    ``size_bytes`` is what it occupies. ``unfinished``: its writing was cut off before it got its final name.
    """

    kind: StoredKind
    uuid: str
    path: str
    size_bytes: int
    unfinished: bool


class MemoryStore(Protocol):
    """Files named after the uuid that owns them. A published artefact never changes."""

    def capture_path(self, memory_uuid: str) -> str:
        """The local path at which a capture is written; pure, nothing is made."""
        ...

    def ensure_capture_file(self, memory_uuid: str, needed_bytes: int) -> str:
        """An empty, private file for a capture; returns its path.

        Raises:
            Refused: SPACE_EXHAUSTED when fewer than ``needed_bytes`` are free.
        """
        ...

    def flush(self, memory_uuid: str) -> None:
        """Push what was written to the disk, gently: guests whose disks lie beside it must not feel it. Repeatable."""
        ...

    def seal(self, memory_uuid: str) -> tuple[str, int]:
        """Make the finished file durable and read-only; returns (checksum "blake3:…", bytes on disk). Repeatable."""
        ...

    def verify(self, memory_uuid: str, checksum: str) -> str:
        """The path of an intact memory file.

        Raises:
            Failed: MEMORY_DAMAGED when it is missing, truncated or differs; STORAGE_FAILED when it cannot be read.
        """
        ...

    def check_slowly(self, memory_uuid: str, checksum: str, *, goes_on: Callable[[], bool]) -> bool:
        """The same, a little at a time, while a guest lives on the file: True when all of it is right, False as soon as
        ``goes_on`` says no.

        Raises:
            Failed: MEMORY_DAMAGED, as soon as that is known; STORAGE_FAILED when it cannot be read, or is missing: whoever
                has it open still reads what it was.
        """
        ...

    def check_length(self, memory_uuid: str, checksum: str) -> None:
        """What can be said of a memory file without reading it: it is there and has the length that was saved.

        Raises:
            Failed: MEMORY_DAMAGED when it is missing or has another length; STORAGE_FAILED when it cannot be looked at.
        """
        ...

    def share(self, memory_uuid: str, with_uuid: str, *, goes_on: Callable[[], bool]) -> int:
        """What two sealed memory files hold alike at the same place is stored once, where the store can do that: how many bytes,
        as far as it came until ``goes_on`` said no; 0 where it cannot, or where one is not sealed.

        A little at a time, while guests live on either. Both go on to be what they were, also when the other is dropped. Repeatable.

        Raises:
            Failed: STORAGE_FAILED, also when one of them is missing; both are what they were.
        """
        ...

    def is_unchanged(self, memory_uuid: str) -> bool:
        """This process has hashed the file whole, and by the file system's word nobody has touched it since.

        That word (inode, size, times of change) says nothing about a medium that lost bits: it spares no check.
        """
        ...

    def location(self, memory_uuid: str) -> str:
        """A URL that names where the memory state lies ("file:///…")."""
        ...

    def ensure_dropped(self, memory_uuid: str) -> None:
        """Neither a capture nor a sealed file of this uuid is left, nor anything beside it."""
        ...

    def lazy_path(self, memory_uuid: str) -> str:
        """Where what a lazy restore needs beside the memory file is to be written; pure."""
        ...

    def drop_lazy_file(self, memory_uuid: str) -> None:
        """There is none. Repeatable."""
        ...

    def drop_lazy_files(self) -> None:
        """There is none of any memory state. At the start, when no restore is under way."""
        ...

    def lend(self, memory_uuid: str, checksum: str) -> None:
        """Nothing refers to the memory state any more; a guest lives on its file, which stays until ``ensure_dropped``."""
        ...

    def lent(self) -> dict[str, str]:
        """The memory states that were lent and not dropped since, with their checksums."""
        ...

    def take_back(self, memory_uuid: str) -> None:
        """It is not lent, and nothing else of it changes. Repeatable."""
        ...

    def put_screenshot(self, snapshot_uuid: str, png: bytes) -> str:
        """Store durably; returns the checksum. Repeatable with the same bytes."""
        ...

    def get_screenshot(self, snapshot_uuid: str, checksum: str) -> bytes | None:
        """The PNG; None when there is none.

        Raises:
            Failed: STORAGE_FAILED when it is damaged or unreadable.
        """
        ...

    def drop_screenshot(self, snapshot_uuid: str) -> None: ...

    def list_owned(self) -> list[StoredFile]:
        """Every file in the store with a name that the store gives, memory first, then by uuid."""
        ...
