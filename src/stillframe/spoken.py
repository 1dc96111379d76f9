"""What a running service tells of itself in its state directory, and whether it is the one that still runs.

The service writes it, and whoever brings a key reads it, so it stands on nothing of the house.
"""

from __future__ import annotations

import fcntl
import json
import os
import struct
from pathlib import Path

_FLOCK = "hhxxxxqqixxxx"  # struct flock: type, whence, start, length, pid
_F_OFD_GETLK, _F_OFD_SETLK = 36, 37


def speak(file: Path, told: dict[str, str | int]) -> int:
    """Write what the service tells of itself; as long as the returned descriptor is open, it ``is_spoken``.

    It holds no secret, and whoever brings a key may read it.

    Raises:
        OSError: it could not be written.
    """
    temporary = file.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    # closed to others until it is locked: a reader's lock would be in the way of ours
    descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
    try:
        fcntl.fcntl(descriptor, _F_OFD_SETLK, struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0))
        os.write(descriptor, json.dumps(told).encode())
        os.fchmod(descriptor, 0o644)
        temporary.replace(file)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def is_spoken(descriptor: int) -> bool:
    """The service that wrote this file is alive.

    Only who may write a file can have a lock for writing on it: nobody else can pretend, as with ``flock``, which whoever
    may read a file is given.
    """
    asked = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    answered = fcntl.fcntl(descriptor, _F_OFD_GETLK, asked)
    return bool(struct.unpack(_FLOCK, answered)[0] != fcntl.F_UNLCK)
