"""A virtual machine as Stillframe sees it: identity, state and disks, free of libvirt's objects."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from stillframe.domain.errors import ErrorCase, Failed

DEFAULT_TENANT = "default"
DEFAULT_NAMESPACE = "default"


class PowerState(StrEnum):
    """libvirt's own names, as the platform's API spells them."""

    NOSTATE = "nostate"
    RUNNING = "running"
    BLOCKED = "blocked"
    PAUSED = "paused"
    SHUTDOWN = "shutdown"
    SHUTOFF = "shutoff"
    CRASHED = "crashed"
    PMSUSPEND = "pmsuspend"

    @property
    def has_process(self) -> bool:
        """True while a QEMU process holds the VM's disks open."""
        return self not in (PowerState.SHUTOFF, PowerState.CRASHED, PowerState.NOSTATE)

    @property
    def is_running(self) -> bool:
        return self in (PowerState.RUNNING, PowerState.BLOCKED)


class Action(StrEnum):
    """What the platform is doing to the VM at the moment."""

    NOACTION = "noaction"
    CLONING = "cloning"
    SAVE = "save"
    MIGRATING = "migrating"
    PENDING = "pending"
    IMPORTING = "importing"
    RESTORING = "restoring"


class SourceKind(StrEnum):
    """Where a disk's bytes live, as far as snapshots care."""

    FILE = "file"  # a file on a local or shared file system: the only kind that can be snapshotted
    BLOCK = "block"  # a host block device
    PASSTHROUGH = "passthrough"  # device='lun' or a host's physical disk
    NETWORK = "network"
    OTHER = "other"  # vhost-user, nvme, dir, ...
    EMPTY = "empty"  # a drive without a medium


@dataclass(frozen=True)
class Disk:
    """One disk-like device of a VM.

    ``target`` ("vda") is the disk's identity inside the VM (the seed's ``DiskDrive``); ``path`` is the active file
    for ``SourceKind.FILE`` and a description of the source otherwise. ``format`` is QEMU's driver name.
    ``snapshot_mode`` is the domain XML's ``snapshot=`` attribute, if any. ``encrypted`` is true when the source
    carries libvirt secrets (LUKS), which layers cannot inherit.
    """

    target: str
    bus: str
    device: str  # disk | cdrom | floppy | lun
    source: SourceKind
    path: str
    format: str
    read_only: bool = False
    shareable: bool = False
    transient: bool = False
    encrypted: bool = False
    snapshot_mode: str = ""

    @property
    def is_removable(self) -> bool:
        """CD-ROMs and floppies: left alone by every operation."""
        return self.device in ("cdrom", "floppy")


@dataclass(frozen=True)
class KnownVm:
    """That there is a VM, how it is called and whose it is: what reading its snapshots needs. See ``Vm`` for the fields."""

    uuid: str
    name: str
    tenant: str
    unreadable: str = ""

    def check_readable(self) -> None:
        """Its configuration is known.

        Raises:
            Failed: HYPERVISOR_FAILED.
        """
        if self.unreadable:
            why = f"{self.described}: its configuration cannot be read: {self.unreadable}"
            raise Failed(ErrorCase.HYPERVISOR_FAILED, why)

    @property
    def described(self) -> str:
        """How messages name it."""
        return f'VM "{self.name}" ({self.uuid})'


@dataclass(frozen=True)
class Vm:
    """A domain of the connected libvirt at one moment.

    ``disks`` are those of the live XML while a QEMU process exists, else of the saved definition.
    ``persistent`` is false for a transient domain, which has no saved definition to roll back to.
    ``saved_disks`` are those of the saved definition, which the next start uses; the same while the VM is off.
    ``has_managed_save``: its next start would resume a state that libvirt saved, on the disks of that moment.
    ``lives_on``: the memory state whose file its guest has its memory in, running or saved by libvirt; "" for any other guest.
    ``may_live_on_any``: that cannot be told, because the state that libvirt has saved cannot be read.
    ``unreadable``: why its configuration could not be read, "" when it could. Then which disks it has is not known, and
    it has no tenant where that could not be read either: only a list shows it, so that one such VM does not hide the others.
    """

    uuid: str
    name: str
    state: PowerState
    persistent: bool
    tenant: str
    tenant_name: str
    namespace: str
    memory_bytes: int
    has_managed_save: bool
    disks: tuple[Disk, ...]
    saved_disks: tuple[Disk, ...]
    unreadable: str = ""
    lives_on: str = ""
    may_live_on_any: bool = False

    @property
    def known(self) -> KnownVm:
        return KnownVm(self.uuid, self.name, self.tenant, self.unreadable)

    def check_readable(self) -> None:
        """Its configuration is known.

        Raises:
            Failed: HYPERVISOR_FAILED.
        """
        self.known.check_readable()

    @property
    def described(self) -> str:
        """How messages name it."""
        return self.known.described

    @property
    def snapshot_disks(self) -> tuple[Disk, ...]:
        """The disks that a snapshot covers: every one that is not a CD-ROM or a floppy."""
        return tuple(d for d in self.disks if not d.is_removable)
