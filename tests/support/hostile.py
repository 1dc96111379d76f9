"""Images that somebody made to do harm, byte by byte from QEMU's docs/interop/qcow2, and what must be said of each.

``sound`` is the image that each of them would be without its one bad thing: QEMU opens it.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

CLUSTER = 1 << 16
_FIXED = ">4sIQIIQIIQQIIQQQQII"
_FIELDS: dict[str, int | bytes] = {
    "magic": b"QFI\xfb",
    "version": 3,
    "backing_offset": 0,
    "backing_bytes": 0,
    "cluster_bits": 16,
    "size": 1 << 20,
    "crypt_method": 0,
    "l1_entries": 1,
    "l1_offset": 3 * CLUSTER,
    "refcount_offset": CLUSTER,
    "refcount_clusters": 1,
    "snapshots": 0,
    "snapshots_offset": 0,
    "incompatible": 0,
    "compatible": 0,
    "autoclear": 0,
    "refcount_order": 4,
    "header_bytes": 112,
}
BACKING_FORMAT, DATA_FILE, ENCRYPTION = 0xE2792ACA, 0x44415441, 0x0537BE77


@dataclass(frozen=True)
class Image:
    """What is to be written. ``fields`` replace those of a sound header; ``cut`` is the length that is left of the file.

    ``backing_format``: "" leaves it out.
    """

    fields: Mapping[str, int | bytes] = field(default_factory=dict)
    backing: str | bytes = ""
    backing_format: str = "qcow2"
    extensions: tuple[tuple[int, bytes], ...] = ()
    cut: int | None = None

    def bytes(self) -> bytes:
        name = self.backing.encode() if isinstance(self.backing, str) else self.backing
        extensions = list(self.extensions)
        if name and self.backing_format:
            extensions.insert(0, (BACKING_FORMAT, self.backing_format.encode()))
        packed = b"".join(
            struct.pack(">II", kind, len(data)) + data + bytes(-len(data) % 8) for kind, data in extensions
        )
        packed += bytes(8)  # the end of the extensions
        fields = dict(_FIELDS)
        if name:
            fields |= {"backing_offset": 112 + len(packed), "backing_bytes": len(name)}
        fields |= self.fields
        head = struct.pack(_FIXED, *fields.values()) + bytes(8) + packed + name
        table = struct.pack(">Q", 2 * CLUSTER)
        counts = struct.pack(">H", 1) * 4
        whole = b"".join(part.ljust(CLUSTER, b"\0") for part in (head, table, counts, b""))
        return whole if self.cut is None else whole[: self.cut]

    def write(self, path: Path) -> Path:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(self.bytes())
        return path


SOUND = Image()

# name -> an image by itself, and words that the refusal must have
HEADERS: dict[str, tuple[Image, str]] = {
    "16-eib": (Image({"size": (1 << 64) - 512}), "claims a disk of"),
    "negative-size": (Image({"size": 1 << 63}), "claims a disk of"),
    "more-than-an-overlay-can-be": (Image({"size": (1 << 51) + 512, "l1_entries": 1 << 22}), "claims a disk of"),
    "l1-too-small": (Image({"size": 1 << 40}), "needs 2048"),
    "l1-absurd": (Image({"l1_entries": 0xFFFFFFFF}), "L1 table"),
    "l1-over-the-header": (Image({"l1_offset": 0}), "over its header"),
    "l1-unaligned": (Image({"l1_offset": 3 * CLUSTER + 8}), "begin with a cluster"),
    "l1-behind-the-end": (Image({"l1_offset": 1 << 60}), "cut off"),
    "refcount-order": (Image({"refcount_order": 7}), "reference counts"),
    "refcount-order-absurd": (Image({"refcount_order": 0xFFFFFFFF}), "reference counts"),
    "refcount-table-absurd": (Image({"refcount_clusters": 0xFFFFFFFF}), "reference counts"),
    "refcount-table-missing": (Image({"refcount_clusters": 0}), "reference counts"),
    "refcount-table-behind-the-end": (Image({"refcount_offset": 1 << 62}), "cut off"),
    "header-too-short": (Image({"header_bytes": 72}), "header claims 72"),
    "header-too-long": (Image({"header_bytes": 0xFFFFFFF8}), "header claims 4294967288"),
    "header-odd": (Image({"header_bytes": 109}), "header claims 109"),
    "clusters-tiny": (Image({"cluster_bits": 8}), "2^8"),
    "clusters-huge": (Image({"cluster_bits": 22}), "2^22"),
    "clusters-absurd": (Image({"cluster_bits": 0xFFFFFFFF}), "2^4294967295"),
    "version-1": (Image({"version": 1}), "version 1"),
    "version-4": (Image({"version": 4}), "version 4"),
    "data-file": (
        Image({"incompatible": 1 << 2}, extensions=((DATA_FILE, b"/etc/hostname"),)),
        "external data file",
    ),
    "data-file-json": (
        Image(
            {"incompatible": 1 << 2}, extensions=((DATA_FILE, b'json:{"driver":"file","filename":"/etc/hostname"}'),)
        ),
        "external data file",
    ),
    "data-file-without-its-bit": (Image(extensions=((DATA_FILE, b"/etc/hostname"),)), "external data file"),
    "aes": (Image({"crypt_method": 1}), "encrypted"),
    "luks": (
        Image({"crypt_method": 2}, extensions=((ENCRYPTION, struct.pack(">QQ", 4 * CLUSTER, 592)),)),
        "encrypted",
    ),
    "unknown-feature": (Image({"incompatible": 1 << 5}), "incompatible bits 5"),
    "all-features": (Image({"incompatible": (1 << 64) - 1 - (1 << 2)}), "incompatible bits 5, 6"),
    "unknown-compression": (Image({"incompatible": 1 << 3}), "compression"),
    "snapshots-absurd": (Image({"snapshots": 0xFFFFFFFF}), "4294967295 internal snapshots"),
    "snapshots-behind-the-end": (Image({"snapshots": 1, "snapshots_offset": 1 << 40}), "cut off"),
    "extension-too-long": (Image({}, extensions=((BACKING_FORMAT, b"x"), (0x1, b"y" * 65500))), "extension"),
    "extension-twice": (Image(extensions=((0x77, b"one"), (0x77, b"two"))), "twice"),
    "cut-in-the-magic": (Image(cut=3), "not a qcow2"),
    "cut-in-the-header": (Image(cut=60), "cut off in its header"),
    "cut-in-the-features": (Image(cut=90), "cut off in its header"),
    "cut-before-the-tables": (Image(cut=CLUSTER), "cut off"),
    "empty": (Image(cut=0), "not a qcow2"),
    "json": (Image(backing='json:{"driver":"file","filename":"/etc/hostname"}'), '"json:"'),
    "nbd": (Image(backing="nbd://127.0.0.1:1/disk"), '"nbd:"'),
    "nbd-unix": (Image(backing="nbd+unix:///x?socket=/run/docker.sock"), '"nbd+unix:"'),
    "file-protocol": (Image(backing="file:/etc/hostname"), '"file:"'),
    "rbd": (Image(backing="rbd:pool/image:mon_host=127.0.0.1:key=AQDnotasecret"), '"rbd:"'),
    "http": (Image(backing="http://user:word@127.0.0.1:1/x"), '"http:"'),
    "fat": (Image(backing="fat:rw:/etc"), '"fat:"'),
    "host-device": (Image(backing="host_device:/dev/sda"), '"host_device:"'),
    "colon-first": (Image(backing=":x"), "not by a plain path"),
    "name-with-a-newline": (Image(backing="base\n.qcow2"), "control character"),
    "name-with-a-nul": (Image(backing="base.qcow2\0.img"), "control character"),
    "name-not-utf-8": (Image(backing=b"\xff\xfe.qcow2"), "UTF-8"),
    "name-too-long": (Image(backing="a" * 1024), "1024 bytes"),
    "name-behind-the-cluster": (Image({"backing_offset": CLUSTER - 2, "backing_bytes": 11}), "in its header"),
    "name-behind-the-end": (Image({"backing_offset": 1 << 63, "backing_bytes": 11}), "in its header"),
    "name-over-the-header": (Image({"backing_offset": 8, "backing_bytes": 64}), "in its header"),
    "no-backing-format": (Image(backing="base.qcow2", backing_format=""), "does not say"),
    "backing-format-vmdk": (Image(backing="base.vmdk", backing_format="vmdk"), "neither qcow2 nor raw"),
    "backing-format-luks": (Image(backing="base.luks", backing_format="luks"), "neither qcow2 nor raw"),
}
