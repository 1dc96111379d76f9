"""Every example request of the seed, sent literally to a live guest; answers compared with its examples field by field."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest

from integration.conftest import Take
from support import seed_samples
from support.service import SNAPSHOT, Service, Vm

# the fields in which a real answer says more than the seed's example, which has null there
MORE_THAN_NULL = tuple(f"{at}.{field}" for at in ("data", "data.list[]") for field in ("vm_detail", "attr"))
OUTER = ["scode", "desc", "message", "message_cn", "stack", "data"]


def compare(answer: Any, sample: Any, at: str = "") -> None:
    """Same keys in the same order, same JSON types, null where null is; an element of a list like the example's."""
    if at in MORE_THAN_NULL:
        assert isinstance(answer, dict), at
        return
    assert type(answer) is type(sample), f"{at}: {answer!r} is not like {sample!r}"
    if isinstance(sample, dict):
        assert list(answer) == list(sample), at
        for key in sample:
            compare(answer[key], sample[key], f"{at}.{key}".lstrip("."))
    if isinstance(sample, list):
        assert answer, at
        for element in answer:
            compare(element, sample[0], f"{at}[]")


class Sender:
    """Sends the seed's requests with our uuids in the places of its own."""

    def __init__(self, vm: Vm) -> None:
        self.service = vm.service
        cluster = self.service.get("/v1/stillframe/version")["cluster_uuid"]
        self._ours = {seed_samples.CLUSTER: cluster, seed_samples.VM: vm.uuid, seed_samples.SERVER: ""}

    def _fill(self, text: str) -> str:
        for theirs, ours in self._ours.items():
            text = text.replace(theirs, ours)
        return text

    def get(self, call: str) -> dict[str, Any]:
        return self.service.raw("GET", self._fill(seed_samples.GETS[call]))

    def post(self, call: str, **changes: str) -> dict[str, Any]:
        body = self._fill(seed_samples.POSTS[call])
        for theirs, ours in changes.items():
            assert f'"name":"{theirs}"' in body
            body = body.replace(f'"name":"{theirs}"', f'"name":"{ours}"')
        headers = {"Content-Type": "application/json"}
        return self.service.raw("POST", f"{SNAPSHOT}/{call}", content=body.encode(), headers=headers)


def outer(sample: dict[str, Any]) -> list[tuple[str, Any]]:
    """The envelope without its data, in order."""
    return [(key, value) for key, value in sample.items() if key != "data"]


@pytest.mark.guest
def test_every_example_of_the_seed_on_a_live_guest(take: Take) -> None:
    vm = take("one", boot=True)
    vm.post("/v1/stillframe/vm/assign", tenant=seed_samples.TENANT, tenant_name="研发", namespace_uuid="ns-1")
    seed = Sender(vm)
    assert seed.post("create", temp="origin") == seed_samples.EMPTY

    found = seed.get("list")
    assert outer(found) == outer(seed_samples.LIST)
    compare(found, seed_samples.LIST)
    assert found["data"]["total_count"] == 1
    single = seed.get("get")
    for answer in (single, seed.get("head")):
        assert outer(answer) == outer(seed_samples.SINGLE)
        compare(answer, seed_samples.SINGLE)
        assert answer == single
    row = {key: value for key, value in found["data"]["list"][0].items() if key != "screenshot_url_ssl"}
    assert row == single["data"]
    check_values(vm, single["data"])

    tree = seed.get("tree")
    assert list(tree) == OUTER
    assert list(tree["data"]["tree"]) == list(seed_samples.TREE["data"]["tree"])
    expected = json.loads(json.dumps(seed_samples.TREE).replace(seed_samples.VM, vm.uuid))
    assert tree == expected  # here the values count too, and the order of nodes is no promise

    for call in ("create", "modify"):
        answer = seed.post(call)
        assert answer == seed_samples.EMPTY
        assert list(answer) == OUTER
    assert vm.get("temp")["description"] == "desc"
    assert sorted(vm.names()) == ["origin", "temp"]
    assert vm.head()["name"] == "temp"
    assert seed.post("delete") == seed_samples.EMPTY
    assert seed.get("tree") == expected

    assert vm.state() == "running"
    answer = seed.post("rollback")
    compare(answer, seed_samples.SINGLE)
    assert answer == single
    assert vm.state() == "shutoff"
    assert seed.get("tree") == expected


