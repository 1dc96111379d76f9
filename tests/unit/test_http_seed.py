"""The seed's own example requests, sent literally; the answers have its examples' fields, order, types and nulls."""

from __future__ import annotations

from typing import Any

import pytest

from support.http_door import DoorClient, a_snapshot, as_envelope
from support.seed_samples import EMPTY, GETS, LIST, POSTS, SERVER, SINGLE, TREE

CALLS = "/v1/compute/vsd/snapshot"
SAMPLES = {"list": LIST, "get": SINGLE, "tree": TREE, "head": SINGLE, "rollback": SINGLE}  # the others' is EMPTY


def in_order(value: Any) -> Any:
    """Objects as lists of pairs, so that a comparison sees the order of the fields too."""
    if isinstance(value, dict):
        return [(key, in_order(field)) for key, field in value.items()]
    return [in_order(field) for field in value] if isinstance(value, list) else value


@pytest.mark.parametrize("call", GETS)
def test_the_seeds_gets(call: str) -> None:
    envelope, expected = as_envelope(DoorClient().request("GET", GETS[call].removeprefix(SERVER))), SAMPLES[call]
    if call == "tree":  # nodes are keys of a map there: their order is no promise
        assert envelope == expected
        assert list(envelope["data"]["tree"]) == list(expected["data"]["tree"])
    else:
        assert in_order(envelope) == in_order(expected)


@pytest.mark.parametrize("call", POSTS)
def test_the_seeds_posts(call: str) -> None:
    envelope = DoorClient().post_raw(f"{CALLS}/{call}", POSTS[call].encode())
    assert in_order(envelope) == in_order(SAMPLES.get(call, EMPTY))


def test_chinese_is_sent_as_utf8() -> None:
    door = DoorClient()
    door.stub.outcomes["get_snapshot"] = a_snapshot(name="升级前")
    raw = door.request("GET", GETS["get"].removeprefix(SERVER)).content
    assert "升级前".encode() in raw
    assert "成功".encode() in raw
