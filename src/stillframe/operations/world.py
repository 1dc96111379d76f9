"""Everything the operations need of the world, handed to them by bootstrap."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from stillframe.operations.moments import Watch, unwatched
from stillframe.ports.guests import Guests
from stillframe.ports.hypervisor import CaptureKeeper, Inventory, PointInTimeFixer, Power, Sighting
from stillframe.ports.instruments import Instruments, Unheard
from stillframe.ports.memory_store import MemoryStore
from stillframe.ports.metadata import Metadata
from stillframe.ports.volumes import Volumes


@dataclass(frozen=True)
class Limits:
    """What the operator chose. ``memory_tenants``: None means every tenant has memory-snapshot space.

    ``lazy_restore``: a guest's memory may stay in the saved file. ``host_patience_s``: how long a hypervisor that cannot be reached is waited for, where giving up would leave
    something half-done. ``link_lifetime_s``: how long a signed link is good. ``max_snapshots``: of
    a VM, where its tenant has no limit of its own. ``max_operations``: under way at a time.
    """

    max_chain_depth: int = 64
    memory_tenants: frozenset[str] | None = None
    host_patience_s: float = 120.0
    link_lifetime_s: int = 3600
    max_snapshots: int = 1024
    max_operations: int = 64
    max_operations_per_tenant: int = 32
    lazy_restore: bool = True

    def memory_space_open(self, tenant: str) -> bool:
        return self.memory_tenants is None or tenant in self.memory_tenants


class Guard(Protocol):
    """Who sees to it that a guest does not go on with memory that turns out to be damaged (lending.py)."""

    def watch_over(self, vm_uuid: str, memory_uuid: str, checksum: str) -> None:
        """The guest lives on this memory state's file from now on; returns at once."""
        ...


class Unguarded:
    """Where nothing is restored lazily: a restore that is would be a mistake of whoever put the world together."""

    def watch_over(self, vm_uuid: str, memory_uuid: str, checksum: str) -> None:
        raise RuntimeError(f"nobody watches over VM {vm_uuid}, which lives on memory {memory_uuid} ({checksum})")


class Sharing(Protocol):
    """Who has memory states stored with what they have in common with earlier ones (sharing.py)."""

    def share_soon(self, vm_uuid: str, snapshot_uuid: str) -> None:
        """The memory of this snapshot is sealed; returns at once."""
        ...


class Unshared:
    """Every memory state stays stored by itself."""

    def share_soon(self, vm_uuid: str, snapshot_uuid: str) -> None:
        """Nothing comes of it."""


class Sight(Protocol):
    """As much of the world as is needed to look at it, and no more."""

    @property
    def inventory(self) -> Sighting: ...

    @property
    def volumes(self) -> Volumes: ...

    @property
    def memory_store(self) -> MemoryStore: ...

    @property
    def metadata(self) -> Metadata: ...


@dataclass(frozen=True)
class World:
    """The ports, the clock and the source of new uuids."""

    inventory: Inventory
    power: Power
    fixer: PointInTimeFixer
    keeper: CaptureKeeper
    volumes: Volumes
    memory_store: MemoryStore
    metadata: Metadata
    guests: Guests
    limits: Limits
    watch: Watch = unwatched
    instruments: Instruments = field(default_factory=Unheard)
    guard: Guard = field(default_factory=Unguarded)
    sharing: Sharing = field(default_factory=Unshared)
    now_s: Callable[[], float] = time.time
    new_uuid: Callable[[], str] = field(default=lambda: str(uuid.uuid4()))
