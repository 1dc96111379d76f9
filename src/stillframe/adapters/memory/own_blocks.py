"""What a file has for itself after it came to share the rest, stored together, where a file system needs that.

btrfs frees what it once wrote in one piece (an extent, of a memory file up to 4 MiB) when nothing of it is needed any more, and not
before. A file of which nine blocks in ten are shared may hold all that it was written as. So the tenth is written again into a file
without a name, and the memory file made to refer to that, by the same means as it came to share: the kernel compares. The file
without a name is gone when it is closed, also by a crash; its blocks belong to who refers to them.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillframe.adapters.memory.compression import compress
from stillframe.adapters.memory.dedupe import share

_BTRFS_MAGIC = 0x9123683E  # BTRFS_SUPER_MAGIC of <linux/magic.h>
_STATFS_BYTES = 256  # no struct statfs is longer; its first member is f_type, of the machine's word
_PORTION_BYTES = 4 << 20
_libc = ctypes.CDLL(None, use_errno=True)


class OwnBlocks:
    """Of ``target``; ``spare`` is the file without a name, nobody else's."""

    def __init__(self, target: int, spare: int) -> None:
        self._target = target
        self._spare = spare
        self._written = 0
        self._waiting: list[tuple[int, int, int]] = []  # offset in the spare file, in the target, bytes

    def add(self, offset: int, data: bytes | bytearray) -> None:
        """These bytes of the target, whole blocks; they are dealt with now or by the next ``settle``.

        Raises:
            OSError: they could not be written, or the kernel would not share; the target reads as before.
        """
        written = 0
        while written < len(data):
            written += os.pwrite(self._spare, data[written:], self._written + written)
        self._waiting.append((self._written, offset, len(data)))
        self._written += len(data)
        if self._written - self._waiting[0][0] >= _PORTION_BYTES:
            self.settle()

    def settle(self) -> None:
        """What was added is where the target's own blocks are.

        Raises:
            OSError: the kernel would not share; the target reads as before.
        """
        for in_spare, in_target, count in self._waiting:
            share(self._spare, in_spare, self._target, in_target, count)
        self._waiting.clear()


@contextmanager
def own_blocks(target: int, directory: Path, *, compressed: bool = False) -> Iterator[OwnBlocks | None]:
    """``directory``: on the target's file system. ``compressed``: they are stored so again. None where the file system frees what nobody needs block by block.

    Raises:
        OSError: there can be no file without a name.
    """
    if not _frees_whole_extents(target):
        yield None
        return
    spare = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
    try:
        if compressed:
            compress(spare)
        yield OwnBlocks(target, spare)
    finally:
        os.close(spare)


def _frees_whole_extents(descriptor: int) -> bool:
    figures = ctypes.create_string_buffer(_STATFS_BYTES)
    if _libc.fstatfs(descriptor, figures) != 0:
        return False
    return ctypes.c_ulong.from_buffer(figures).value & 0xFFFFFFFF == _BTRFS_MAGIC
