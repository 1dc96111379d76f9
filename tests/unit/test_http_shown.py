"""Answers about snapshots and trees are, byte for byte, what the documented models would have written."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
from typing import Any

import pytest
from fastapi import Response
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from stillframe.domain.snapshot import CaptureMode, DiskSnapshot, MemoryState, MemoryStatus, ShownSnapshot
from stillframe.domain.tree import Node, build_tree
from stillframe.http.answers import (
    DiskSnapshotInfo,
    GetVsdSnapshotResponse,
    SnapshotListData,
    SnapshotRow,
    SnapshotTreeData,
)
from stillframe.http.envelope import EmptyData, EnvelopeResponse, Success
from stillframe.http.links import Links, SignerWhenNeeded
from stillframe.http.shown import head_answer, list_answer, snapshot_answer, tree_answer
from stillframe.operations.links import LinkSigner
from stillframe.operations.requests import SnapshotPage
from support.http_door import a_memory, a_snapshot, an_info

SIGNER = LinkSigner(b"secret", 1700000000)
PLAIN, TLS = Links("http://here", SIGNER), Links("https://here", SIGNER)
# what clients may write and what the database may give back: control characters, quotes, lone surrogates
TEXTS = st.text(st.characters() | st.sampled_from('\x00\x1a\x1f\x7f"\\/\b\u2028\ud800\udfff快😀'))
# a ComputeInspectInfo has no fractions, and integers of 64 bits
DETAILS = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | TEXTS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=10,
)
MEMORIES = st.builds(
    MemoryState,
    *(TEXTS, TEXTS, st.sampled_from(MemoryStatus), st.sampled_from(CaptureMode)),
    *(st.integers(0, 100), st.integers(0, 2**63 - 1), TEXTS, TEXTS),
)
SNAPSHOTS = st.builds(
    ShownSnapshot,
    *(TEXTS, TEXTS, TEXTS, TEXTS, st.integers(0, 2**63 - 1), TEXTS, TEXTS, TEXTS),
    screenshot_checksum=st.sampled_from(["", "blake3:0"]),
    operation_uuid=TEXTS,
    # written as create does, or as it did before
    vm_detail=st.just("")
    | st.builds(
        lambda detail, separators: json.dumps(detail, ensure_ascii=False, separators=separators),
        DETAILS,
        st.sampled_from([None, (",", ":")]),
    ),
    disks=st.lists(st.builds(DiskSnapshot, TEXTS, TEXTS, TEXTS, TEXTS), max_size=3).map(tuple),
    memory=st.none() | MEMORIES,
)


def modelled(data: BaseModel) -> EnvelopeResponse:
    return EnvelopeResponse(Success[Any](data=data))


def fields(snapshot: ShownSnapshot, links: Links) -> dict[str, Any]:
    """What the models are made from."""
    memory = snapshot.memory
    attr: dict[str, str] = {"operation_uuid": snapshot.operation_uuid} if snapshot.operation_uuid else {}
    if memory is not None:
        attr |= {
            "status": memory.status.value,
            "progress": str(memory.progress),
            "memory_uuid": memory.uuid,
            "memory_bytes": str(memory.size_bytes),
            "capture_mode": memory.mode.value,
            "checksum": memory.checksum,
        }
        attr |= {"reason": memory.reason} if memory.reason else {}
    return {
        **{name: getattr(snapshot, name) for name in ("tenant", "tenant_name", "namespace", "uuid")},
        "compute_uuid": snapshot.vm_uuid,
        **{name: getattr(snapshot, name) for name in ("name", "description", "ctime")},
        "vm_detail": json.loads(snapshot.vm_detail) if snapshot.vm_detail else None,
        "screenshot_url": links.screenshot(snapshot),
        "domain_remote_url": memory.location if memory and memory.status is not MemoryStatus.FAILED else "",
        "disk_snapshot_list": [
            DiskSnapshotInfo(VolumeUuid=disk.volume_uuid, SnapshotUuid=disk.uuid, DiskDrive=disk.target)
            for disk in snapshot.disks
        ],
        "attr": attr or None,
    }


def assert_same(answer: Response, expected: Response) -> None:
    assert answer.body == expected.body
    assert sorted(answer.raw_headers) == sorted(expected.raw_headers)
    assert answer.status_code == expected.status_code


@given(SNAPSHOTS)
def test_a_single_snapshot(snapshot: ShownSnapshot) -> None:
    expected = modelled(GetVsdSnapshotResponse(**fields(snapshot, PLAIN)))
    assert_same(snapshot_answer(snapshot, PLAIN), expected)
    assert_same(head_answer(snapshot, PLAIN), expected)


@given(st.lists(SNAPSHOTS, max_size=3), st.integers(0, 2**63 - 1), st.sampled_from([PLAIN, TLS]))
def test_a_list(snapshots: list[ShownSnapshot], total: int, links: Links) -> None:
    rows = [SnapshotRow(**fields(one, links), screenshot_url_ssl=links.screenshot_ssl(one)) for one in snapshots]
    expected = modelled(SnapshotListData(list=rows, total_count=total))
    assert_same(list_answer(SnapshotPage(tuple(snapshots), total), links), expected)


@given(st.lists(TEXTS, unique=True, max_size=5), st.integers(0, 5), TEXTS)
def test_a_tree(names: list[str], head: int, vm_uuid: str) -> None:
    nodes = [Node(str(n), name, str(n // 2) if n else None, n) for n, name in enumerate(names)]
    tree = build_tree(vm_uuid, nodes, str(head) if head < len(nodes) else None)
    assert_same(tree_answer(tree, PLAIN), modelled(SnapshotTreeData(tree=tree)))


def test_no_head() -> None:
    assert_same(head_answer(None, PLAIN), modelled(EmptyData()))


def test_the_detail_of_a_whole_machine() -> None:
    """As create stores it, and as it was stored by earlier versions."""
    for separators in (None, (",", ":")):
        detail = json.dumps(asdict(an_info()), ensure_ascii=False, separators=separators)
        snapshot = replace(a_snapshot(memory=a_memory()).shown, vm_detail=detail)
        assert_same(snapshot_answer(snapshot, PLAIN), modelled(GetVsdSnapshotResponse(**fields(snapshot, PLAIN))))


@pytest.mark.parametrize("torn", ["{", '{"a":1}}', "nothing"])
def test_a_detail_that_is_none_is_not_passed_on(torn: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|truncated"):
        snapshot_answer(replace(a_snapshot().shown, vm_detail=torn), PLAIN)


def test_the_secret_is_read_for_answers_with_links_alone() -> None:
    asked: list[int] = []

    def make() -> LinkSigner:
        asked.append(1)
        return SIGNER

    plain = a_snapshot().shown
    list_answer(SnapshotPage((plain, plain), 2), Links("http://here", SignerWhenNeeded(make)))
    assert asked == []
    pictured = replace(plain, screenshot_checksum="blake3:0")
    body = list_answer(SnapshotPage((pictured, plain, pictured), 3), Links("http://here", SignerWhenNeeded(make))).body
    assert asked == [1]
    assert body == list_answer(SnapshotPage((pictured, plain, pictured), 3), PLAIN).body
