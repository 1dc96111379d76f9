"""A small reader of qcow2 chains, made from QEMU's docs/interop/qcow2 alone: a second opinion, and quick for small images."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

_MAGIC = 0x514649FB
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED, _ZERO = 1 << 62, 1
_HEADER = struct.Struct(">IIQIIQIIQ")
_WITH_FEATURES, _FEATURES_AT = 3, 72
_KNOWN_FEATURES = 0b1  # dirty: its reference counts may be old, which a reader does not need


@dataclass(frozen=True)
class _Known:
    """``below``: the contents of the backing file that ``content`` was made on."""

    stamp: tuple[int, ...]
    backing: Path | None
    below: bytes
    content: bytes


class Reader:
    """Reads images and keeps what it read: a file that has not changed since, by its inode, is not read again."""

    def __init__(self) -> None:
        self._known: dict[Path, _Known] = {}

    def forget(self) -> None:
        """Read everything again next time."""
        self._known.clear()

    def read(self, path: str | Path) -> bytes:
        """Everything that can be read through this image and its backing chain, all of qcow2.

        Raises:
            ValueError: the image uses what this reader does not know.
        """
        path = Path(path)
        status = path.stat()
        stamp = (status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)
        known = self._known.get(path)
        if known is None or known.stamp != stamp or known.below is not self._below(known.backing):
            data = path.read_bytes()
            backing = _backing(path, data)
            below = self._below(backing)
            known = _Known(stamp, backing, below, _content(path, data, below))
            self._known[path] = known
        return known.content

    def _below(self, backing: Path | None) -> bytes:
        return b"" if backing is None else self.read(backing)


def _backing(path: Path, data: bytes) -> Path | None:
    _magic, _version, at, length, *_rest = _HEADER.unpack_from(data)
    return path.parent / data[at : at + length].decode() if at else None


def _content(path: Path, data: bytes, below: bytes) -> bytes:
    magic, version, _at, _length, cluster_bits, size, encryption, l1_length, l1_at = _HEADER.unpack_from(data)
    features = struct.unpack_from(">Q", data, _FEATURES_AT)[0] if version >= _WITH_FEATURES else 0
    if magic != _MAGIC or encryption or features & ~_KNOWN_FEATURES:
        raise ValueError(f"{path}: magic {magic:x}, encryption {encryption}, features {features:b}")
    content = bytearray(below[:size].ljust(size, b"\0"))
    cluster = 1 << cluster_bits
    entries = cluster // 8
    for l1_index, l1_entry in enumerate(struct.unpack_from(f">{l1_length}Q", data, l1_at)):
        if not l1_entry & _OFFSET:
            continue
        for l2_index, entry in enumerate(struct.unpack_from(f">{entries}Q", data, l1_entry & _OFFSET)):
            start = (l1_index * entries + l2_index) * cluster
            length = min(cluster, size - start)
            if not entry:
                continue
            if entry & _COMPRESSED:
                raise ValueError(f"{path}: a compressed cluster")
            at = entry & _OFFSET
            new = b"" if entry & _ZERO or not at else data[at : at + length]
            content[start : start + length] = new.ljust(length, b"\0")
    return bytes(content)
