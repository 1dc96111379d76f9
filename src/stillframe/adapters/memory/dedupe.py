"""Two files refer to the same blocks of the file system where the kernel finds that they hold the same.

Source: ioctl_fideduperange(2). The kernel compares the bytes itself, with both files held still, and only then lets the target
refer to the source's blocks: whatever goes wrong here, no file ever reads differently. Blocks belong to all files that refer to
them; deleting one takes nothing from another. XFS (reflink=1) and btrfs can do it. The caller owns the files: it needs no
descriptor that may write.
"""

from __future__ import annotations

import errno
import fcntl
import os
import struct

# how the kernel says that these files cannot share: another file system, one that cannot, files of somebody else's
CANNOT = (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM, errno.ENOSYS)
_FIDEDUPERANGE = 0xC0189436  # _IOWR(0x94, 54, struct file_dedupe_range) of <linux/fs.h>
# struct file_dedupe_range with one file_dedupe_range_info: offset and length in the source, how many targets, 0, 0;
# the target's descriptor, its offset, (out) bytes shared, (out) status, 0
_REQUEST = struct.Struct("=QQHHIqQQiI")


def share(source: int, in_source: int, target: int, in_target: int, count: int) -> int:
    """How many of these bytes, whole blocks, are found equal and shared now; some file systems take a part at a time.

    Raises:
        OSError: the kernel's word, of the call or of this target.
    """
    shared = 0
    while shared < count:
        request = bytearray(
            _REQUEST.pack(in_source + shared, count - shared, 1, 0, 0, target, in_target + shared, 0, 0, 0)
        )
        fcntl.ioctl(source, _FIDEDUPERANGE, request)
        *_, done, status, _ = _REQUEST.unpack(request)
        if status < 0:
            raise OSError(-status, os.strerror(-status))
        if status > 0 or done == 0:  # FILE_DEDUPE_RANGE_DIFFERS
            break
        shared += done
    return shared
