"""The tree of a VM's snapshots, in the seed's shape: names as nodes, ``head`` as the running state."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import NamedTuple

HEAD = "head"
ROOT = ""


class Node(NamedTuple):
    """One snapshot as the tree needs it. ``seq`` orders siblings by creation."""

    uuid: str
    name: str
    parent_uuid: str | None
    seq: int


@dataclass(frozen=True)
class ChildNames:
    """The seed's ``{"Children": [name, …]}``."""

    Children: list[str]  # the wire's own spelling


@dataclass(frozen=True)
class SnapshotTree:
    """The seed's VirtualMachineSnapshotTree."""

    UUID: str  # the wire's own spelling
    Parents: dict[str, str]  # the wire's own spelling
    Children: dict[str, ChildNames]  # the wire's own spelling


def build_tree(vm_uuid: str, nodes: Sequence[Node], head_uuid: str | None) -> SnapshotTree:
    """The tree with ``head`` hung under the snapshot that the VM's state descends from.

    ``Parents`` has one entry per snapshot plus ``head``; ``Children`` has the root ``""`` and every node that has
    children, in order of creation with ``head`` last; nodes without children are absent.

    Raises:
        KeyError: a parent or the head is not among ``nodes``.
    """
    name_of = {uuid: name for uuid, name, _parent_uuid, _seq in nodes}
    parents: dict[str, str] = {}
    children: dict[str, list[str]] = {ROOT: []}
    for _uuid, name, parent_uuid, _seq in sorted(nodes, key=attrgetter("seq")):
        parent = ROOT if parent_uuid is None else name_of[parent_uuid]
        parents[name] = parent
        below = children.get(parent)
        if below is None:
            children[parent] = [name]
        else:
            below.append(name)
    parent = ROOT if head_uuid is None else name_of[head_uuid]
    parents[HEAD] = parent
    children.setdefault(parent, []).append(HEAD)
    return SnapshotTree(vm_uuid, parents, {name: ChildNames(below) for name, below in children.items()})
