"""Layers apart from snapshots: which files make up a volume, and what to do when nobody refers to one.

A *layer* is one image file; it backs on its parent layer. Snapshots and heads refer to layers. A layer that nobody
refers to is dropped when it has no child, merged with its only child when it has one, and kept when it has more.
Everything here is pure: deciding is ours, doing is the adapters'.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
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


Act = Drop | Merge


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


def plan_collection(layers: Collection[Layer], referenced: Collection[str]) -> tuple[Act, ...]:
    """What has to be done so that every layer is referred to or shared; in an order that is safe one by one.

    ``referenced`` holds the uuids that snapshots and heads refer to. Drops come before merges, so that no bytes are
    merged that could have been dropped.
    """
    held = {layer.uuid: layer for layer in layers}
    refs = set(referenced)
    acts: list[Act] = []
    while True:
        act = _next_act(held, refs)
        if act is None:
            return tuple(acts)
        acts.append(act)
        held, refs = _after(act, held, refs)


def _children(held: dict[str, Layer], uuid: str) -> tuple[Layer, ...]:
    return tuple(layer for layer in held.values() if layer.parent_uuid == uuid)


def _next_act(held: dict[str, Layer], refs: set[str]) -> Act | None:
    loose = [layer for layer in held.values() if layer.uuid not in refs]
    for layer in loose:
        if not _children(held, layer.uuid):
            return Drop(layer)
    for layer in loose:
        children = _children(held, layer.uuid)
        if len(children) == 1:
            top = children[0]
            return Merge(top=top, base=layer, children=_children(held, top.uuid))
    return None


def _after(act: Act, held: dict[str, Layer], refs: set[str]) -> tuple[dict[str, Layer], set[str]]:
    if isinstance(act, Drop):
        return {k: v for k, v in held.items() if k != act.layer.uuid}, refs
    left = {k: v for k, v in held.items() if k != act.top.uuid}
    for child in act.children:
        left[child.uuid] = replace(child, parent_uuid=act.base.uuid)
    return left, {act.base.uuid if r == act.top.uuid else r for r in refs}
