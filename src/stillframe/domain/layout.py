"""Where the snapshots of a tree stand when it is drawn. Pure: the console, ``tree.svg`` and the terminal draw the same.

A tree is drawn in lanes: a snapshot stands one step (``depth``) behind its parent, and its *main* child goes on in its own
lane; every other child begins a lane of its own, the highest that is free all along. The main child is the one that leads to now, else the oldest. So what led
to the current state is one straight line, and a side branch is one that leaves it.

A long straight run may be folded into one item that says how many snapshots it stands for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, replace

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
    """Every item, from left to right and, of one depth, from top to bottom."""

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
    return _placed(_Hung(grown, runs))


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


@dataclass
class _Chain:
    """Items that go straight on, in one lane. ``bottom``: depth -> the lowest lane that is taken there, counted from its
    own, by it and all that leaves it.
    """

    depth: int
    keys: list[str]
    bottom: dict[int, int]
    sides: list[_Chain]
    lane: int = 0


class _Hung:
    """What is drawn and what it hangs under, by keys: what ``grown`` has, with its runs folded."""

    def __init__(self, grown: _Grown, runs: dict[str, tuple[str, ...]]) -> None:
        self._grown = grown
        self._runs = runs
        self.below: dict[str, list[str]] = {}
        self.parents: dict[str, str] = {}
        self.stands_for: dict[str, tuple[str, ...]] = {}

    def chains(self) -> tuple[list[_Chain], list[_Chain]]:
        """The roots' chains, and all: each before those that leave it."""
        self._hang("", self._grown.below(""))
        trunks = [self._grow(root, 0) for root in self.below[""]]
        found, seen = list(trunks), 0
        while seen < len(found):  # a loop instead of recursion: branches may leave branches a thousand times
            chain = found[seen]
            seen += 1
            for depth, key in enumerate(chain.keys, chain.depth + 1):
                chain.sides += [self._grow(side, depth) for side in self.below[key][1:]]
            found += chain.sides
        return trunks, found

    def _hang(self, parent: str, children: list[str]) -> None:
        self.below[parent] = children
        for child in children:
            self.parents[child] = parent
            self.stands_for[child] = () if child == NOW else self._runs.get(child, (child,))

    def _grow(self, key: str, depth: int) -> _Chain:
        keys, following = [], [key]
        while following:
            keys.append(following[0])
            uuids = self.stands_for[following[0]]
            following = self._grown.below(uuids[-1]) if uuids else []
            self._hang(keys[-1], following)
        return _Chain(depth, keys, dict.fromkeys(range(depth, depth + len(keys)), 0), [])


def _placed(hung: _Hung) -> Layout:
    trunks, chains = hung.chains()
    for chain in reversed(chains):
        # From the far end: what leaves the chain there begins behind what leaves it before, and may share its lane. What is
        # in its way lies above it, so no line from the chain down to a branch crosses anything. Of one snapshot's branches
        # the oldest is the highest.
        for side in sorted(chain.sides, key=lambda one: -one.depth):
            _settle(side, chain.bottom)
    ground: dict[int, int] = {}
    for trunk in trunks:
        _settle(trunk, ground, least=0)
    for chain in chains:
        for side in chain.sides:
            side.lane += chain.lane
    items = tuple(
        Item(key, hung.stands_for[key], hung.parents[key], chain.depth + position, chain.lane, order=0)
        for chain in chains
        for position, key in enumerate(chain.keys)
    )
    lines = _lines(hung.below)
    ordered = sorted(items, key=lambda item: (item.depth, item.lane))
    return Layout(
        tuple(replace(item, order=lines[item.key]) for item in ordered),
        1 + max((item.lane for item in items), default=-1),
        1 + max((item.depth for item in items), default=-1),
    )


def _settle(side: _Chain, bottom: dict[int, int], *, least: int = 1) -> None:
    """Give it the highest lane in which nothing that ``bottom`` knows of is in its way, and note what it takes."""
    side.lane = max([least, *(bottom[depth] + 1 for depth in side.bottom if depth in bottom)])
    for depth, lane in side.bottom.items():
        bottom[depth] = side.lane + lane


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
