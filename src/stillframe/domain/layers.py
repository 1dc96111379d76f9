"""Layers apart from snapshots: which files make up a volume, and what to do when nobody refers to one.

A *layer* is one image file; it backs on its parent layer. Snapshots and heads refer to layers. A layer that nobody
refers to is dropped when it has no child, merged with its only child when it has one, and kept when it has more. A merge
goes the way that copies less: the child's data down into the layer, or the layer's up into the child.
Everything here is pure: deciding is ours, doing is the adapters'.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Layer:
    """One image file of a volume. ``foreign``: the user's own file, which may be written but never deleted by us."""

    uuid: str
    volume_uuid: str
    parent_uuid: str | None
    path: str
    format: str  # qcow2 | raw
    foreign: bool


@dataclass(frozen=True)
class Volume:
    """A disk of a VM through time. ``head_layer_uuid`` is the layer that the VM writes to, or wrote to last.

    ``directory`` is where the volume's own files are made: beside the file that was adopted.
    """

    uuid: str
    vm_uuid: str
    target: str
    head_layer_uuid: str
    directory: str


@dataclass(frozen=True)
class Drop:
    """Forget a layer that nobody refers to and nobody backs on; its file goes too unless it is foreign."""

    layer: Layer


@dataclass(frozen=True)
class Merge:
    """Commit ``top`` down into ``base``, its parent, which nobody else refers to.

    Afterwards ``base``'s file holds what ``top`` held: references to ``top`` mean ``base``, ``children`` (the layers
    that backed on ``top``) back on ``base``, and ``top``'s file goes.
    """

    top: Layer
    base: Layer
    children: tuple[Layer, ...]


@dataclass(frozen=True)
class Pull:
    """Copy what ``base``, which nobody else refers to, adds to ``parent`` up into ``top``, its only child.

    Afterwards ``top`` backs on ``parent``, base's parent, and ``base``'s file goes. What refers to ``top`` or backs on it
    stays as it is.
    """

    top: Layer
    base: Layer
    parent: Layer


Act = Drop | Merge | Pull


def chain(layers: Iterable[Layer], layer_uuid: str) -> tuple[Layer, ...]:
    """The layer and its ancestors, topmost first.

    Raises:
        KeyError: a uuid on the way is not among ``layers``.
    """
    by_uuid = {layer.uuid: layer for layer in layers}
    found: list[Layer] = []
    current: str | None = layer_uuid
    while current is not None:
        layer = by_uuid[current]
        found.append(layer)
        current = layer.parent_uuid
    return tuple(found)


@dataclass(frozen=True)
class Costs:
    """What decides which way a merge goes.

    ``occupied``: layer uuid -> the bytes of its file; a layer that is not in it is only ever merged downwards, and so is
    what stands on it. ``closed``: layers that can take nothing in from below.
    """

    occupied: Mapping[str, int]
    closed: Collection[str] = ()


_UNKNOWN = Costs({})


@dataclass(frozen=True)
class _Held:
    """The layers that there are at one point of a plan, what refers to them, and what they occupy at most."""

    layers: dict[str, Layer]
    refs: set[str]
    occupied: dict[str, int]

    def children(self, uuid: str) -> tuple[Layer, ...]:
        return tuple(layer for layer in self.layers.values() if layer.parent_uuid == uuid)


def plan_collection(layers: Collection[Layer], referenced: Collection[str], costs: Costs = _UNKNOWN) -> tuple[Act, ...]:
    """What has to be done so that every layer is referred to or shared; in an order that is safe one by one.

    ``referenced`` holds the uuids that snapshots and heads refer to. Drops come before merges, so that no bytes are
    merged that could have been dropped. Of two ways that copy the same, a merge goes down.
    """
    held = _Held({layer.uuid: layer for layer in layers}, set(referenced), dict(costs.occupied))
    acts: list[Act] = []
    while True:
        act = _next_act(held, costs.closed)
        if act is None:
            return tuple(acts)
        acts.append(act)
        held = _after(act, held)


def _next_act(held: _Held, closed: Collection[str]) -> Act | None:
    loose = [layer for layer in held.layers.values() if layer.uuid not in held.refs]
    for layer in loose:
        if not held.children(layer.uuid):
            return Drop(layer)
    for layer in loose:
        children = held.children(layer.uuid)
        if len(children) == 1:
            return _merge(held, layer, children[0], closed)
    return None


def _merge(held: _Held, base: Layer, top: Layer, closed: Collection[str]) -> Merge | Pull:
    # what a file of the user's holds must stay in it
    if base.parent_uuid is not None and not base.foreign and top.uuid not in closed:
        below, above = held.occupied.get(base.uuid), held.occupied.get(top.uuid)
        if below is not None and above is not None and below < above:
            return Pull(top=top, base=base, parent=held.layers[base.parent_uuid])
    return Merge(top=top, base=base, children=held.children(top.uuid))


def _after(act: Act, held: _Held) -> _Held:
    if isinstance(act, Drop):
        return replace(held, layers={k: v for k, v in held.layers.items() if k != act.layer.uuid})
    gone, kept = (act.base, act.top) if isinstance(act, Pull) else (act.top, act.base)
    left = {k: v for k, v in held.layers.items() if k != gone.uuid}
    occupied = dict(held.occupied)
    if gone.uuid in occupied and kept.uuid in occupied:
        occupied[kept.uuid] += occupied[gone.uuid]  # at most: the two may hold the same places
    else:
        occupied.pop(kept.uuid, None)
    if isinstance(act, Pull):
        left[kept.uuid] = replace(kept, parent_uuid=act.parent.uuid)
        return _Held(left, held.refs, occupied)
    for child in act.children:
        left[child.uuid] = replace(child, parent_uuid=kept.uuid)
    return _Held(left, {kept.uuid if ref == gone.uuid else ref for ref in held.refs}, occupied)
