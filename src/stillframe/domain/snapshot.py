"""Snapshots, their disks and their memory state: frozen facts, as published."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from enum import StrEnum


class MemoryStatus(StrEnum):
    """Life of a memory state. Only ``AVAILABLE`` may be restored."""

    SAVING = "saving"
    UPLOADING = "uploading"
    AVAILABLE = "available"
    FAILED = "failed"

    @property
    def is_pending(self) -> bool:
        return self in (MemoryStatus.SAVING, MemoryStatus.UPLOADING)


class CaptureMode(StrEnum):
    """How the memory was captured; clients read it in ``attr``."""

    BACKGROUND = "background-snapshot"  # pause of milliseconds
    LIVE = "live"  # QEMU refused the former: the guest paused at the end
    STOPPED = "stopped"  # emulated, and living on a memory file: the guest stood still until all was written


@dataclass(frozen=True)
class MemoryState:
    """The memory that belongs to a snapshot.

    ``location`` names where it lies ("file:///…"); ``progress`` runs from 0 to 100; ``size_bytes`` is what it
    occupies on disk and ``checksum`` ("blake3:…") covers the whole published file; both are set when available.
    ``reason`` says why saving failed, or why the slower capture mode was used.
    """

    uuid: str
    location: str
    status: MemoryStatus
    mode: CaptureMode
    progress: int = 0
    size_bytes: int = 0
    checksum: str = ""
    reason: str = ""


@dataclass(frozen=True)
class DiskSnapshot:
    """One disk of a snapshot: ``layer_uuid`` is the frozen layer that holds the volume's contents at that moment."""

    uuid: str
    volume_uuid: str
    layer_uuid: str
    target: str


@dataclass(frozen=True)
class SnapshotCard:
    """What a drawing of the tree says of a snapshot, without the configuration that it holds.

    ``disk_bytes``: what its frozen layers occupy. ``memory`` has no checksum and no location.
    """

    uuid: str
    seq: int
    name: str
    description: str
    parent_uuid: str | None
    ctime: int
    disk_bytes: int
    screenshot_checksum: str
    memory: MemoryState | None


@dataclass(frozen=True)
class ShownSnapshot:
    """What clients are shown of a published snapshot (``Snapshot`` says what the fields are), without what is for us alone."""

    uuid: str
    vm_uuid: str
    name: str
    description: str
    ctime: int
    tenant: str
    tenant_name: str
    namespace: str
    screenshot_checksum: str
    operation_uuid: str
    vm_detail: str
    disks: tuple[DiskSnapshot, ...]
    memory: MemoryState | None = None


@dataclass(frozen=True)
class Snapshot:
    """A published snapshot.

    ``seq`` is the order of creation within the VM; ``ctime`` the moment of the freeze (Unix seconds).
    ``vm_detail`` is the JSON text of a ComputeInspectInfo; ``definition_xml`` is libvirt's saved definition at that
    moment (with secrets: it never leaves the service) and ``definition_checksum`` its "blake3:…". ``operation_uuid`` is the
    operation that created it ("" for one made before operations were noted).
    """

    uuid: str
    vm_uuid: str
    seq: int
    name: str
    description: str
    parent_uuid: str | None
    ctime: int
    tenant: str
    tenant_name: str
    namespace: str
    vm_detail: str
    definition_xml: str = field(repr=False)
    definition_checksum: str
    disks: tuple[DiskSnapshot, ...]
    memory: MemoryState | None = None
    screenshot_checksum: str = ""
    operation_uuid: str = ""

    @property
    def described(self) -> str:
        return f'snapshot "{self.name}" ({self.uuid})'

    @property
    def shown(self) -> ShownSnapshot:
        """As clients are shown it."""
        return ShownSnapshot(**{field.name: getattr(self, field.name) for field in fields(ShownSnapshot)})
