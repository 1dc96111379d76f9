"""Whether anybody opened a file: the kernel's own word (inotify(7)), whoever it was."""

from __future__ import annotations

import ctypes
import os
import select
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_IN_ACCESS, _IN_MODIFY, _IN_OPEN = 0x1, 0x2, 0x20
_EVENT = struct.Struct("iIII")
_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def unopened(*paths: Path) -> Iterator[None]:
    """Nobody opens, reads or writes one of these inside; a descriptor for the path alone (O_PATH) opens nothing."""
    watcher = _libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    assert watcher >= 0, os.strerror(ctypes.get_errno())
    try:
        watched = {_watch(watcher, path): path for path in paths}
        yield
        seen = list(_seen(watcher))
        assert seen == [], [(str(watched[number]), hex(mask)) for number, mask in seen]
    finally:
        os.close(watcher)


def _watch(watcher: int, path: Path) -> int:
    number: int = _libc.inotify_add_watch(watcher, os.fsencode(path), _IN_OPEN | _IN_ACCESS | _IN_MODIFY)
    assert number >= 0, f"{path}: {os.strerror(ctypes.get_errno())}"
    return number


def _seen(watcher: int) -> Iterator[tuple[int, int]]:
    while select.select([watcher], [], [], 0)[0]:
        data = os.read(watcher, 65536)
        at = 0
        while at < len(data):
            number, mask, _cookie, length = _EVENT.unpack_from(data, at)
            yield number, mask
            at += _EVENT.size + length
