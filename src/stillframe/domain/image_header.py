"""What a qcow2 header says, and whether an image with such a header may be opened; pure functions on bytes.

Format: QEMU's docs/interop/qcow2. Whoever made the image chose every byte of it, so nothing here is believed: each number
is compared with what QEMU itself would take and with the file's length, before QEMU or qemu-img sees the file. The limits
are QEMU's own (block/qcow2.h), or narrower.

Reasons never repeat names that the header holds: they may carry credentials, or be another file's contents.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass

HEAD_BYTES = 64 * 1024
"""How much of a file's beginning ``read_header`` wants. Extensions and names that lie further back are refused."""

LARGEST_BYTES = 1 << 51
"""2 PiB: the largest disk that an overlay with clusters of 64 KiB can have, QEMU's largest L1 table being 32 MiB."""

FORMATS = ("qcow2", "raw")
"""The formats that may stand in a chain: qcow2 is looked through here, raw has nothing to look through."""

LEAF_FORMATS = ("bochs", "cloop", "dmg", "luks", "parallels", "vdi", "vhdx", "vpc")
"""QEMU's other formats whose images never name another file."""

_MAGIC = b"QFI\xfb"
_OLD_VERSION, _VERSION = 2, 3
_FIXED = struct.Struct(">4sIQIIQIIQQIIQ")
_FEATURES = struct.Struct(">QQQII")
_EXTENSION = struct.Struct(">II")
_COMPRESSION_AT = 104
_BACKING_FORMAT, _DATA_FILE, _ENCRYPTION = 0xE2792ACA, 0x44415441, 0x0537BE77
_DIRTY, _CORRUPT, _EXTERNAL_DATA, _COMPRESSION, _EXTENDED_L2 = (1 << bit for bit in range(5))
_KNOWN_FEATURES = _DIRTY | _CORRUPT | _EXTERNAL_DATA | _COMPRESSION | _EXTENDED_L2
_CLUSTER_BITS, _EXTENDED_CLUSTER_BITS = range(9, 22), range(14, 22)
_L1_MAX_BYTES = 32 << 20
_REFCOUNT_TABLE_MAX_BYTES = 8 << 20
_REFCOUNT_ORDER_MAX = 6
_SNAPSHOTS_MAX, _SNAPSHOT_BYTES = 65536, 40  # an entry's shortest
_NAME_MAX_BYTES, _FORMAT_MAX_BYTES = 1023, 15
_SECTOR_BYTES = 512
# a protocol's own name, so that a reason can say which; anything longer or stranger is not repeated
_PREFIX = re.compile(r"[A-Za-z][A-Za-z0-9+._-]{0,15}")


class BadHeaderError(Exception):
    """The image may not be opened; the text is why, without its path."""


@dataclass(frozen=True)
class Header:
    """A header that was read and found good.

    ``backing_name`` as written there, relative or absolute, or "" for none; ``backing_format`` is "" only then.
    ``is_corrupt``: QEMU found damage and marked it.
    """

    virtual_bytes: int
    backing_name: str
    backing_format: str
    is_corrupt: bool


@dataclass(frozen=True)
class _Fields:
    """The numbers, as they stand there."""

    version: int
    backing_offset: int
    backing_bytes: int
    cluster_bits: int
    virtual_bytes: int
    crypt_method: int
    l1_entries: int
    l1_offset: int
    refcount_offset: int
    refcount_clusters: int
    snapshots: int
    snapshots_offset: int
    incompatible: int = 0
    refcount_order: int = 4
    header_bytes: int = 72
    compression: int = 0

    @property
    def cluster_bytes(self) -> int:
        return 1 << self.cluster_bits


def read_header(head: bytes, file_bytes: int) -> Header:
    """The header of a qcow2 image.

    Args:
        head: the file's first HEAD_BYTES, fewer when it is shorter.
        file_bytes: the file's length.

    Raises:
        BadHeaderError: it is no qcow2 image, or one that may not be opened.
    """
    fields = _read_fields(head)
    for check in (_check_layout, _check_features, _check_size, _check_tables):
        check(fields, file_bytes)
    extensions = _read_extensions(fields, head)
    name = _read_name(fields, head)
    if _DATA_FILE in extensions:
        raise BadHeaderError("it keeps its data in an external data file")
    if _ENCRYPTION in extensions:
        raise BadHeaderError("it is encrypted")
    return Header(
        virtual_bytes=fields.virtual_bytes // _SECTOR_BYTES * _SECTOR_BYTES,  # as QEMU does
        backing_name=name,
        backing_format=_read_format(extensions.get(_BACKING_FORMAT, b"")) if name else "",
        is_corrupt=bool(fields.incompatible & _CORRUPT),
    )


