"""Disks that cannot be snapshotted, each beside a good vda."""

from __future__ import annotations

from collections.abc import Callable

from support.offline import Lot, file_disk, image

# kind -> the disk's XML, and what the refusal must say of it
UNSUPPORTED: dict[str, tuple[Callable[[Lot], str], str]] = {
    "block": (
        lambda one: (
            "<disk type='block' device='disk'><driver name='qemu' type='raw'/><source dev='/dev/sf-none'/>"
            "<target dev='vdb' bus='virtio'/></disk>"
        ),
        "block",
    ),
    "lun": (
        lambda one: (
            "<disk type='block' device='lun'><driver name='qemu' type='raw'/><source dev='/dev/sf-none'/>"
            "<target dev='sdb' bus='scsi'/></disk><controller type='scsi' model='virtio-scsi'/>"
        ),
        "LUN",
    ),
    "network": (
        lambda one: (
            "<disk type='network' device='disk'><driver name='qemu' type='raw'/>"
            "<source protocol='nbd' name='export'><host name='127.0.0.1' port='1'/></source>"
            "<target dev='vdb' bus='virtio'/></disk>"
        ),
        "network",
    ),
    "encrypted": (
        lambda one: file_disk(
            image(one.directory / "disk-1.qcow2"),
            "vdb",
        ).replace(
            "/><target",
            "><encryption format='luks'><secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>"
            "</encryption></source><target",
        ),
        "encrypted",
    ),
    "shareable": (
        lambda one: file_disk(image(one.directory / "disk-1.img", image_format="raw"), "vdb", "raw", "<shareable/>"),
        "shared",
    ),
    "readonly": (lambda one: file_disk(image(one.directory / "disk-1.qcow2"), "vdb", inner="<readonly/>"), "read-only"),
    "transient": (
        lambda one: file_disk(image(one.directory / "disk-1.qcow2"), "vdb", inner="<transient/>"),
        "transient",
    ),
    "format": (
        # of a format whose images may name others (vmdk) doctor would have doubts, and the whole lot's orphans would stay
        lambda one: file_disk(image(one.directory / "disk-1.vdi", image_format="vdi"), "vdb", "vdi"),
        "vdi",
    ),
}
