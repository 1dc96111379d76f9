"""A memory store under test, and how its files are made and damaged."""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from stillframe.domain.errors import ErrorCase, StillframeError
from stillframe.ports.memory_store import MemoryStore

MIB = 1 << 20
PNG = b"\x89PNG\r\n\x1a\n" + bytes(range(256))


@dataclass(frozen=True)
class MemoryBench:
    """A store under test; ``screenshot_file`` says where it keeps a picture, so that a check can damage it; ``make``: another store
    on the same files.
    """

    store: MemoryStore
    screenshot_file: Callable[[str], Path]
    make: Callable[[], MemoryStore]

    def captured(self, *extents: tuple[int, bytes], length_bytes: int = 5 * MIB + 512) -> str:
        """A finished capture: a sparse file with these (offset, bytes)."""
        memory_uuid = new_uuid()
        path = self.store.ensure_capture_file(memory_uuid, MIB)
        write_extents(path, extents, length_bytes)
        return memory_uuid

    def anew(self) -> MemoryBench:
        """The same files for a store that has read none of them."""
        return replace(self, store=self.make())

    def file(self, memory_uuid: str) -> Path:
        return Path(self.store.capture_path(memory_uuid))

    def damage(self, memory_uuid: str, offset: int) -> None:
        """Flip one bit of a stored file behind the store's back."""
        flip_bit(self.file(memory_uuid), offset)


def new_uuid() -> str:
    return str(uuid.uuid4())


def write_extents(path: str, extents: tuple[tuple[int, bytes], ...], length_bytes: int) -> None:
    descriptor = os.open(path, os.O_WRONLY)  # as QEMU's, which may be the descriptor's only right
    try:
        os.ftruncate(descriptor, length_bytes)
        for offset, data in extents:
            os.pwrite(descriptor, data, offset)
    finally:
        os.close(descriptor)


def flip_bit(path: Path, offset: int) -> None:
    mode = stat.S_IMODE(path.stat().st_mode)
    path.chmod(0o600)
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x10]))
    path.chmod(mode)


def some_extents() -> tuple[tuple[int, bytes], ...]:
    return ((0, b"head" * 1024), (MIB + 4096, os.urandom(MIB)), (4 * MIB, os.urandom(64 * 1024)))


@contextmanager
def ends_with(kind: type[StillframeError], case: ErrorCase, *words: str) -> Iterator[None]:
    """The block raises this kind and case, and ``desc`` contains the words."""
    caught: StillframeError | None = None
    try:
        yield
    except StillframeError as error:
        caught = error
    assert caught is not None, f"it did not end with {case.name}"
    assert (type(caught), caught.case) == (kind, case), f"{caught!r} instead of {kind.__name__} {case.name}"
    for word in words:
        assert word in caught.desc, f'"{word}" is not in "{caught.desc}"'