def check_raw(file_bytes: int) -> int:
    """The virtual size of a raw image of this length, in bytes; whatever is in it, nothing is read.

    Raises:
        BadHeaderError: it is too large for an overlay.
    """
    if file_bytes > LARGEST_BYTES:
        raise BadHeaderError(f"it has {file_bytes} bytes; at most {LARGEST_BYTES} can be overlaid")
    return -(-file_bytes // _SECTOR_BYTES) * _SECTOR_BYTES


def _read_fields(head: bytes) -> _Fields:
    if head[:4] != _MAGIC:
        raise BadHeaderError("it is not a qcow2 image")
    if len(head) < _FIXED.size:
        raise BadHeaderError("it is cut off in its header")
    _magic, version, *numbers = _FIXED.unpack_from(head)
    if version == _OLD_VERSION:
        return _Fields(version, *numbers)
    if version != _VERSION:
        raise BadHeaderError(f"it is of qcow2 version {version}; 2 and 3 are known")
    if len(head) < _FIXED.size + _FEATURES.size:
        raise BadHeaderError("it is cut off in its header")
    incompatible, _compatible, _autoclear, order, length = _FEATURES.unpack_from(head, _FIXED.size)
    compression = head[_COMPRESSION_AT] if min(length, len(head)) > _COMPRESSION_AT else 0
    features = {
        "incompatible": incompatible,
        "refcount_order": order,
        "header_bytes": length,
        "compression": compression,
    }
    return _Fields(version, *numbers, **features)


def _check_layout(fields: _Fields, file_bytes: int) -> None:
    if fields.cluster_bits not in _CLUSTER_BITS:
        raise BadHeaderError(f"its clusters have 2^{fields.cluster_bits} bytes; 2^9 to 2^21 are known")
    shortest = _FIXED.size if fields.version == _OLD_VERSION else _FIXED.size + _FEATURES.size
    longest = min(fields.cluster_bytes, HEAD_BYTES, file_bytes)
    if not shortest <= fields.header_bytes <= longest or fields.header_bytes % 8:
        raise BadHeaderError(f"its header claims {fields.header_bytes} bytes")
    if fields.refcount_order > _REFCOUNT_ORDER_MAX:
        raise BadHeaderError(f"its reference counts have 2^{fields.refcount_order} bits; at most 2^6 are known")


def _check_features(fields: _Fields, _file_bytes: int) -> None:
    if fields.incompatible & _EXTERNAL_DATA:
        raise BadHeaderError("it keeps its data in an external data file")
    if unknown := fields.incompatible & ~_KNOWN_FEATURES:
        bits = ", ".join(str(bit) for bit in range(64) if unknown >> bit & 1)
        raise BadHeaderError(f"it needs features that are not known (incompatible bits {bits})")
    if fields.incompatible & _EXTENDED_L2 and fields.cluster_bits not in _EXTENDED_CLUSTER_BITS:
        raise BadHeaderError("its clusters are too small for its extended L2 entries")
    if (fields.compression != 0) != bool(fields.incompatible & _COMPRESSION) or fields.compression > 1:
        raise BadHeaderError(f"its compression, {fields.compression}, is not known")
    if fields.crypt_method:
        raise BadHeaderError("it is encrypted")


def _check_size(fields: _Fields, _file_bytes: int) -> None:
    if fields.virtual_bytes > LARGEST_BYTES:  # a negative number is a large one here
        raise BadHeaderError(
            f"it claims a disk of {fields.virtual_bytes} bytes; at most {LARGEST_BYTES} can be overlaid"
        )
    entry_bytes = 16 if fields.incompatible & _EXTENDED_L2 else 8
    needed = -(-fields.virtual_bytes // (fields.cluster_bytes * (fields.cluster_bytes // entry_bytes)))
    if fields.l1_entries < needed:
        raise BadHeaderError(f"its L1 table has {fields.l1_entries} entries; a disk of its size needs {needed}")


def _check_tables(fields: _Fields, file_bytes: int) -> None:
    _check_table("L1 table", fields, fields.l1_offset, fields.l1_entries * 8, _L1_MAX_BYTES)
    if fields.l1_offset + fields.l1_entries * 8 > file_bytes:
        raise BadHeaderError("it is cut off: its L1 table lies behind its end")
    refcount_bytes = fields.refcount_clusters * fields.cluster_bytes
    if not refcount_bytes:
        raise BadHeaderError("it has no table of reference counts")
    _check_table("table of reference counts", fields, fields.refcount_offset, refcount_bytes, _REFCOUNT_TABLE_MAX_BYTES)
    # the tables themselves may reach beyond the end: what is not there reads as zeroes
    if fields.refcount_offset >= file_bytes:
        raise BadHeaderError("it is cut off: its table of reference counts lies behind its end")
    if fields.snapshots > _SNAPSHOTS_MAX:
        raise BadHeaderError(f"it claims {fields.snapshots} internal snapshots; at most {_SNAPSHOTS_MAX} are known")
    if fields.snapshots:
        snapshots_bytes = fields.snapshots * _SNAPSHOT_BYTES
        _check_table("table of internal snapshots", fields, fields.snapshots_offset, snapshots_bytes, snapshots_bytes)
        if fields.snapshots_offset >= file_bytes:
            raise BadHeaderError("it is cut off: its table of internal snapshots lies behind its end")


def _check_table(what: str, fields: _Fields, offset: int, size_bytes: int, most_bytes: int) -> None:
    if size_bytes > most_bytes:
        raise BadHeaderError(f"its {what} has {size_bytes} bytes; at most {most_bytes} are known")
    if offset % fields.cluster_bytes:
        raise BadHeaderError(f"its {what} does not begin with a cluster")
    if not offset and size_bytes:
        raise BadHeaderError(f"its {what} lies over its header")


def _read_extensions(fields: _Fields, head: bytes) -> dict[int, bytes]:
    """Those behind the header, by type. They end where the backing file's name begins, or with the first cluster."""
    end = min(fields.cluster_bytes, len(head))
    if fields.backing_offset:
        end = min(end, fields.backing_offset)
    found: dict[int, bytes] = {}
    at = fields.header_bytes
    while at + _EXTENSION.size <= end:
        kind, length = _EXTENSION.unpack_from(head, at)
        at += _EXTENSION.size
        if kind == 0:
            return found
        if length > end - at:
            raise BadHeaderError("an extension of its header is longer than the room for it")
        if kind in found:
            raise BadHeaderError("an extension of its header appears twice")
        found[kind] = head[at : at + length]
        at += -(-length // 8) * 8
    return found


def _read_name(fields: _Fields, head: bytes) -> str:
    if not fields.backing_offset:
        return ""
    begin, end = fields.backing_offset, fields.backing_offset + fields.backing_bytes
    if fields.backing_bytes > _NAME_MAX_BYTES:
        raise BadHeaderError(f"its backing file's name has {fields.backing_bytes} bytes; at most 1023 are known")
    if begin < fields.header_bytes or end > min(fields.cluster_bytes, len(head)):
        raise BadHeaderError("its backing file's name does not lie in its header")
    try:
        name = head[begin:end].decode()
    except UnicodeDecodeError:
        raise BadHeaderError("its backing file's name is not UTF-8 text") from None
    if any(ord(char) < ord(" ") or char == "\x7f" for char in name):
        raise BadHeaderError("its backing file's name contains a control character")
    # as QEMU's path_has_protocol(): a colon before the first slash makes it something else than a file's path
    prefix, colon, _rest = name.partition("/")[0].partition(":")
    if colon:
        kind = f' ("{prefix}:")' if _PREFIX.fullmatch(prefix) else ""
        raise BadHeaderError(f"its backing file is named by a protocol or by options{kind}, not by a plain path")
    return name


def _read_format(said: bytes) -> str:
    """The format that the header gives its backing file.

    Without one QEMU would guess, and what a guest wrote into a raw image could make it guess qcow2.
    """
    if not said:
        raise BadHeaderError(
            "its header does not say its backing file's format; "
            "qemu-img rebase -u -F writes it there, when the virtual machine is off"
        )
    for name in FORMATS:
        if said == name.encode():
            return name
    raise BadHeaderError("its header gives its backing file a format that is neither qcow2 nor raw")