def check_values(vm: Vm, data: dict[str, Any]) -> None:
    """What the fields say of this VM, and that ``vm_detail`` is a whole ComputeInspectInfo."""
    assert (data["tenant"], data["tenant_name"], data["namespace"]) == (seed_samples.TENANT, "研发", "ns-1")
    assert (data["compute_uuid"], data["name"], data["description"]) == (vm.uuid, "origin", "")
    assert (data["screenshot_url"], data["domain_remote_url"]) == ("", "")
    assert list(data["attr"]) == ["operation_uuid"]
    inspected = vm.inspect()
    (disk,) = data["disk_snapshot_list"]
    assert disk["DiskDrive"] == "vda"
    assert disk["VolumeUuid"] == inspected["disks"][0]["disk_vsd_source"]["volume_uuid"]
    detail = data["vm_detail"]
    document = vm.service.http.get("/openapi.json").json()
    schema = {"$ref": "#/components/schemas/ComputeInspectInfo", "components": document["components"]}
    jsonschema.Draft202012Validator(schema).validate(detail)
    assert list(detail) == list(inspected)
    assert (detail["uuid"], detail["state"], detail["mem_size"]) == (vm.uuid, "running", 128 << 20)
    assert detail["disks"][0]["disk_vsd_source"]["volume_uuid"] == disk["VolumeUuid"]


@pytest.mark.guest
def test_a_snapshot_with_memory_has_the_same_fields(take: Take) -> None:
    vm = take("one", boot=True)
    vm.create("origin", memory=True)
    data = vm.get("origin")
    assert list(data) == list(seed_samples.SINGLE["data"])
    assert all(isinstance(value, str) for value in data["attr"].values())
    assert data["domain_remote_url"].startswith("file:///")
    assert data["screenshot_url"].startswith(vm.service.url)
    assert data["attr"]["status"] == "available"
    assert data["attr"]["capture_mode"] == "background-snapshot"


def test_the_batch_answer_has_the_seeds_structure(take: Take) -> None:
    """volume/snapshot/rollback has no example; its text says BatchOutput in Output, about DiskSnapshotInfo."""
    vm = take("one")
    entry = vm.create("origin")["disk_snapshot_list"][0]
    bad = {**entry, "DiskDrive": "sdz"}
    wrong = vm.service.raw(
        "POST",
        "/v1/compute/volume/snapshot/rollback",
        json={"cluster_uuid": "", "compute_uuid": vm.uuid, "disk_snapshot_list": [bad]},
    )
    data = vm.post("/v1/compute/volume/snapshot/rollback", disk_snapshot_list=[entry])
    assert list(data) == ["success", "fail", "results"]
    (result,) = data["results"]
    assert list(result) == OUTER
    assert outer(result) == outer(seed_samples.EMPTY)
    assert list(result["data"]) == ["VolumeUuid", "SnapshotUuid", "DiskDrive"]
    assert result["data"] == entry
    assert outer(wrong) == outer(seed_samples.EMPTY)
    (failed,) = wrong["data"]["results"]
    assert list(failed) == OUTER
    assert failed["scode"] != 0
    assert failed["data"] == bad


def test_the_openapi_document_names_the_nine_calls(service: Service) -> None:
    paths = service.http.get("/openapi.json").json()["paths"]
    for call, method in (("list", "get"), ("get", "get"), ("tree", "get"), ("head", "get"), ("create", "post"),
                         ("modify", "post"), ("rollback", "post"), ("delete", "post")):  # fmt: skip
        assert method in paths[f"{SNAPSHOT}/{call}"]
    assert "post" in paths["/v1/compute/volume/snapshot/rollback"]
