"""What two files have in common at the same offset, kept once by the file system's own means.

Source: ioctl_fideduperange(2). The kernel compares the bytes itself, with both files held still, and only then lets the
second file refer to the blocks of the first: whatever goes wrong here, no file ever reads differently. Blocks belong to all
files that refer to them; deleting one takes nothing from another. XFS (reflink=1) and btrfs can do it. The caller owns the
files: it needs no descriptor that may write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from collections.abc import Iterator

from stillframe.adapters.memory.sparse_checksum import CHUNK_BYTES, data_chunks, read_fully

# how the kernel says that these files cannot share: another file system, one that cannot, files of somebody else's
_CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS)
_FIDEDUPERANGE = 0xC0189436  # _IOWR(0x94, 54, struct file_dedupe_range) of <linux/fs.h>
# struct file_dedupe_range with one file_dedupe_range_info: offset and length in the source, how many targets, 0, 0;
# the target's descriptor, its offset, (out) bytes shared, (out) status, 0
_REQUEST = struct.Struct("=QQHHIqQQiI")
_BLOCK_BYTES = 4096  # a guest's page: in larger stretches far less is alike


def can_share(source: int, target: int) -> bool:
    """Whether the file system shares blocks of these two files, as far as it says: it is asked for one, which may come to be shared.

    Raises:
        OSError: it could not be asked.
    """
    block = _block_bytes(target)
    offset = next(iter(data_chunks(target)), 0) * CHUNK_BYTES
    if offset + block > min(os.fstat(source).st_size, os.fstat(target).st_size):
        return True  # there is nothing to ask for
    try:
        _share(source, target, offset, block)
    except OSError as error:
        if error.errno in _CANNOT:
            return False
        raise
    return True


def share_chunks(source: int, target: int) -> Iterator[int]:
    """Let ``target`` refer to the blocks of ``source`` where both hold the same; yields, for one chunk after the other in
    which both have data, how many bytes of it that are.

    Whoever asks decides when the next one is dealt with. May be given up and repeated at any time. Reading the chunks here
    first keeps it short for how long the kernel holds both files still: it finds them in the page cache.

    Raises:
        OSError: a file could not be read, or the kernel would not share.
    """
    block = _block_bytes(target)
    length = min(os.fstat(source).st_size, os.fstat(target).st_size) // block * block
    in_source = set(data_chunks(source))
    one, two = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES)
    for number in data_chunks(target):
        at = number * CHUNK_BYTES
        wanted = min(CHUNK_BYTES, length - at)
        if number not in in_source or wanted <= 0:
            continue
        if wanted < CHUNK_BYTES:  # the last chunk
            one, two = bytearray(wanted), bytearray(wanted)
        read_fully(source, one, at)
        read_fully(target, two, at)
        yield sum(_share(source, target, at + begin, count) for begin, count in equal_runs(one, two, block))


def equal_runs(one: bytearray, two: bytearray, block: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of the stretches of whole blocks that are equal in both and hold anything: zeroes are holes, mostly."""
    zeroes, begin = bytes(block), None
    for at in range(0, len(one), block):
        mine = one[at : at + block]
        if mine == two[at : at + block] and mine != zeroes[: len(mine)]:
            if begin is None:
                begin = at
        elif begin is not None:
            yield begin, at - begin
            begin = None
    if begin is not None:
        yield begin, len(one) - begin


def _block_bytes(descriptor: int) -> int:
    """The smallest stretch that is shared: the kernel takes whole blocks of the file system alone."""
    return max(_BLOCK_BYTES, os.fstatvfs(descriptor).f_bsize)


def _share(source: int, target: int, offset: int, count: int) -> int:
    """How many of these bytes are equal and shared now; some file systems take no more than a part at a time.

    Raises:
        OSError: the kernel's word, of the call or of this target.
    """
    shared = 0
    while shared < count:
        request = bytearray(_REQUEST.pack(offset + shared, count - shared, 1, 0, 0, target, offset + shared, 0, 0, 0))
        fcntl.ioctl(source, _FIDEDUPERANGE, request)
        *_, done, status, _ = _REQUEST.unpack(request)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        if status > 0 or done == 0:  # FILE_DEDUPE_RANGE_DIFFERS
            break
        shared += done
    return shared
