"""Where snapshots stand when the tree is drawn: what led to now is one straight line, and nothing lies on anything."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.domain.layout import FOLD_LEAST, NOW, Item, Layout, graph, lay_out
from stillframe.domain.tree import Node


def nodes(**parents: str) -> list[Node]:
    """In the order in which they were made; "" is no parent."""
    return [Node(name, name, parent or None, number) for number, (name, parent) in enumerate(parents.items(), 1)]


def run(count: int, name: str = "n", parent: str | None = None, seq: int = 1) -> list[Node]:
    made = []
    for number in range(count):
        made.append(Node(f"{name}{number}", f"{name}{number}", parent, seq + number))
        parent = f"{name}{number}"
    return made


def places(layout: Layout) -> dict[str, tuple[int, int]]:
    return {item.key: (item.depth, item.lane) for item in layout.items}


def text(layout: Layout) -> list[str]:
    return [f"{before}{item.key}" for before, _, item in graph(layout)]


def test_what_led_to_now_is_one_lane_and_side_branches_lie_below() -> None:
    layout = lay_out(nodes(a="", b="a", c="b", d="b", e="a"), "d")
    assert places(layout) == {"a": (0, 0), "b": (1, 0), "d": (2, 0), NOW: (3, 0), "c": (2, 1), "e": (1, 1)}
    assert (layout.lanes, layout.depth) == (2, 4)
    assert text(layout) == ["a", "├─e", "b", "├─c", "d", NOW]


def test_without_a_way_to_now_the_oldest_child_goes_straight_on() -> None:
    layout = lay_out(nodes(a="", b="a", c="a", r=""), None)
    assert places(layout) == {NOW: (0, 0), "a": (0, 1), "b": (1, 1), "c": (1, 2), "r": (0, 2)}
    assert text(layout) == [NOW, "a", "├─c", "b", "r"]


def test_a_vm_without_snapshots_has_now_alone() -> None:
    assert lay_out([], None).items == (Item(NOW, (), "", 0, 0, 0),)


def test_side_branches_of_side_branches_go_further_to_the_right() -> None:
    layout = lay_out(nodes(a="", x="a", y="x", z="x", b="a"), "b")
    assert text(layout) == ["a", "├─x", "│ ├─z", "│ y", "b", NOW]


def test_a_head_that_is_no_snapshot_is_a_mistake() -> None:
    with pytest.raises(KeyError):
        lay_out(nodes(a=""), "b")


def test_branches_that_do_not_meet_share_a_lane() -> None:
    branches = [Node(f"b{n}", f"b{n}", f"n{n}", 100 + n) for n in (0, 2, 4)]
    layout = lay_out([*run(6), *branches], "n5")
    assert {item.lane for item in layout.items if item.key.startswith("b")} == {1}
    long = [*run(6), *run(3, "x", "n0", 10), *run(1, "y", "n2", 20), *run(1, "z", "n4", 30)]
    assert {key: lane for key, (_, lane) in places(lay_out(long, "n5")).items() if key[0] in "xyz"} == {
        "x0": 2, "x1": 2, "x2": 2, "y0": 1, "z0": 1
    }  # fmt: skip


def test_a_long_straight_run_is_folded_between_what_stays_visible() -> None:
    layout = lay_out(run(20), "n12", fold=True)
    assert [(item.key, len(item.uuids)) for item in layout.in_lines()] == [
        ("n0", 1), ("n1", 11), ("n12", 1), ("n13", 1), ("n14", 5), ("n19", 1), (NOW, 0)
    ]  # fmt: skip
    assert [len(item.uuids) for item in lay_out(run(20), "n12", fold=True, opened=["n1"]).in_lines()] == [
        *[1] * 14, 5, 1, 0
    ]  # fmt: skip
    assert all(not item.is_folded for item in lay_out(run(20), "n12").items)


def test_a_run_that_is_too_short_stays() -> None:
    for count in (FOLD_LEAST + 1, FOLD_LEAST + 2):
        folded = [item for item in lay_out(run(count), f"n{count - 1}", fold=True).items if item.is_folded]
        # the first and the one that now descends from are not part of a run
        assert len(folded) == (count - 2 >= FOLD_LEAST)


def test_a_run_of_thousands_needs_no_stack() -> None:
    layout = lay_out(run(5000), "n4999")
    assert (layout.lanes, layout.depth, len(graph(layout))) == (1, 5001, 5001)


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[Node], str | None]:
    count = draw(st.integers(0, 40))
    made: list[Node] = []
    for number in range(count):
        above = draw(st.integers(max(-1, number - 3), number - 1))
        made.append(Node(str(number), str(number), None if above < 0 else str(above), number))
    head = draw(st.sampled_from([None, *(node.uuid for node in made)]))
    return made, head


@given(trees(), st.booleans())
def test_every_tree_is_drawn_whole_and_nothing_lies_on_anything(
    tree: tuple[list[Node], str | None], fold: bool
) -> None:
    made, head = tree
    layout = lay_out(made, head, fold=fold)
    assert sorted(uuid for item in layout.items for uuid in item.uuids) == sorted(node.uuid for node in made)
    assert len(set(places(layout).values())) == len(layout.items)
    assert sorted(item.order for item in layout.items) == list(range(len(layout.items)))
    by_key = {item.key: item for item in layout.items}
    parent_of = {node.uuid: node.parent_uuid for node in made}
    straight = {item.parent for item in layout.items if item.parent and by_key[item.parent].lane == item.lane}
    for item in layout.items:
        assert item.depth < layout.depth
        assert item.lane < layout.lanes
        if item.parent:
            above = by_key[item.parent]
            assert (above.depth, above.order < item.order, above.lane <= item.lane) == (item.depth - 1, True, True)
            assert above.uuids[-1] == (head if item.key == NOW else parent_of[item.key])
            assert item.parent in straight, "one child of each goes straight on"
        assert all(parent_of[below] == above for above, below in zip(item.uuids, item.uuids[1:], strict=False))
    # an edge goes down between two columns: nothing goes straight on through it, and it lies on no other's
    edges = [(by_key[item.parent], item) for item in layout.items if item.parent]
    for above, item in edges:
        for other, below in edges:
            if other is above or below.depth != item.depth:
                continue
            assert not (other.lane == below.lane and above.lane < below.lane < item.lane), "it is crossed"
            apart = below.lane < above.lane or other.lane > item.lane
            assert apart or other.lane == below.lane or above.lane == item.lane, "two lines lie on each other"
    assert [item.order for _, _, item in graph(layout)] == list(range(len(layout.items)))


@given(trees())
def test_the_way_to_now_is_straight(tree: tuple[list[Node], str | None]) -> None:
    made, head = tree
    by_key = {item.key: item for item in lay_out(made, head).items}
    item = by_key[NOW]
    while item.parent:
        assert by_key[item.parent].lane == item.lane
        item = by_key[item.parent]
