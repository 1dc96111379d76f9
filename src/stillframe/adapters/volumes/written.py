"""What an overlay holds of its own, told from its header and its tables: no data is read.

Source: docs/interop/qcow2.rst of QEMU. An overlay is made without a cluster, and QEMU gives it a table of the second level
with the first byte that is written, discarded or zeroed in that table's range; reading through it gives it none.
"""

from __future__ import annotations

import os
import struct
import sys
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

_MAGIC = 0x514649FB
_HEADER = struct.Struct(">IIQIIQIIQQII")  # as far as the number of internal snapshots
_BLOCK_BYTES = 512
_ENTRY = struct.Struct(">Q")
_ENTRY_BYTES = _ENTRY.size
_OFFSET = 0x00FF_FFFF_FFFF_FE00  # of an entry of the first table
_WITH_FEATURES, _FEATURES_AT = 3, 72
_CLUSTER_BITS = range(9, 22)
_EXTENDED_TABLES = 1 << 4  # entries of the second table are twice as long
_L1_MAX_BYTES = 32 << 20  # QEMU opens none with a larger one


def holds_data(path: Path) -> bool:
    """True when something was written to the qcow2 file since it was made empty, or an internal snapshot is in it.

    Right when nobody has the file open, and while a QEMU that has it open is paused: it keeps nothing back then.

    Raises:
        OSError: it could not be read.
        ValueError: it is no whole qcow2 file.
    """
    with path.open("rb") as file:
        *_, l1_entries, l1_offset, _refcounts, _refcount_clusters, snapshots = _header(file)
        return snapshots > 0 or any(_read_table(file, l1_offset, l1_entries * _ENTRY_BYTES))


def holds_all_of(top: Path, base: Path) -> bool:
    """For each cluster that ``base`` has, with data or of zeroes, ``top`` has one in its place. Both are qcow2 files.

    Right when nobody has them open. While a QEMU writes to top it may say no too early, never yes: a cluster that is there
    does not go.

    Raises:
        OSError: one could not be read.
        ValueError: one is no whole qcow2 file, or has extended tables.
    """
    with top.open("rb", buffering=0) as top_file, base.open("rb", buffering=0) as base_file:
        above, below = _Clusters(top_file), _Clusters(base_file)
        return all(above.has(at, below.cluster_bytes) for at in below.places())


class _Clusters:
    """Which places of an image have a cluster."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        _magic, version, _, _, cluster_bits, _, _, entries, offset, *_ = _header(file)
        if version >= _WITH_FEATURES:
            (features,) = _ENTRY.unpack(_read_table(file, _FEATURES_AT, _ENTRY_BYTES))
            if features & _EXTENDED_TABLES:
                raise ValueError("has extended tables")
        if cluster_bits not in _CLUSTER_BITS:
            raise ValueError(f"has clusters of 2^{cluster_bits} bytes")
        self.cluster_bytes = 1 << cluster_bits
        self._first = _entries(_read_table(file, offset, entries * _ENTRY_BYTES))
        self._second: tuple[int, array[int]] = (-1, array("Q"))

    def places(self) -> Iterator[int]:
        """Where the clusters lie in what is read, in bytes from its beginning, ascending.

        Takes no longer than the file is large, whatever is in it.

        Raises:
            ValueError: it has more tables than it has room for.
        """
        tables = len(self._first) - self._first.count(0)
        if tables * self.cluster_bytes > os.fstat(self._file.fileno()).st_blocks * _BLOCK_BYTES:
            raise ValueError(f"has {tables} tables of {self.cluster_bytes} bytes, which are more than it occupies")
        for number in range(len(self._first)):
            table = self._table(number)
            for index, entry in enumerate(table):
                if entry:
                    yield (number * len(table) + index) * self.cluster_bytes

    def has(self, at: int, size_bytes: int) -> bool:
        """All of this range has clusters."""
        per_table = self.cluster_bytes // _ENTRY_BYTES
        for cluster in range(at // self.cluster_bytes, (at + size_bytes - 1) // self.cluster_bytes + 1):
            number, index = divmod(cluster, per_table)
            table = self._table(number) if number < len(self._first) else ()
            if not table or not table[index]:
                return False
        return True

    def _table(self, number: int) -> array[int]:
        """A table of the second level; empty when the image has none there."""
        if self._second[0] != number:
            offset = self._first[number] & _OFFSET
            table = _read_table(self._file, offset, self.cluster_bytes) if offset else b""
            self._second = (number, _entries(table))
        return self._second[1]


def _entries(table: bytes) -> array[int]:
    """A table's entries."""
    found = array("Q", table)
    if sys.byteorder == "little":
        found.byteswap()
    return found


def _header(file: BinaryIO) -> tuple[int, ...]:
    header = file.read(_HEADER.size)
    if len(header) < _HEADER.size:
        raise ValueError("is too short for a qcow2 file")
    fields: tuple[int, ...] = _HEADER.unpack(header)
    if fields[0] != _MAGIC:
        raise ValueError("is not a qcow2 file")
    return fields


def _read_table(file: BinaryIO, offset: int, size_bytes: int) -> bytes:
    if size_bytes > _L1_MAX_BYTES:
        raise ValueError(f"has a table of {size_bytes} bytes")
    file.seek(offset)
    table = file.read(size_bytes)
    if len(table) < size_bytes:
        raise ValueError("ends inside one of its tables")
    return table
