"""File systems of the kinds that share blocks between files, each in a sparse file of its own, for a test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

_MKFS = {"xfs": ("mkfs.xfs", "-q"), "btrfs": ("mkfs.btrfs", "-q")}
_SMALLEST_BYTES = 320 << 20  # mkfs.xfs makes none below 300 MiB
KINDS = tuple(_MKFS)


@contextmanager
def mounted(kind: str, place: Path, image: Path, size_bytes: int = _SMALLEST_BYTES) -> Iterator[Path]:
    """``place`` is a new, empty file system of this kind; it and its image are gone afterwards.

    The test is skipped where it may not mount, or the kernel does not know the kind. What is missing of programs is an error.
    """
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    with image.open("xb") as file:
        file.truncate(size_bytes)
    try:
        subprocess.run([*_MKFS[kind], str(image)], check=True, capture_output=True)
        place.mkdir(parents=True, exist_ok=True)
        done = subprocess.run(
            ["mount", "-t", kind, "-o", "loop", image, place], capture_output=True, text=True, check=False
        )
        if "unknown filesystem type" in done.stderr or "failed to setup loop device" in done.stderr:
            pytest.skip(f"this kernel has no {kind} or no loop device: {done.stderr.strip()}")
        assert done.returncode == 0, done.stderr
        try:
            yield place
        finally:
            subprocess.run(["umount", place], check=True)
    finally:
        image.unlink()


def used_bytes(place: Path) -> int:
    """What the file system has given away, with all that it has freed."""
    subprocess.run(["sync", "-f", place], check=True)
    figures = os.statvfs(place)
    return (figures.f_blocks - figures.f_bfree) * figures.f_frsize
