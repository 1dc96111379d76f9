"""The tree in the seed's shape."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.domain.tree import ChildNames, Node, SnapshotTree, build_tree

VM = "11111111-2222-3333-4444-555555555555"


def children_of(tree: SnapshotTree) -> dict[str, list[str]]:
    return {name: below.Children for name, below in tree.Children.items()}


def test_a_vm_without_snapshots() -> None:
    assert build_tree(VM, [], None) == SnapshotTree(VM, {"head": ""}, {"": ChildNames(["head"])})


def test_a_line_of_snapshots_with_the_head_at_its_end() -> None:
    tree = build_tree(VM, [Node("1", "one", None, 1), Node("2", "two", "1", 2)], "2")
    assert tree.Parents == {"one": "", "two": "one", "head": "two"}
    assert children_of(tree) == {"": ["one"], "one": ["two"], "two": ["head"]}


def test_children_come_in_order_of_creation_and_the_head_last() -> None:
    nodes = [Node("3", "alpha", "1", 3), Node("1", "root", None, 1), Node("4", "omega", "1", 4), Node("2", "z", "1", 2)]
    tree = build_tree(VM, nodes, "1")
    assert children_of(tree) == {"": ["root"], "root": ["z", "alpha", "omega", "head"]}
    assert list(tree.Parents) == ["root", "z", "alpha", "omega", "head"]


def test_several_roots_and_a_head_without_a_snapshot() -> None:
    tree = build_tree(VM, [Node("1", "一", None, 1), Node("2", "二", None, 2)], None)
    assert tree.Parents == {"一": "", "二": "", "head": ""}
    assert children_of(tree) == {"": ["一", "二", "head"]}


def test_the_root_is_there_also_when_the_head_is_elsewhere() -> None:
    assert children_of(build_tree(VM, [Node("1", "one", None, 1)], "1"))[""] == ["one"]


@pytest.mark.parametrize(("parent", "head"), [("gone", None), (None, "gone")])
def test_a_parent_or_head_that_is_not_there_is_an_error(parent: str | None, head: str | None) -> None:
    with pytest.raises(KeyError):
        build_tree(VM, [Node("1", "one", parent, 1)], head)


@st.composite
def trees(draw: st.DrawFn) -> tuple[list[Node], str | None]:
    count = draw(st.integers(0, 12))
    nodes = [
        Node(str(at), f"snapshot {at}", draw(st.sampled_from([None, *map(str, range(at))])), at) for at in range(count)
    ]
    head = draw(st.sampled_from([None, *(node.uuid for node in nodes)]))
    return draw(st.permutations(nodes)), head


@given(trees())
def test_parents_and_children_say_the_same(case: tuple[list[Node], str | None]) -> None:
    nodes, head = case
    tree = build_tree(VM, nodes, head)
    assert set(tree.Parents) == {node.name for node in nodes} | {"head"}
    assert {(child, name) for name, below in children_of(tree).items() for child in below} == set(tree.Parents.items())
    assert sum(map(len, children_of(tree).values())) == len(tree.Parents)
    assert all(children_of(tree).values()), "a node without children is listed"
    seq = {node.name: node.seq for node in nodes} | {"head": len(nodes)}
    for below in children_of(tree).values():
        assert below == sorted(below, key=lambda name: seq[name])
