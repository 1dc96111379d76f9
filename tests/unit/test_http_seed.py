"""The seed's own example requests, sent literally; the answers have its examples' fields, order, types and nulls."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.http_door import DoorClient, a_snapshot, as_envelope

# The JSON blocks below are the seed's, with their request; {"data": {}} of rollback is given as its text has it.
SINGLE = """
{
  "scode": 0,
  "desc": "",
  "message": "success",
  "message_cn": "成功",
  "stack": null,
  "data": {
    "tenant": "",
    "tenant_name": "",
    "namespace": "",
    "uuid": "60fe79cb-0fc7-4d78-a0d7-64b9a87b47d2",
    "compute_uuid": "b6b0e5b9-dacd-432b-9b83-c3e89799009d",
    "name": "origin",
    "description": "",
    "ctime": 1631166673,
    "vm_detail": null,
    "screenshot_url": "",
    "domain_remote_url": "",
    "disk_snapshot_list": [
      {
        "VolumeUuid": "3e8b046d-99a2-4a28-ba73-01c8af4d85e0",
        "SnapshotUuid": "25a949de-eaad-4f99-9bf8-b794578d8cfe",
        "DiskDrive": "sda"
      }
    ],
    "attr": null
  }
}
"""

EMPTY = """
{
  "scode": 0,
  "desc": "",
  "message": "success",
  "message_cn": "成功",
  "stack": null,
  "data": {}
}
"""

LIST = """
{
  "scode": 0,
  "desc": "",
  "message": "success",
  "message_cn": "成功",
  "stack": null,
  "data": {
    "list": [
      {
        "tenant": "",
        "tenant_name": "",
        "namespace": "",
        "uuid": "60fe79cb-0fc7-4d78-a0d7-64b9a87b47d2",
        "compute_uuid": "b6b0e5b9-dacd-432b-9b83-c3e89799009d",
        "name": "origin",
        "description": "",
        "ctime": 1631166673,
        "vm_detail": null,
        "screenshot_url": "",
        "screenshot_url_ssl": "",
        "domain_remote_url": "",
        "disk_snapshot_list": [
          {
            "VolumeUuid": "3e8b046d-99a2-4a28-ba73-01c8af4d85e0",
            "SnapshotUuid": "25a949de-eaad-4f99-9bf8-b794578d8cfe",
            "DiskDrive": "sda"
          }
        ],
        "attr": null
      }
    ],
    "total_count": 1
  }
}
"""

TREE = """
{
  "scode": 0,
  "desc": "",
  "message": "success",
  "message_cn": "成功",
  "stack": null,
  "data": {
    "tree": {
      "UUID": "b6b0e5b9-dacd-432b-9b83-c3e89799009d",
      "Parents": {
        "head": "origin",
        "origin": ""
      },
      "Children": {
        "": {
          "Children": [
            "origin"
          ]
        },
        "origin": {
          "Children": [
            "head"
          ]
        }
      }
    }
  }
}
"""

GETS = [
    (
        "/v1/compute/vsd/snapshot/list?cluster_uuid=650ea11b-b7fb-4269-8232-aa53865aab3b&tenant=a5badacf-a25c-4171-9aff-b619fc2d300a&compute_uuid=b6b0e5b9-dacd-432b-9b83-c3e89799009d&page_num=0&page_size=0&filter_name=",
        LIST,
    ),
    (
        "/v1/compute/vsd/snapshot/get?cluster_uuid=650ea11b-b7fb-4269-8232-aa53865aab3b&tenant=a5badacf-a25c-4171-9aff-b619fc2d300a&compute_uuid=b6b0e5b9-dacd-432b-9b83-c3e89799009d&name=origin",
        SINGLE,
    ),
    (
        "/v1/compute/vsd/snapshot/tree?cluster_uuid=650ea11b-b7fb-4269-8232-aa53865aab3b&compute_uuid=b6b0e5b9-dacd-432b-9b83-c3e89799009d&tenant=a5badacf-a25c-4171-9aff-b619fc2d300a",
        TREE,
    ),
    (
        "/v1/compute/vsd/snapshot/head?cluster_uuid=650ea11b-b7fb-4269-8232-aa53865aab3b&compute_uuid=b6b0e5b9-dacd-432b-9b83-c3e89799009d&tenant=a5badacf-a25c-4171-9aff-b619fc2d300a",
        SINGLE,
    ),
]

POSTS = [
    (
        "/v1/compute/vsd/snapshot/create",
        '{"cluster_uuid":"650ea11b-b7fb-4269-8232-aa53865aab3b","tenant":"a5badacf-a25c-4171-9aff-b619fc2d300a","compute_uuid":"b6b0e5b9-dacd-432b-9b83-c3e89799009d","compute_name":"test-templ","name":"temp","description":"","domain_memory":false}',
        EMPTY,
    ),
    (
        "/v1/compute/vsd/snapshot/modify",
        '{"cluster_uuid":"650ea11b-b7fb-4269-8232-aa53865aab3b","tenant":"a5badacf-a25c-4171-9aff-b619fc2d300a","compute_uuid":"b6b0e5b9-dacd-432b-9b83-c3e89799009d","compute_name":"test-templ","name":"temp","description":"desc"}',
        EMPTY,
    ),
    (
        "/v1/compute/vsd/snapshot/rollback",
        '{"cluster_uuid":"650ea11b-b7fb-4269-8232-aa53865aab3b","tenant":"a5badacf-a25c-4171-9aff-b619fc2d300a","compute_uuid":"b6b0e5b9-dacd-432b-9b83-c3e89799009d","compute_name":"test-templ","name":"origin","domain_memory":false}',
        SINGLE,
    ),
    (
        "/v1/compute/vsd/snapshot/delete",
        '{"cluster_uuid":"650ea11b-b7fb-4269-8232-aa53865aab3b","tenant":"a5badacf-a25c-4171-9aff-b619fc2d300a","compute_uuid":"b6b0e5b9-dacd-432b-9b83-c3e89799009d","compute_name":"test-templ","name":"temp"}',
        EMPTY,
    ),
]


def in_order(value: Any) -> Any:
    """Objects as lists of pairs, so that a comparison sees the order of the fields too."""
    if isinstance(value, dict):
        return [(key, in_order(field)) for key, field in value.items()]
    return [in_order(field) for field in value] if isinstance(value, list) else value


@pytest.mark.parametrize(("url", "sample"), GETS, ids=["list", "get", "tree", "head"])
def test_the_seeds_gets(url: str, sample: str) -> None:
    envelope = as_envelope(DoorClient().request("GET", url))
    expected = json.loads(sample)
    if sample is TREE:  # nodes are keys of a map there: their order is no promise
        assert envelope == expected
        assert list(envelope["data"]["tree"]) == list(expected["data"]["tree"])
    else:
        assert in_order(envelope) == in_order(expected)


@pytest.mark.parametrize(("url", "body", "sample"), POSTS, ids=["create", "modify", "rollback", "delete"])
def test_the_seeds_posts(url: str, body: str, sample: str) -> None:
    envelope = DoorClient().post_raw(url, body.encode())
    assert in_order(envelope) == in_order(json.loads(sample))


def test_chinese_is_sent_as_utf8() -> None:
    door = DoorClient()
    door.stub.outcomes["get_snapshot"] = a_snapshot(name="升级前")
    raw = door.request("GET", GETS[1][0]).content
    assert "升级前".encode() in raw
    assert "成功".encode() in raw
