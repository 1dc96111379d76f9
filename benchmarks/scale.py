"""How much is measured: everything, or just enough to see that the benchmark works."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Effort:
    """How often is read. ``many``: snapshots beside the thousand; ``slice_s``: for how long a server is kept busy at a time."""

    many: int
    repeats: int
    slices: int
    slice_s: float


@dataclass(frozen=True)
class Guest:
    """A witness guest: its memory, and how much of that holds random data."""

    memory_mib: int
    fill_mib: int
    dirty_pages: int = 20


@dataclass(frozen=True)
class Scale:
    """``guests`` from the smallest to the largest; ``base`` is the memory of the one by which peers are compared.

    ``internal``: at which sizes internal snapshots are measured, too. ``snapshots`` and ``rollbacks``: with memory, of
    one guest (``peer_snapshots``: of one that has external ones). ``changes`` and ``merges``: how often these are
    measured in all, whatever ``rounds`` says. ``little_mib`` and ``much_mib``: what is written before a rollback of a disk. ``layer_mib``: what the
    layer holds that is merged. ``quiet_s``: how long a guest is watched undisturbed before it.
    """

    rounds: int
    guests: tuple[Guest, ...]
    base: int
    internal: tuple[int, ...]
    snapshots: int
    peer_snapshots: int
    rollbacks: int
    disk_snapshots: int
    little_mib: int
    much_mib: int
    changes: int
    merges: int
    layer_mib: int
    quiet_s: float
    reads: Effort

    @property
    def sizes(self) -> tuple[int, ...]:
        return tuple(guest.memory_mib for guest in self.guests)

    @property
    def base_guest(self) -> Guest:
        return next(guest for guest in self.guests if guest.memory_mib == self.base)


FULL = Scale(
    rounds=2,
    guests=(Guest(512, 300), Guest(1024, 600), Guest(2048, 1500), Guest(4096, 3072)),
    base=1024,
    internal=(1024, 4096),
    snapshots=5,
    peer_snapshots=3,
    rollbacks=3,
    disk_snapshots=5,
    little_mib=10,
    much_mib=10 << 10,
    changes=3,
    merges=2,
    layer_mib=2 << 10,
    quiet_s=10.0,
    reads=Effort(1_000_000, 201, 3, 2.0),
)
QUICK = Scale(
    rounds=1,
    guests=(Guest(512, 300),),
    base=512,
    internal=(512,),
    snapshots=2,
    peer_snapshots=1,
    rollbacks=1,
    disk_snapshots=2,
    little_mib=10,
    much_mib=256,
    changes=1,
    merges=1,
    layer_mib=64,
    quiet_s=2.0,
    reads=Effort(10_000, 11, 1, 0.5),
)
