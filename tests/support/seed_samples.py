"""The seed's examples, copied: requests as they are written there, answers parsed.

Source: the API document's "示例" of each call. Its rollback example shows ``"data": {}``; the text above it says
GetVsdSnapshotResponse, whose example is that of get.
"""

from __future__ import annotations

import json
from typing import Any

SERVER = "http://10.30.33.25:8080"
CLUSTER = "650ea11b-b7fb-4269-8232-aa53865aab3b"
TENANT = "a5badacf-a25c-4171-9aff-b619fc2d300a"
VM = "b6b0e5b9-dacd-432b-9b83-c3e89799009d"

GETS = {
    "list": "http://10.30.33.25:8080/v1/compute/vsd/snapshot/list?cluster_uuid=650ea11b-b7fb-4269-8232-aa53865aab3b&tenant=a5badacf-a25c-4171-9aff-b619fc2d300a&compute_uuid=b6b0e5b9-dacd-432b-9b83-c3e89799009d&page_num=0&page_size=0&filter_name=",
    "get": "http://10.30.33.25:8080/v1/compute/vsd/snapshot/get?cluster_uuid=650ea11b-b7fb-4269-8232-aa53865aab3b&tenant=a5badacf-a25c-4171-9aff-b619fc2d300a&compute_uuid=b6b0e5b9-dacd-432b-9b83-c3e89799009d&name=origin",
    "tree": "http://10.30.33.25:8080/v1/compute/vsd/snapshot/tree?cluster_uuid=650ea11b-b7fb-4269-8232-aa53865aab3b&compute_uuid=b6b0e5b9-dacd-432b-9b83-c3e89799009d&tenant=a5badacf-a25c-4171-9aff-b619fc2d300a",
    "head": "http://10.30.33.25:8080/v1/compute/vsd/snapshot/head?cluster_uuid=650ea11b-b7fb-4269-8232-aa53865aab3b&compute_uuid=b6b0e5b9-dacd-432b-9b83-c3e89799009d&tenant=a5badacf-a25c-4171-9aff-b619fc2d300a",
}

POSTS = {
    "create": '{"cluster_uuid":"650ea11b-b7fb-4269-8232-aa53865aab3b","tenant":"a5badacf-a25c-4171-9aff-b619fc2d300a","compute_uuid":"b6b0e5b9-dacd-432b-9b83-c3e89799009d","compute_name":"test-templ","name":"temp","description":"","domain_memory":false}',
    "modify": '{"cluster_uuid":"650ea11b-b7fb-4269-8232-aa53865aab3b","tenant":"a5badacf-a25c-4171-9aff-b619fc2d300a","compute_uuid":"b6b0e5b9-dacd-432b-9b83-c3e89799009d","compute_name":"test-templ","name":"temp","description":"desc"}',
    "rollback": '{"cluster_uuid":"650ea11b-b7fb-4269-8232-aa53865aab3b","tenant":"a5badacf-a25c-4171-9aff-b619fc2d300a","compute_uuid":"b6b0e5b9-dacd-432b-9b83-c3e89799009d","compute_name":"test-templ","name":"origin","domain_memory":false}',
    "delete": '{"cluster_uuid":"650ea11b-b7fb-4269-8232-aa53865aab3b","tenant":"a5badacf-a25c-4171-9aff-b619fc2d300a","compute_uuid":"b6b0e5b9-dacd-432b-9b83-c3e89799009d","compute_name":"test-templ","name":"temp"}',
}

_SINGLE = """
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

_LIST = """
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

_TREE = """
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

_EMPTY = """
{
  "scode": 0,
  "desc": "",
  "message": "success",
  "message_cn": "成功",
  "stack": null,
  "data": {}
}
"""

SINGLE: dict[str, Any] = json.loads(_SINGLE)
LIST: dict[str, Any] = json.loads(_LIST)
TREE: dict[str, Any] = json.loads(_TREE)
EMPTY: dict[str, Any] = json.loads(_EMPTY)
