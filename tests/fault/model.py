"""What a VM's snapshots must be: a pure model that keeps every snapshot's full contents. No I/O, no clock.

A disk's contents are one pattern a block. Each request is a method that returns the model after it, or the case with
which the request must be refused; a refused request changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache

from stillframe.domain.errors import ErrorCase

BLOCK_BYTES = 16 << 10  # a quarter of a cluster, so that copy-on-write within one counts too
BLOCKS = 64
DISK_BYTES = BLOCKS * BLOCK_BYTES

Contents = tuple[int, ...]
Disks = Mapping[str, Contents]


@dataclass(frozen=True)
class Snap:
    """``number`` orders siblings by creation."""

    parent: str
    number: int
    disks: Disks
    description: str = ""


@dataclass(frozen=True)
class Model:
    """One VM that is shut off. ``head``: the snapshot that ``disks``, its state now, descends from; "" for the root."""

    disks: Disks
    snapshots: Mapping[str, Snap] = field(default_factory=dict)
    head: str = ""
    created: int = 0

    def create(self, name: str, description: str = "") -> Model | ErrorCase:
        if name in self.snapshots:
            return ErrorCase.NAME_TAKEN
        new = Snap(self.head, self.created, dict(self.disks), description)
        return replace(self, snapshots={**self.snapshots, name: new}, head=name, created=self.created + 1)

    def write(self, target: str, first: int, count: int, pattern: int) -> Model:
        """Fill ``count`` blocks of a disk from block ``first`` on; what lies behind its end is not written."""
        old = self.disks[target]
        end = min(first + count, len(old))
        return replace(self, disks={**self.disks, target: (*old[:first], *[pattern] * (end - first), *old[end:])})

    def modify(self, name: str, description: str) -> Model | ErrorCase:
        if name not in self.snapshots:
            return ErrorCase.SNAPSHOT_UNKNOWN
        changed = replace(self.snapshots[name], description=description)
        return replace(self, snapshots={**self.snapshots, name: changed})

    def rollback(self, name: str) -> Model | ErrorCase:
        if name not in self.snapshots:
            return ErrorCase.SNAPSHOT_UNKNOWN
        return replace(self, disks=dict(self.snapshots[name].disks), head=name)

    def rollback_disks(self, name: str, targets: Iterable[str]) -> Model | ErrorCase:
        """Only the disks' contents go back; the tree's head stays."""
        if name not in self.snapshots:
            return ErrorCase.SNAPSHOT_UNKNOWN
        return replace(self, disks={**self.disks, **{t: self.snapshots[name].disks[t] for t in targets}})

    def delete(self, name: str) -> Model | ErrorCase:
        """What stood on it stands on its parent, the head too."""
        if name not in self.snapshots:
            return ErrorCase.SNAPSHOT_UNKNOWN
        if len(self.children(name)) > 1:
            return ErrorCase.SNAPSHOT_HAS_CHILDREN
        parent = self.snapshots[name].parent
        left = {
            other: replace(snap, parent=parent) if snap.parent == name else snap
            for other, snap in self.snapshots.items()
            if other != name
        }
        return replace(self, snapshots=left, head=parent if self.head == name else self.head)

    def children(self, name: str) -> list[str]:
        """The snapshots on this one, oldest first."""
        return sorted(
            (other for other, snap in self.snapshots.items() if snap.parent == name),
            key=lambda other: self.snapshots[other].number,
        )

    def parents(self) -> dict[str, str]:
        """The tree's ``Parents``, the head included."""
        return {**{name: snap.parent for name, snap in self.snapshots.items()}, "head": self.head}

    def tree(self) -> dict[str, list[str]]:
        """The tree's ``Children``, as lists: the root, and every snapshot that anything stands on; the head is last."""
        found = {name: self.children(name) for name in ("", *self.snapshots)}
        found[self.head] = [*found[self.head], "head"]
        return {name: below for name, below in found.items() if below or not name}


@lru_cache(maxsize=256)
def raw(contents: Contents) -> bytes:
    """The contents as the disk's bytes."""
    return b"".join(bytes([pattern]) * BLOCK_BYTES for pattern in contents)
