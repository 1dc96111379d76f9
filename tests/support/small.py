"""A small real file system that can be filled up: ext4 on a loop device. Needs root."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_RESERVE_BYTES = 64 << 10  # what the file system itself may need for the filler's own extents
_FILLER = "filler"


class SmallFileSystem:
    """``directory`` is its root. Made before a private libvirtd starts: later mounts do not show in the daemon."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def free_bytes(self) -> int:
        figures = os.statvfs(self.directory)
        return figures.f_bavail * figures.f_frsize

    def fill(self, leave_bytes: int = 0) -> None:
        """At most this much is free, also when it is called again; with 0 not a block can be had any more."""
        filler = self.directory / _FILLER
        with filler.open("ab") as file:
            for portion in (1 << 20, 64 << 10, 4 << 10):
                while self.free_bytes() > leave_bytes + portion:
                    try:
                        os.posix_fallocate(file.fileno(), file.tell(), portion)
                    except OSError:
                        break
                    file.seek(portion, os.SEEK_CUR)
            try:
                while not leave_bytes:
                    os.write(file.fileno(), b"x" * 512)
            except OSError:
                return

    def spare(self) -> None:
        """What ``fill`` took is free again."""
        (self.directory / _FILLER).unlink(missing_ok=True)

    @contextmanager
    def full(self, leave_bytes: int = 0) -> Iterator[None]:
        """Full inside."""
        self.fill(leave_bytes)
        try:
            yield
        finally:
            self.spare()


@contextmanager
def small_file_system(size_bytes: int) -> Iterator[SmallFileSystem]:
    base = Path(tempfile.mkdtemp(prefix="sf-small-", dir="/tmp"))
    image, directory = base / "image", base / "mount"
    directory.mkdir()
    try:
        with image.open("wb") as file:
            file.truncate(size_bytes)
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", "-O", "^has_journal", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(directory)], check=True)
        try:
            shutil.rmtree(directory / "lost+found")
            yield SmallFileSystem(directory)
        finally:
            subprocess.run(["umount", "-l", str(directory)], check=True)
    finally:
        shutil.rmtree(base, ignore_errors=True)
