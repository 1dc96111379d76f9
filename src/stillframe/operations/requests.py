"""What comes in at the door and what goes out, as frozen records; parsed once, passed down as they are."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from stillframe.domain.access import Principal
from stillframe.domain.compute import ComputeInfo
from stillframe.domain.snapshot import ShownSnapshot
from stillframe.ports.guests import GuestSpec


@dataclass(frozen=True)
class Cluster:
    """The one cluster of this service."""

    uuid: str
    name: str


@dataclass(frozen=True)
class VmRef:
    """Which VM a request means. ``cluster_uuid`` and ``tenant`` may be empty: then they are not checked."""

    cluster_uuid: str
    tenant: str
    compute_uuid: str


def nobody_hears(_operation_uuid: str) -> None:
    """Nobody wants to know which operations a call began."""


def nobody_notes() -> None:
    """Nobody wants to know whether the operation log has a line about a call."""


@dataclass(frozen=True)
class Caller:
    """Who asks and from where. ``mark``: GCD | GDT | "" (the request's ``vm_type``), for the operation log.

    ``hears`` is told the uuid of every operation that the call begins, as soon as it is in the journal. ``noted`` is
    told when the operation log gets a line about the call.
    """

    principal: Principal
    address: str
    mark: str = ""
    hears: Callable[[str], None] = field(default=nobody_hears, repr=False, compare=False)
    noted: Callable[[], None] = field(default=nobody_notes, repr=False, compare=False)

    @property
    def who(self) -> str:
        """The id of the key, which is no secret."""
        return self.principal.key_id


@dataclass(frozen=True)
class SnapshotPage:
    snapshots: tuple[ShownSnapshot, ...]
    total_count: int


@dataclass(frozen=True)
class DiskRef:
    """The seed's DiskSnapshotInfo."""

    VolumeUuid: str  # the wire's own spelling
    SnapshotUuid: str  # the wire's own spelling
    DiskDrive: str  # the wire's own spelling


@dataclass(frozen=True)
class VmQuery:
    """Filters of the VM list; empty means all. ``page_size`` <= 0: everything.

    ``fuzzy``: name and uuid match as substrings; else exactly.
    """

    cluster_uuid: str = ""
    tenant: str = ""
    name: str = ""
    uuid: str = ""
    state: str = ""
    action: str = ""
    fuzzy: bool = True
    page_number: int = 0
    page_size: int = 0


@dataclass(frozen=True)
class VmPage:
    rows: tuple[ComputeInfo, ...]
    total_count: int


__all__ = ["Caller", "Cluster", "DiskRef", "GuestSpec", "SnapshotPage", "VmPage", "VmQuery", "VmRef"]
