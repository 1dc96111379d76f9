"""Checksums of all that can be read in a disk image or a sparse file."""

from __future__ import annotations

import os
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

from blake3 import blake3

_MIB = 1 << 20


def checksum_image(path: str, image_format: str = "qcow2") -> str:
    """A checksum of everything that can be read through this image and its backing chain, lock or no lock."""
    with tempfile.NamedTemporaryFile(prefix="sf-raw-", dir="/tmp") as raw:
        command = ["qemu-img", "convert", "-U", "-f", image_format, "-O", "raw", path, raw.name]
        subprocess.run(command, check=True, capture_output=True)
        return sparse_checksum(raw.name)


def sparse_checksum(path: str) -> str:
    """blake3 over the non-zero MiB of a file, each with its number; holes are not read."""
    digest = blake3()
    zeroes = bytes(_MIB)
    with Path(path).open("rb") as file:
        for number in _mib_with_data(file.fileno()):
            file.seek(number * _MIB)
            chunk = file.read(_MIB)
            if chunk != zeroes[: len(chunk)]:
                digest.update(number.to_bytes(8, "big") + chunk)
    return str(digest.hexdigest())


def _mib_with_data(descriptor: int) -> Iterator[int]:
    """The numbers of the MiB that are not all hole, ascending."""
    end, position, last = os.fstat(descriptor).st_size, 0, -1
    while position < end:
        try:
            data = os.lseek(descriptor, position, os.SEEK_DATA)
        except OSError:  # no data any more
            return
        position = os.lseek(descriptor, data, os.SEEK_HOLE)
        first = max(last + 1, data // _MIB)
        last = (position - 1) // _MIB
        yield from range(first, last + 1)
