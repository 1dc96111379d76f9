"""Writing a large file back to its disk in small portions, with pauses in which others get their turn.

A memory state is written into the page cache far faster than the disk takes it. Flushed at once it would stand in front
of every write of the guests whose images lie on the same disk, for as long as it takes.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time

_PORTION_BYTES = 4 << 20
_PAUSE_MAX_S = 0.2
# wait for what is under way, start writing, wait for it: SYNC_FILE_RANGE_* of <fcntl.h>
_WRITE_AND_WAIT = 1 | 2 | 4

_libc = ctypes.CDLL(None, use_errno=True)


def write_back_gently(descriptor: int) -> None:
    """Most of the file's data is on disk afterwards; only fsync makes it durable.

    Each portion is followed by a pause as long as it took, so that the disk is ours half of the time at most.
    Source: sync_file_range(2). A kernel or file system without it leaves the work to the fsync that follows.

    Raises:
        OSError: writing failed.
    """
    offset, length = 0, os.fstat(descriptor).st_size
    while offset < length:
        begun = time.monotonic()
        if not _sync_range(descriptor, offset, _PORTION_BYTES):
            return
        offset += _PORTION_BYTES
        took_s = time.monotonic() - begun
        # holes and what the kernel has written already take no time
        if took_s > 0.0005:  # noqa: PLR2004 -- half a millisecond: no disk was touched
            time.sleep(min(took_s, _PAUSE_MAX_S))


def _sync_range(descriptor: int, offset: int, count: int) -> bool:
    call = getattr(_libc, "sync_file_range", None)
    if call is None:
        return False
    if call(descriptor, ctypes.c_int64(offset), ctypes.c_int64(count), ctypes.c_uint(_WRITE_AND_WAIT)) == 0:
        return True
    number = ctypes.get_errno()
    if number in (errno.ENOSYS, errno.EINVAL, errno.ESPIPE):
        return False
    raise OSError(number, os.strerror(number))
