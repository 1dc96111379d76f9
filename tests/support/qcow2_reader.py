"""A small reader of qcow2 chains, made from QEMU's docs/interop/qcow2 alone: a second opinion, and quick for small images."""

from __future__ import annotations

import struct
from pathlib import Path

_MAGIC = 0x514649FB
_OFFSET = 0x00FF_FFFF_FFFF_FE00
_COMPRESSED, _ZERO = 1 << 62, 1
_HEADER = struct.Struct(">IIQIIQIIQ")
_KNOWN_FEATURES = 0b1  # dirty: its reference counts may be old, which a reader does not need


def read_image(path: str | Path, known: dict[str, bytes] | None = None) -> bytes:
    """Everything that can be read through this image and its backing chain, all of qcow2.

    ``known`` keeps what was read, by path, so that images which share layers are read once.

    Raises:
        ValueError: the image uses what this reader does not know.
    """
    known = {} if known is None else known
    name = str(path)
    if name not in known:
        known[name] = _read(Path(path), known)
    return known[name]


def _read(path: Path, known: dict[str, bytes]) -> bytes:
    data = path.read_bytes()
    magic, version, backing_at, backing_length, cluster_bits, size, encryption, l1_length, l1_at = _HEADER.unpack_from(
        data
    )
    features = struct.unpack_from(">Q", data, 72)[0] if version >= 3 else 0
    if magic != _MAGIC or encryption or features & ~_KNOWN_FEATURES:
        raise ValueError(f"{path}: magic {magic:x}, encryption {encryption}, features {features:b}")
    below = b""
    if backing_at:
        backing = data[backing_at : backing_at + backing_length].decode()
        below = read_image(path.parent / backing, known)[:size]
    content = bytearray(below.ljust(size, b"\0"))
    cluster = 1 << cluster_bits
    entries = cluster // 8
    for l1_index, l1_entry in enumerate(struct.unpack_from(f">{l1_length}Q", data, l1_at)):
        if not l1_entry & _OFFSET:
            continue
        for l2_index, entry in enumerate(struct.unpack_from(f">{entries}Q", data, l1_entry & _OFFSET)):
            start = (l1_index * entries + l2_index) * cluster
            if entry & _COMPRESSED:
                raise ValueError(f"{path}: a compressed cluster")
            length = min(cluster, size - start)
            if entry & _ZERO:
                content[start : start + length] = bytes(length)
            elif entry & _OFFSET:
                at = entry & _OFFSET
                content[start : start + length] = data[at : at + length].ljust(length, b"\0")
    return bytes(content)
