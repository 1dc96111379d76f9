"""What to do with layers that nobody refers to: examples, and every tree that hypothesis can think of."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.domain.layers import Act, Costs, Drop, Layer, Merge, Pull, chain, plan_collection


def layer(uuid: str, parent: str | None = None, *, foreign: bool = False) -> Layer:
    return Layer(uuid, "volume", parent, f"/images/{uuid}", "qcow2", foreign)


BASE, A, B, C = layer("base", foreign=True), layer("a", "base"), layer("b", "a"), layer("c", "b")


# --- examples


def test_a_chain_is_topmost_first() -> None:
    assert chain([BASE, A, B, C], "b") == (B, A, BASE)
    with pytest.raises(KeyError):
        chain([B], "b")


def test_nothing_is_done_when_every_layer_is_referred_to() -> None:
    assert plan_collection([], []) == ()
    assert plan_collection([BASE, A, B], ["base", "a", "b"]) == ()


def test_a_layer_without_children_is_dropped() -> None:
    assert plan_collection([BASE, A, B], ["base", "a"]) == (Drop(B),)


def test_a_whole_branch_is_dropped_from_its_tip() -> None:
    assert plan_collection([BASE, A, B, C], ["base"]) == (Drop(C), Drop(B), Drop(A))


def test_a_layer_with_one_child_takes_its_data() -> None:
    assert plan_collection([BASE, A, B], ["base", "b"]) == (Merge(top=B, base=A, children=()),)


def test_children_of_the_merged_layer_are_named() -> None:
    other = layer("d", "b")
    assert plan_collection([BASE, A, B, C, other], ["base", "b", "c", "d"]) == (
        Merge(top=B, base=A, children=(C, other)),
    )


def test_a_run_of_loose_layers_ends_in_one() -> None:
    assert plan_collection([BASE, A, B, C], ["c"]) == (
        Merge(top=A, base=BASE, children=(B,)),
        Merge(top=replace(B, parent_uuid="base"), base=BASE, children=(C,)),
        Merge(top=replace(C, parent_uuid="base"), base=BASE, children=()),
    )


def test_a_shared_layer_is_kept_until_one_child_is_left() -> None:
    other = layer("d", "a")
    assert plan_collection([BASE, A, B, other], ["base", "b", "d"]) == ()
    assert plan_collection([BASE, A, B, other], ["base", "b"]) == (Drop(other), Merge(top=B, base=A, children=()))


# --- which way a merge goes


def costs(closed: tuple[str, ...] = (), **occupied: int) -> Costs:
    return Costs(occupied, closed)


def test_the_smaller_layer_goes_up_into_its_child() -> None:
    assert plan_collection([BASE, A, B], ["base", "b"], costs(a=1, b=2)) == (Pull(top=B, base=A, parent=BASE),)


@pytest.mark.parametrize(
    "ground",
    [
        costs(a=2, b=1),
        costs(a=2, b=2),
        costs(a=1),
        costs(b=2),
        costs(("b",), a=1, b=2),
    ],
    ids=["larger", "as large", "child's size unknown", "own size unknown", "the child can take nothing"],
)
def test_otherwise_the_child_goes_down(ground: Costs) -> None:
    assert plan_collection([BASE, A, B], ["base", "b"], ground) == (Merge(top=B, base=A, children=()),)


def test_what_lies_in_the_users_own_file_stays_in_it() -> None:
    assert plan_collection([BASE, A], ["a"], costs(base=1, a=2)) == (Merge(top=A, base=BASE, children=()),)
    foreign = replace(A, foreign=True)
    assert plan_collection([BASE, foreign, B], ["base", "b"], costs(a=1, b=2)) == (
        Merge(top=B, base=foreign, children=()),
    )


def test_what_was_merged_weighs_on_the_next_decision() -> None:
    """What was merged holds both, at most."""
    chain_of_four = [BASE, A, B, C]
    assert plan_collection(chain_of_four, ["base", "c"], costs(a=2, b=3, c=4)) == (
        Pull(top=B, base=A, parent=BASE),
        Merge(top=C, base=replace(B, parent_uuid="base"), children=()),
    )
    assert plan_collection(chain_of_four, ["base", "c"], costs(a=3, b=2, c=6)) == (
        Merge(top=B, base=A, children=(C,)),
        Pull(top=replace(C, parent_uuid="a"), base=A, parent=BASE),
    )


# --- every tree


@dataclass
class World:
    """Layers with contents (block -> value), and references: each knows which layer it means at the moment."""

    layers: dict[str, Layer]
    contents: dict[str, dict[int, int]]
    references: dict[str, str]
    costs: Costs

    def read(self, uuid: str) -> dict[int, int]:
        blocks: dict[int, int] = {}
        for part in reversed(chain(self.layers.values(), uuid)):
            blocks |= self.contents[part.uuid]
        return blocks

    def readable(self) -> dict[str, dict[int, int]]:
        return {reference: self.read(uuid) for reference, uuid in self.references.items()}

    def children(self, uuid: str) -> set[str]:
        return {child.uuid for child in self.layers.values() if child.parent_uuid == uuid}

    def is_loose(self, uuid: str) -> bool:
        return uuid not in self.references.values()

    def plan(self) -> tuple[Act, ...]:
        """With what was merged so far in the sizes."""
        return plan_collection(list(self.layers.values()), set(self.references.values()), self.costs)

    def do(self, act: Act) -> Iterator[str]:
        """The act as the adapters do it, stopping wherever a crash could."""
        if isinstance(act, Drop):
            assert self.is_loose(act.layer.uuid)
            assert self.children(act.layer.uuid) == set()
            assert self.layers.pop(act.layer.uuid) == act.layer
            yield "dropped"
            return
        top, base = act.top.uuid, act.base.uuid
        assert (self.layers[top], self.layers[base]) == (act.top, act.base)
        assert act.top.parent_uuid == base
        assert self.is_loose(base), "somebody reads the base itself"
        assert self.children(base) == {top}, "somebody else backs on the base"
        if isinstance(act, Pull):
            yield from self.pull(act)
            return
        assert self.children(top) == {child.uuid for child in act.children}
        for block, value in self.contents[top].items():
            self.contents[base][block] = value
            yield "a block was committed"
        for child in act.children:
            self.layers[child.uuid] = replace(self.layers[child.uuid], parent_uuid=base)
            yield "a child was moved"
        self.references = {name: base if uuid == top else uuid for name, uuid in self.references.items()}
        yield "the references were moved"
        del self.layers[top]
        self.costs = merged(self.costs, base, top)
        yield "merged"

    def pull(self, act: Pull) -> Iterator[str]:
        top, base = act.top.uuid, act.base.uuid
        assert not act.base.foreign, "a file of the user's would be deleted"
        assert self.layers[act.parent.uuid] == act.parent
        assert act.base.parent_uuid == act.parent.uuid
        assert top not in self.costs.closed
        assert self.costs.occupied[base] < self.costs.occupied[top], "the other way would have copied less"
        for block, value in self.contents[base].items():
            if block not in self.contents[top]:
                self.contents[top][block] = value
                yield "a block was pulled"
        self.layers[top] = replace(act.top, parent_uuid=act.parent.uuid)
        yield "the child was moved"
        del self.layers[base]
        self.costs = merged(self.costs, top, base)
        yield "merged"


def merged(before: Costs, kept: str, gone: str) -> Costs:
    both = before.occupied.get(kept), before.occupied.get(gone)
    left = {uuid: size for uuid, size in before.occupied.items() if uuid not in (kept, gone)}
    if both[0] is not None and both[1] is not None:
        left[kept] = both[0] + both[1]
    return Costs(left, before.closed)


@st.composite
def worlds(draw: st.DrawFn) -> World:
    count = draw(st.integers(0, 9))
    names = draw(st.permutations([f"layer{at}" for at in range(count)]))
    blocks = st.dictionaries(st.integers(0, 4), st.integers(0, 9), max_size=4)
    layers: dict[str, Layer] = {}
    for at, name in enumerate(names):
        parent = draw(st.sampled_from([None, *names[:at]]))
        layers[name] = layer(name, parent, foreign=parent is None and draw(st.booleans()))
    order = draw(st.permutations(list(layers)))
    named = {uuid: layers[uuid] for uuid in order}  # the database's order is not the tree's
    referred = draw(st.lists(st.sampled_from(names), max_size=6)) if names else []
    return World(
        named,
        {uuid: draw(blocks) for uuid in named},
        {f"reference{at}": uuid for at, uuid in enumerate(referred)},
        Costs(
            {name: draw(st.integers(0, 9)) for name in names if draw(st.booleans())},
            [name for name in names if draw(st.booleans())],
        ),
    )


@given(worlds())
def test_no_act_changes_what_a_reference_reads(world: World) -> None:
    before = world.readable()
    for act in world.plan():
        for moment in world.do(act):
            assert world.readable() == before, f"{moment} in {act}"


@given(worlds())
def test_afterwards_every_layer_is_referred_to_or_shared(world: World) -> None:
    for act in world.plan():
        for _ in world.do(act):
            pass
    for uuid in world.layers:
        assert not world.is_loose(uuid) or len(world.children(uuid)) > 1
    assert world.plan() == ()


@given(worlds())
def test_planning_again_after_a_crash_goes_on_with_the_rest(world: World) -> None:
    plan = world.plan()
    for done, act in enumerate(plan, start=1):
        for _ in world.do(act):
            pass
        assert world.plan() == plan[done:]


@given(worlds())
def test_nothing_is_merged_that_could_have_been_dropped(world: World) -> None:
    kinds = [type(act) for act in world.plan()]
    assert kinds == sorted(kinds, key=lambda kind: kind is not Drop)
