"""The task calls at the door, and the header that names the operations of a call."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import asdict
from typing import Any
from uuid import uuid4

import httpx
import pytest

from stillframe.domain.errors import ErrorCase
from stillframe.http.door import SPARE_ACTING_THREADS
from stillframe.http.transport import OPERATIONS_MAX_NAMED
from stillframe.operations.requests import Caller
from stillframe.operations.tasks import TaskPage, TaskQuery, TaskState
from support.http_door import (
    ADMIN,
    ADMIN_KEY,
    CALLER,
    CLUSTER,
    OPERATION,
    TENANT,
    VM,
    DoorClient,
    a_snapshot,
    a_task,
    identified,
    must_fail,
    refused,
)

BASE = "/v1/compute/vsd/snapshot"
TASK = f"{BASE}/task"
OTHER = "11111111-2222-4333-8444-555555555555"


@pytest.fixture
def door() -> DoorClient:
    return DoorClient()


def test_a_page_of_tasks(door: DoorClient) -> None:
    door.stub.outcomes["list_tasks"] = TaskPage((a_task(), a_task(uuid=OTHER, time_left_s=None, ended_at=5)), OTHER)
    data = door.get(f"{TASK}/list")["data"]
    assert data["next"] == OTHER
    first, second = data["list"]
    assert first == {**asdict(a_task()), "state": "running"}
    assert list(first) == list(asdict(a_task()))
    assert (second["time_left_s"], second["ended_at"]) == (None, 5)
    assert door.stub.asked == [("list_tasks", TaskQuery())]


def test_every_filter_arrives(door: DoorClient) -> None:
    filters = {"cluster_uuid": CLUSTER, "compute_uuid": VM, "tenant": TENANT, "state": "finishing"}
    door.get(f"{TASK}/list", **filters, since=0, until=1700000000, after=OPERATION.upper(), limit=7)
    query = TaskQuery(CLUSTER, VM, TENANT, "finishing", 0, 1700000000, OPERATION, 7)
    assert door.stub.asked == [("list_tasks", query)]


@pytest.mark.parametrize(
    ("filters", "named"),
    [
        ({"limit": 0}, "limit: expected at least 1"),
        ({"limit": 1001}, "limit: expected at most 1000"),
        ({"limit": "many"}, "limit: expected an integer"),
        ({"state": "committed"}, "state: expected one of planning, running, cancelling"),
        ({"since": -1}, "since: expected at least 0"),
        ({"until": "yesterday"}, "until: expected an integer"),
        ({"after": "x"}, "after: expected a uuid"),
        ({"compute_uuid": "x"}, "compute_uuid: expected a uuid"),
    ],
)
def test_a_malformed_filter_is_named(door: DoorClient, filters: dict[str, Any], named: str) -> None:
    assert named in must_fail(door.get(f"{TASK}/list", **filters), ErrorCase.PARAMETER_MALFORMED)
    assert door.stub.asked == []


def test_one_task(door: DoorClient) -> None:
    assert door.get(f"{TASK}/get", uuid=OPERATION)["data"]["step"] == "await the capture"
    assert door.stub.asked == [("get_task", "", OPERATION)]
    must_fail(door.get(f"{TASK}/get"), ErrorCase.PARAMETER_MISSING)
    door.stub.outcomes["get_task"] = refused(ErrorCase.TASK_UNKNOWN)
    must_fail(door.get(f"{TASK}/get", uuid=OTHER), ErrorCase.TASK_UNKNOWN)


def test_cancelling(door: DoorClient) -> None:
    assert door.post(f"{TASK}/cancel", {"uuid": OPERATION})["data"]["state"] == TaskState.CANCELLING
    door.post(f"{TASK}/cancel", {"uuid": OPERATION, "cluster_uuid": CLUSTER})
    assert door.stub.asked == [("cancel_task", "", OPERATION, CALLER), ("cancel_task", CLUSTER, OPERATION, CALLER)]
    must_fail(door.post(f"{TASK}/cancel", {}), ErrorCase.PARAMETER_MISSING)
    door.stub.outcomes["cancel_task"] = refused(ErrorCase.TASK_NOT_CANCELLABLE, "it has ended")
    assert must_fail(door.post(f"{TASK}/cancel", {"uuid": OPERATION}), ErrorCase.TASK_NOT_CANCELLABLE) == "it has ended"


def test_the_header_names_the_operations_of_a_call(door: DoorClient) -> None:
    def began(*args: Any) -> Any:
        caller: Caller = args[-1]
        for uuid in (OPERATION, OTHER):
            caller.hears(uuid)
        return a_snapshot()

    door.stub.outcomes["create"] = began
    marked = identified(name="a", vm_type="GCD")
    assert door.request("POST", f"{BASE}/create", json=marked).headers["X-Operation-Id"] == f"{OPERATION}, {OTHER}"
    assert "X-Operation-Id" not in door.request("POST", f"{BASE}/delete", json=identified(name="a")).headers
    assert "X-Operation-Id" not in door.request("GET", f"{TASK}/get", params={"uuid": OPERATION}).headers


@pytest.mark.parametrize("error", [refused(ErrorCase.NAME_TAKEN), ZeroDivisionError("a crash")])
def test_the_header_is_there_on_an_error_after_the_operation_began(door: DoorClient, error: Exception) -> None:
    def broke(*args: Any) -> None:
        args[-1].hears(OPERATION)
        raise error

    door.stub.outcomes["create"] = broke
    response = door.request("POST", f"{BASE}/create", json=identified(name="a"))
    assert response.json()["scode"] in (ErrorCase.NAME_TAKEN.code, ErrorCase.INTERNAL.code)
    assert response.headers["X-Operation-Id"] == OPERATION


def test_a_long_batch_names_no_more_than_a_header_takes(door: DoorClient) -> None:
    def begin(_ref: Any, _entries: Any, caller: Caller) -> list[Any]:
        for _ in range(5000):
            caller.hears(OTHER)
        return []

    door.stub.outcomes["rollback_volumes"] = begin
    entries = [{"VolumeUuid": VM, "SnapshotUuid": VM, "DiskDrive": "vda"}]
    path, body = "/v1/compute/volume/snapshot/rollback", identified(disk_snapshot_list=entries)
    named = door.request("POST", path, json=body).headers["X-Operation-Id"]
    assert named.split(", ") == [OTHER] * OPERATIONS_MAX_NAMED


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"{TASK}/cancel", {"uuid": OPERATION}),
        ("/v1/stillframe/key/revoke", {"key_id": ADMIN.key_id}),
        ("/v1/stillframe/link/rotate", {}),
        ("/v1/stillframe/tenant/set", {"tenant": "t"}),
    ],
)
def test_what_ends_or_bounds_others_does_not_wait_for_them(path: str, body: dict[str, str]) -> None:
    """Every thread for mutating calls is taken."""
    door = DoorClient(max_operations=1)
    threads = 1 + SPARE_ACTING_THREADS
    begun, may_end = threading.Semaphore(0), threading.Event()

    def delete(*_arguments: Any) -> None:
        begun.release()
        may_end.wait(60)

    door.stub.outcomes["delete"] = delete

    async def both() -> int:
        transport = httpx.ASGITransport(app=door.app)
        async with httpx.AsyncClient(
            transport=transport, base_url="http://door", headers={"ApiKey": ADMIN_KEY}
        ) as client:
            bodies = [identified(name="a") | {"compute_uuid": str(uuid4())} for _ in range(threads)]
            deleting = [asyncio.create_task(client.post(f"{BASE}/delete", json=one)) for one in bodies]
            try:
                for _ in range(threads):
                    assert await asyncio.to_thread(begun.acquire, timeout=60)
                assert door.app.state.door.pools()["acting"].busy == threads
                answered = await asyncio.wait_for(client.post(path, json=body), 30)
            finally:
                may_end.set()
                await asyncio.gather(*deleting)
        scode: int = answered.json()["scode"]
        return scode

    assert asyncio.run(both()) == 0
