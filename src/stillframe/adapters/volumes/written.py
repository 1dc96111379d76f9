"""Whether an overlay holds anything of its own, told from its header and its first table: no data is read.

Source: docs/interop/qcow2.rst of QEMU. An overlay is made without a cluster, and QEMU gives it a table of the second level
with the first byte that is written, discarded or zeroed in that table's range; reading through it gives it none.
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import BinaryIO

_MAGIC = 0x514649FB
_HEADER = struct.Struct(">IIQIIQIIQQII")  # as far as the number of internal snapshots
_L1_ENTRY_BYTES = 8
_L1_MAX_BYTES = 32 << 20  # QEMU opens none with a larger one


def holds_data(path: Path) -> bool:
    """True when something was written to the qcow2 file since it was made empty, or an internal snapshot is in it.

    Right when nobody has the file open, and while a QEMU that has it open is paused: it keeps nothing back then.

    Raises:
        OSError: it could not be read.
        ValueError: it is no whole qcow2 file.
    """
    with path.open("rb") as file:
        header = file.read(_HEADER.size)
        if len(header) < _HEADER.size:
            raise ValueError("is too short for a qcow2 file")
        magic, _version, *_, l1_entries, l1_offset, _refcounts, _refcount_clusters, snapshots = _HEADER.unpack(header)
        if magic != _MAGIC:
            raise ValueError("is not a qcow2 file")
        return snapshots > 0 or any(_first_table(file, l1_offset, l1_entries * _L1_ENTRY_BYTES))


def _first_table(file: BinaryIO, offset: int, size_bytes: int) -> bytes:
    if size_bytes > _L1_MAX_BYTES:
        raise ValueError(f"has a first table of {size_bytes} bytes")
    file.seek(offset)
    table = file.read(size_bytes)
    if len(table) < size_bytes:
        raise ValueError("ends inside its first table")
    return table
