"""Where the snapshots of a tree stand when it is drawn. Pure: the console, ``tree.svg`` and the terminal draw the same.

A tree is drawn in lanes: a snapshot stands one step (``depth``) behind its parent, and its *main* child goes on in its own
lane; every other child begins a lane of its own. The main child is the one that leads to now, else the oldest. So what led
to the current state is one straight line, and a side branch is one that leaves it.

A long straight run may be folded into one item that says how many snapshots it stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from stillframe.domain.tree import Node

NOW = "now"  # the key of the current state, which hangs under the snapshot that it descends from
FOLD_LEAST = 4  # shorter runs take hardly more room than what would stand for them


@dataclass(frozen=True)
class Item:
    """What is drawn at one place.

    ``key``: the first snapshot's uuid, or ``NOW``. ``uuids``: the snapshots that it stands for, oldest first: one, more for a
    folded run, none for the current state. ``parent``: the key of the item that it hangs under, "" for a root. ``order`` is
    its line from the top where every item has a line: side branches before what goes on in the lane.
    """

    key: str
    uuids: tuple[str, ...]
    parent: str
    depth: int
    lane: int
    order: int

    @property
    def is_folded(self) -> bool:
        return len(self.uuids) > 1


@dataclass(frozen=True)
class Layout:
    """Every item, parents before children, in the order of lanes and depth from left to right."""

    items: tuple[Item, ...]
    lanes: int
    depth: int  # of the deepest, plus one

    def in_lines(self) -> tuple[Item, ...]:
        """From top to bottom, for who gives each item a line."""
        return tuple(sorted(self.items, key=lambda item: item.order))


def lay_out(
    nodes: Sequence[Node], head_uuid: str | None, *, fold: bool = False, opened: Collection[str] = ()
) -> Layout:
    """Lay out a VM's snapshots and its current state.

    ``fold``: straight runs of at least ``FOLD_LEAST`` snapshots become one item each. What has another number of children
    than one, the first behind a branching, and the one that now descends from are in no run. ``opened``: the keys of runs
    that are not folded.

    Raises:
        KeyError: the head is not among ``nodes``.
    """
    grown = _Grown(nodes, head_uuid)
    runs = _runs(grown, opened) if fold else {}
    return _placed(grown, runs)


class _Grown:
    """The tree with its current state in it, children with the main one first."""

    def __init__(self, nodes: Sequence[Node], head_uuid: str | None) -> None:
        self.head = head_uuid or ""
        self.parent = {node.uuid: node.parent_uuid or "" for node in nodes}
        if self.head and self.head not in self.parent:
            raise KeyError(self.head)
        self.children: dict[str, list[str]] = {}
        for node in sorted(nodes, key=lambda one: one.seq):
            self.children.setdefault(node.parent_uuid or "", []).append(node.uuid)
        self.children.setdefault(self.head, []).append(NOW)
        self.parent[NOW] = self.head
        for uuid in self._way_to_now():
            siblings = self.children[self.parent[uuid]]
            siblings.remove(uuid)
            siblings.insert(0, uuid)

    def _way_to_now(self) -> Iterator[str]:
        uuid = NOW
        while uuid:
            yield uuid
            uuid = self.parent[uuid]

    def below(self, uuid: str) -> list[str]:
        return self.children.get(uuid, [])


def _runs(grown: _Grown, opened: Collection[str]) -> dict[str, tuple[str, ...]]:
    """First snapshot -> all of a run that is folded."""

    def is_plain(uuid: str) -> bool:
        above = grown.parent[uuid]
        return (
            uuid not in (NOW, grown.head)
            and above != ""
            and len(grown.below(uuid)) == 1
            and len(grown.below(above)) == 1
        )

    runs: dict[str, tuple[str, ...]] = {}
    for uuid, above in grown.parent.items():
        if not is_plain(uuid) or is_plain(above or NOW):
            continue  # in the middle of a run, or in none
        run = [uuid]
        while is_plain(following := grown.below(run[-1])[0]):
            run.append(following)
        if len(run) >= FOLD_LEAST and uuid not in opened:
            runs[uuid] = tuple(run)
    return runs


def _placed(grown: _Grown, runs: dict[str, tuple[str, ...]]) -> Layout:
    below: dict[str, list[str]] = {}  # by key
    stands_for: dict[str, tuple[str, ...]] = {}
    places: dict[str, tuple[str, int, int]] = {}  # parent, depth, lane
    lane = -1
    # a stack instead of recursion: a tree may be one run of thousands
    todo: list[tuple[str, str, int, int | None]] = [(root, "", 0, None) for root in reversed(grown.below(""))]
    while todo:
        key, parent, depth, inherited = todo.pop()
        if inherited is None:
            lane += 1
        stands_for[key] = () if key == NOW else runs.get(key, (key,))
        places[key] = (parent, depth, lane)
        below.setdefault(parent, []).append(key)
        following = grown.below(stands_for[key][-1]) if stands_for[key] else []
        # the main child comes out of the stack next, and goes on in this lane
        todo += [
            (child, key, depth + 1, None if number else lane) for number, child in reversed(list(enumerate(following)))
        ]
    lines = _lines(below)
    items = tuple(Item(key, stands_for[key], *place, order=lines[key]) for key, place in places.items())
    return Layout(items, lane + 1, 1 + max((item.depth for item in items), default=-1))


def _lines(below: dict[str, list[str]]) -> dict[str, int]:
    """Key -> its line: side branches stand between a snapshot and what goes on in its lane."""
    lines: dict[str, int] = {}
    todo = list(reversed(below.get("", [])))
    while todo:
        key = todo.pop()
        lines[key] = len(lines)
        main, sides = below.get(key, [])[:1], below.get(key, [])[1:]
        todo += main + sides[::-1]
    return lines


def graph(layout: Layout) -> list[tuple[str, str, Item]]:
    """Each item's line as (what stands before its mark, what stands between this line and the next, item).

    The graph's columns are side branches: one goes to the right for each that was taken on the way.
    """
    below: dict[str, list[Item]] = {}
    for item in layout.items:
        below.setdefault(item.parent, []).append(item)
    drawn: list[tuple[str, str, Item]] = []
    roots = below.get("", [])
    # (item, before its mark, before what hangs under it)
    todo = [(root, "", "") for root in reversed(roots)]
    while todo:
        item, before, margin = todo.pop()
        children = below.get(item.key, [])
        # while the lane goes on below its side branches a line leads past them
        sides = children[1:]
        drawn.append((before, margin, item))
        if children:
            todo.append((children[0], margin, margin))
        todo.extend((side, f"{margin}├─", f"{margin}│ ") for side in reversed(sides))
    return drawn
