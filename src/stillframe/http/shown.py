"""Snapshots on their way out: written once, straight to bytes, in the fields and the order that answers.py documents.

The models there are the document; a test holds every byte of these answers to what the models would have written.
"""

from __future__ import annotations

from typing import Any

import msgspec
from fastapi import Response

from stillframe.domain.snapshot import MemoryState, MemoryStatus, ShownSnapshot
from stillframe.domain.tree import SnapshotTree
from stillframe.http.links import Links
from stillframe.operations.requests import SnapshotPage

# Success of envelope.py up to its data
_BEFORE = '{"scode":0,"desc":"","message":"success","message_cn":"成功","stack":null,"data":'.encode()
_encode = msgspec.json.Encoder().encode


class _Disk(msgspec.Struct):
    VolumeUuid: str
    SnapshotUuid: str
    DiskDrive: str


class _Empty(msgspec.Struct):
    pass


class _Single(msgspec.Struct):
    """GetVsdSnapshotResponse."""

    tenant: str
    tenant_name: str
    namespace: str
    uuid: str
    compute_uuid: str
    name: str
    description: str
    ctime: int
    vm_detail: msgspec.Raw | None
    screenshot_url: str
    domain_remote_url: str
    disk_snapshot_list: list[_Disk]
    attr: dict[str, str] | None


class _Row(msgspec.Struct):
    """SnapshotRow, which has one field more, in the middle."""

    tenant: str
    tenant_name: str
    namespace: str
    uuid: str
    compute_uuid: str
    name: str
    description: str
    ctime: int
    vm_detail: msgspec.Raw | None
    screenshot_url: str
    screenshot_url_ssl: str
    domain_remote_url: str
    disk_snapshot_list: list[_Disk]
    attr: dict[str, str] | None


class _List(msgspec.Struct):
    list: list[_Row]
    total_count: int


class _Tree(msgspec.Struct):
    tree: SnapshotTree


class ShownResponse(Response):
    """An Output without an error, as ``EnvelopeResponse`` would send it: UTF-8, never cached, "?" for a lone surrogate."""

    media_type = "application/json"

    def __init__(self, data: msgspec.Struct) -> None:
        try:
            encoded = _encode(data)
        except UnicodeEncodeError:
            encoded = _encode(_sound(data))
        super().__init__(b"%b%b}" % (_BEFORE, encoded), headers={"Cache-Control": "no-store"})


def snapshot_answer(snapshot: ShownSnapshot, links: Links) -> ShownResponse:
    return ShownResponse(_Single(*_up_to_screenshot(snapshot, links), *_from_remote_url(snapshot)))


def head_answer(snapshot: ShownSnapshot | None, links: Links) -> ShownResponse:
    return ShownResponse(_Empty()) if snapshot is None else snapshot_answer(snapshot, links)


def list_answer(page: SnapshotPage, links: Links) -> ShownResponse:
    return ShownResponse(_List([_row(snapshot, links) for snapshot in page.snapshots], page.total_count))


def tree_answer(tree: SnapshotTree, _links: Links) -> ShownResponse:
    return ShownResponse(_Tree(tree))


def _row(snapshot: ShownSnapshot, links: Links) -> _Row:
    fields = (*_up_to_screenshot(snapshot, links), links.screenshot_ssl(snapshot), *_from_remote_url(snapshot))
    return _Row(*fields)


def _up_to_screenshot(snapshot: ShownSnapshot, links: Links) -> tuple[Any, ...]:
    return (
        *(snapshot.tenant, snapshot.tenant_name, snapshot.namespace, snapshot.uuid, snapshot.vm_uuid),
        *(snapshot.name, snapshot.description, snapshot.ctime, _detail(snapshot.vm_detail)),
        links.screenshot(snapshot),
    )


def _detail(text: str) -> msgspec.Raw | None:
    """As it was stored, without the spaces that it was stored with: nothing is made of it on the way."""
    return msgspec.Raw(msgspec.json.format(text.encode("utf-8", "replace"), indent=-1)) if text else None


def _from_remote_url(snapshot: ShownSnapshot) -> tuple[Any, ...]:
    memory = snapshot.memory
    return (
        memory.location if memory is not None and memory.status is not MemoryStatus.FAILED else "",
        [_Disk(disk.volume_uuid, disk.uuid, disk.target) for disk in snapshot.disks],
        _attr(snapshot) or None,
    )


def _attr(snapshot: ShownSnapshot) -> dict[str, str]:
    operation = {"operation_uuid": snapshot.operation_uuid} if snapshot.operation_uuid else {}
    return {**operation, **_attr_of_memory(snapshot.memory)} if snapshot.memory is not None else operation


def _attr_of_memory(memory: MemoryState) -> dict[str, str]:
    attr = {
        "status": memory.status.value,
        "progress": str(memory.progress),
        "memory_uuid": memory.uuid,
        "memory_bytes": str(memory.size_bytes),
        "capture_mode": memory.mode.value,
        "checksum": memory.checksum,
    }
    return {**attr, "reason": memory.reason} if memory.reason else attr


def _sound(value: Any) -> Any:
    """The same with "?" for what no UTF-8 can carry."""
    match value:
        case str():
            return value.encode("utf-8", "replace").decode("utf-8")
        case list():
            return [_sound(one) for one in value]
        case dict():
            return {_sound(key): _sound(one) for key, one in value.items()}
        case msgspec.Raw() | int() | None:
            return value
        case SnapshotTree():
            return _sound(msgspec.to_builtins(value))
        case _:
            return type(value)(*(_sound(one) for one in msgspec.structs.astuple(value)))
