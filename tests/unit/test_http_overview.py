"""The tree as people see it, through the door: what is answered, and the picture that stands for itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from lxml import etree

from stillframe.console.picture import Scene, draw
from stillframe.console.words import age, size
from stillframe.domain.errors import ErrorCase
from stillframe.domain.layout import lay_out
from stillframe.domain.snapshot import SnapshotCard
from stillframe.domain.tree import Node
from stillframe.operations.overview import Consequences
from support.http_door import (
    CLUSTER,
    NOW,
    SNAPSHOT,
    VM,
    DoorClient,
    an_overview,
    as_envelope,
    must_fail,
    refused,
)  # fmt: skip

OVERVIEW = "/v1/stillframe/vm/overview"
CONSEQUENCES = "/v1/stillframe/snapshot/consequences"
PICTURE = "/v1/compute/vsd/snapshot/tree.svg"
WHERE = {"cluster_uuid": CLUSTER, "compute_uuid": VM}
SVG = "{http://www.w3.org/2000/svg}"


@pytest.fixture
def door() -> DoorClient:
    return DoorClient()


def test_an_overview_has_the_tree_with_sizes_and_places(door: DoorClient) -> None:
    data = door.get(OVERVIEW, **WHERE)["data"]
    (snapshot,) = data["snapshots"]
    assert (snapshot["disk_bytes"], snapshot["parent"]) == (1 << 20, "")
    assert snapshot["screenshot_url"].split("?")[0].endswith(f"/{SNAPSHOT}.png")
    assert [(item["key"], item["depth"], item["lane"]) for item in data["items"]] == [(SNAPSHOT, 0, 0), ("now", 1, 0)]
    assert data["now"] == {"head": SNAPSHOT, "since": 1631166673, "changed_bytes": 1 << 16}
    assert data["total_bytes"] == snapshot["disk_bytes"] + snapshot["memory"]["bytes"]


def test_a_size_that_could_not_be_measured_is_null_and_said_so(door: DoorClient) -> None:
    unmeasured = replace(NOW, changed_bytes=None)
    door.stub.outcomes["overview"] = replace(an_overview(), now=unmeasured)
    door.stub.outcomes["consequences"] = Consequences(unmeasured, "origin", None, (), 0)
    assert door.get(OVERVIEW, **WHERE)["data"]["now"]["changed_bytes"] is None
    assert door.get(CONSEQUENCES, **WHERE, name="origin")["data"]["rollback"]["changed_bytes"] is None
    for language, words in (("en", "size not known"), ("zh", "大小未知")):
        assert words in door.request("GET", PICTURE, params={**WHERE, "language": language}).text


def test_folding_and_opening_arrive(door: DoorClient) -> None:
    door.get(OVERVIEW, **WHERE, fold="true", opened=f"{SNAPSHOT},{VM}")
    assert door.stub.asked[0][2:] == (True, frozenset({SNAPSHOT, VM}))


@pytest.mark.parametrize("opened", ["x", f"{SNAPSHOT},", ",".join([SNAPSHOT] * 201), SNAPSHOT.upper()])
def test_what_is_no_list_of_uuids_is_refused(door: DoorClient, opened: str) -> None:
    must_fail(door.get(OVERVIEW, **WHERE, opened=opened), ErrorCase.PARAMETER_MALFORMED)


def test_what_an_act_costs_is_told_before_it(door: DoorClient) -> None:
    data = door.get(CONSEQUENCES, **WHERE, name="origin")["data"]
    assert data["rollback"] == {"stands_on": "origin", "head": SNAPSHOT, "since": 1631166673, "changed_bytes": 1 << 16}
    assert data["delete"]["merges"] == [{"disk": "vda", "bytes": 1 << 20}]
    assert (data["delete"]["allowed"], data["delete"]["freed_bytes"]) == (True, 1 << 22)


def test_what_cannot_be_deleted_says_why(door: DoorClient) -> None:
    door.stub.outcomes["consequences"] = Consequences(
        NOW, "origin", refused(ErrorCase.SNAPSHOT_HAS_CHILDREN, "two"), (), 0
    )
    data = door.get(CONSEQUENCES, **WHERE, name="origin")["data"]["delete"]
    words = ErrorCase.SNAPSHOT_HAS_CHILDREN.value
    assert (data["allowed"], data["message"], data["desc"]) == (False, words.message, "two")
    assert data["message_cn"] == words.message_cn


# --- the picture ------------------------------------------------------------------------------------------------------


def test_the_picture_is_svg_that_loads_nothing(door: DoorClient) -> None:
    response = door.request("GET", PICTURE, params={**WHERE, "theme": "dark", "language": "zh"})
    assert response.headers["content-type"] == "image/svg+xml"
    assert response.headers["content-security-policy"] == "default-src 'none'; style-src 'unsafe-inline'"
    root = etree.fromstring(response.content)
    assert root.tag == f"{SVG}svg"
    assert {element.tag.removeprefix(SVG) for element in root.iter()} <= {
        "svg", "title", "style", "rect", "path", "g", "text", "circle"
    }  # fmt: skip
    assert "测试 的快照" in "".join(root.itertext())
    assert "url(" not in response.text


def test_a_refused_picture_is_an_envelope(door: DoorClient) -> None:
    door.stub.outcomes["overview"] = refused(ErrorCase.VM_UNKNOWN)
    must_fail(as_envelope(door.request("GET", PICTURE, params=WHERE)), ErrorCase.VM_UNKNOWN)
    must_fail(
        as_envelope(door.request("GET", PICTURE, params={**WHERE, "theme": "pink"})), ErrorCase.PARAMETER_MALFORMED
    )


def a_card(number: int, name: str = "", ctime: int = 0, **more: Any) -> SnapshotCard:
    fields: dict[str, Any] = {
        "uuid": f"u{number}", "seq": number, "name": name or f"s{number}", "description": "", "ctime": ctime,
        "parent_uuid": f"u{number - 1}" if number else None, "disk_bytes": 1536, "screenshot_checksum": "", "memory": None,
    }  # fmt: skip
    return SnapshotCard(**{**fields, **more})


def a_scene(*cards: SnapshotCard, fold: bool = False, name: str = "vm") -> Scene:
    nodes = [Node(card.uuid, card.name, card.parent_uuid, card.seq) for card in cards]
    head = cards[-1].uuid if cards else ""
    layout = lay_out(nodes, head or None, fold=fold)
    return Scene(name, layout, {card.uuid: card for card in cards}, head, 2048, is_running=True, at=7200)


@pytest.mark.parametrize("name", ['<script>"&', "a\x01b\ud800", "虚" * 128, "x" * 128, "\u202eabc", "]]>", "%s"])
def test_any_name_makes_a_picture_that_can_be_read(name: str) -> None:
    for language in ("en", "zh"):
        root = etree.fromstring(draw(a_scene(a_card(0, name), name=name), language=language).encode())
        shown = root.find(f"{SVG}g/{SVG}text")
        assert shown is not None
        assert len(shown.text or "") <= 20


def test_a_picture_says_ages_sizes_folds_and_an_empty_tree() -> None:
    words = "".join(etree.fromstring(draw(a_scene(*map(a_card, range(12)), fold=True)).encode()).itertext())
    assert "2 h ago · 1.5 KiB" in words
    assert "10 snapshots" in words
    assert "2.0 KiB changed" in words
    assert "no snapshot yet" in draw(a_scene())
    # what it descends from is gone, and others are there
    assert "2.0 KiB changed" in draw(replace(a_scene(a_card(0)), head=""))


def test_sizes_and_ages_are_said_by_their_largest_unit() -> None:
    assert [size(count) for count in (0, 1023, 1024, 1536, 1 << 20, (1 << 30) - 1, 5 << 40, 3 << 50)] == [
        "0 B", "1023 B", "1.0 KiB", "1.5 KiB", "1.0 MiB", "1.0 GiB", "5.0 TiB", "3072.0 TiB"
    ]  # fmt: skip
    assert [age(seconds, "en") for seconds in (-5, 59, 60, 3600, 86400 * 29, 86400 * 30, 86400 * 800)] == [
        "just now", "just now", "1 min ago", "1 h ago", "29 d ago", "1 mo ago", "2 y ago"
    ]  # fmt: skip
    assert age(7300, "zh") == "2 小时前"
