"""Long work on real guests: it is seen, how far it is is real, and it can be stopped before its point of no return."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from support.ledger import checksums
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Service, Vm, eventually, running_service

TASK = f"{SNAPSHOT}/task"
MIB = 1 << 20


def tasks_of(vm: Vm, **filters: Any) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = vm.service.get(f"{TASK}/list", compute_uuid=vm.uuid, **filters)["list"]
    return rows


def task(service: Service, uuid: str) -> dict[str, Any]:
    row: dict[str, Any] = service.get(f"{TASK}/get", uuid=uuid)
    return row


def must_refuse_cancel(service: Service, uuid: str) -> str:
    answer = service.raw("POST", f"{TASK}/cancel", json={"uuid": uuid})
    assert answer["scode"] == ErrorCase.TASK_NOT_CANCELLABLE.code, answer
    desc: str = answer["desc"]
    return desc


def send(vm: Vm, path: str, **body: Any) -> httpx.Response:
    return vm.service.response("POST", path, json={"cluster_uuid": "", "compute_uuid": vm.uuid, **body})


class Sent:
    """A call in a thread of its own; ``answered`` waits for its response."""

    def __init__(self, vm: Vm, path: str, **body: Any) -> None:
        self._responses: list[httpx.Response] = []
        self._thread = threading.Thread(target=lambda: self._responses.append(send(vm, path, **body)))
        self._thread.start()

    def is_over(self) -> bool:
        return not self._thread.is_alive()

    def answered(self) -> httpx.Response:
        self._thread.join()
        return self._responses[0]


@pytest.fixture(scope="module")
def throttled() -> Iterator[Service]:
    with running_service(merge_bytes_per_s=str(4 * MIB)) as service:
        yield service


@pytest.mark.guest
@pytest.mark.parametrize("runs", [True, False], ids=["live", "offline"])
def test_a_throttled_merge_is_seen_and_cannot_be_cancelled(throttled: Service, runs: bool) -> None:
    vm = throttled.guest(f"merged-{runs}", memory_mib=128, fill_mib=16)
    vm.shutoff()
    vm.create("below")
    write(vm.disk_path(), 7, "8M", "48M")
    vm.create("kept")
    exact = checksums(vm)
    del exact["below"]
    if runs:
        vm.start()
        vm.await_ticks(5)

    deleting = Sent(vm, f"{SNAPSHOT}/delete", name="below")
    seen: list[dict[str, Any]] = []
    while not deleting.is_over():
        seen += [
            row for row in tasks_of(vm, state="finishing") if row["step"].endswith("commit") and row["bytes_total"]
        ]
        if len(seen) == 1:
            desc = must_refuse_cancel(throttled, seen[0]["uuid"])
            assert "point of no return" in desc
            assert "merge 0: commit" in desc
    response = deleting.answered()
    assert response.json()["scode"] == 0

    done = [row["bytes_done"] for row in seen]
    assert done == sorted(done)
    assert len(set(done)) >= 2, done
    assert all(0 <= row["bytes_done"] <= row["bytes_total"] for row in seen)
    assert max(row["bytes_total"] for row in seen) >= 48 * MIB
    assert all((row["kind"], row["snapshot"], row["cancellable"]) == ("delete", "below", False) for row in seen)
    progress = [row["progress"] for row in seen]
    assert progress == sorted(progress)
    assert all(row["time_left_s"] is None or row["rate_bytes_s"] > 0 for row in seen)
    ended = task(throttled, response.headers["X-Operation-Id"])
    assert (ended["uuid"], ended["state"], ended["progress"], ended["step"]) == (seen[0]["uuid"], "done", 100, "")
    assert ended["ended_at"] >= ended["started_at"]
    assert "has ended: done" in must_refuse_cancel(throttled, ended["uuid"])
    assert checksums(vm) == exact


@pytest.mark.guest
def test_a_throttle_gives_way_to_a_guest_that_writes_as_fast() -> None:
    """The head is merged: what the guest writes meanwhile is merged too, or it would never end."""
    with running_service(merge_bytes_per_s=str(MIB // 8)) as service:
        vm = service.guest("busy", memory_mib=128, fill_mib=16)
        vm.await_ticks(5)
        vm.create("below")
        vm.await_ticks(5)
        response = Sent(vm, f"{SNAPSHOT}/delete", name="below").answered()
        assert response.json()["scode"] == 0, response.text
        assert "without the throttle" in service.log_path.read_text()
        vm.await_ticks(20)
        assert vm.witness().jumps() == []
        assert vm.witness().torn() == []


@pytest.mark.guest
def test_a_cancelled_memory_save_leaves_a_disk_snapshot(take: Take) -> None:
    vm = take("big", boot=True)
    response = send(vm, f"{SNAPSHOT}/create", name="cut short", domain_memory=True)
    (saving,) = tasks_of(vm, state="running")
    assert (saving["kind"], saving["snapshot"], saving["cancellable"]) == ("save_memory", "cut short", True)
    assert saving["step"] == "await the capture"
    cancelled = vm.service.response("POST", f"{TASK}/cancel", json={"uuid": saving["uuid"]})
    assert cancelled.json()["data"]["state"] == "cancelling"
    assert cancelled.headers["X-Operation-Id"] == saving["uuid"]
    vm.await_settled("cut short")
    snapshot = vm.get("cut short")
    assert snapshot["attr"]["status"] == "failed"
    assert "cancelled" in snapshot["attr"]["reason"]
    assert snapshot["attr"]["operation_uuid"] == response.headers["X-Operation-Id"]
    eventually(lambda: task(vm.service, saving["uuid"])["state"] == "undone", "the save is undone")
    ended = task(vm.service, saving["uuid"])
    assert (ended["progress"], ended["cancellable"]) == (0, False)
    assert "cancelled" in ended["error"]
    assert "has ended: undone" in must_refuse_cancel(vm.service, saving["uuid"])

    vm.await_ticks(20)
    assert vm.witness().jumps() == []
    must_refuse_post(
        vm, ErrorCase.SNAPSHOT_WITHOUT_MEMORY, f"{SNAPSHOT}/rollback", name="cut short", domain_memory=True
    )
    again = vm.create("again", memory=True)
    assert again["attr"]["status"] == "available"
    vm.rollback("cut short")
    vm.start()
    vm.await_ticks(10)
    assert vm.witness().torn() == []


@pytest.mark.guest
def test_a_cancelled_create_is_undone_and_says_so_to_its_caller(guest: Callable[..., Vm]) -> None:
    """Memory that QEMU captures the slower way: the create waits for most of it, so there is time to cancel."""
    vm = guest("slow", memory_mib=512, fill_mib=400, private_file_memory=True)
    path = vm.disk_path()
    creating = Sent(vm, f"{SNAPSHOT}/create", name="never", domain_memory=True)
    eventually(
        lambda: "fix the point in time" in [row["step"] for row in tasks_of(vm, state="running")], "it is fixing"
    )
    (row,) = tasks_of(vm, state="running")
    vm.service.post(f"{TASK}/cancel", uuid=row["uuid"])
    response = creating.answered()
    assert response.json()["scode"] == ErrorCase.CANCELLED.code
    assert response.headers["X-Operation-Id"] == row["uuid"]
    assert task(vm.service, row["uuid"])["state"] == "undone"
    assert vm.names() == []
    assert vm.disk_path() == path
    vm.await_ticks(20)
    assert vm.witness().jumps() == []
    assert vm.witness().torn() == []


def test_every_call_that_changes_something_is_a_task(take: Take) -> None:
    vm = take("one")
    kinds: list[str] = []

    def done(path: str, **body: Any) -> dict[str, Any]:
        response = send(vm, path, **body)
        assert response.json()["scode"] == 0, response.text
        row = task(vm.service, response.headers["X-Operation-Id"])
        assert (row["state"], row["progress"], row["compute_uuid"]) == ("done", 100, vm.uuid)
        assert (row["compute_name"], row["tenant"]) == (vm.name, vm.inspect()["tenant"])
        kinds.append(row["kind"])
        return row

    created = done(f"{SNAPSHOT}/create", name="one")
    assert vm.get("one")["attr"] == {"operation_uuid": created["uuid"]}
    assert done(f"{SNAPSHOT}/modify", name="one", description="新")["snapshot"] == "one"
    done(f"{SNAPSHOT}/rollback", name="one")
    done("/v1/stillframe/vm/assign", tenant="default")
    done("/v1/compute/start")
    done("/v1/compute/shutoff")
    entry = vm.get("one")["disk_snapshot_list"][0]
    volumes = "/v1/compute/volume/snapshot/rollback"
    done(volumes, disk_snapshot_list=[entry])
    twice = send(vm, volumes, disk_snapshot_list=[{**entry, "DiskDrive": "vdz"}, entry])
    uuids = twice.headers["X-Operation-Id"].split(", ")
    assert [task(vm.service, uuid)["state"] for uuid in uuids] == ["refused", "done"]
    done(f"{SNAPSHOT}/delete", name="one")
    assert [row["kind"] for row in tasks_of(vm, state="done")][::-1] == [*kinds[:-1], "rollback_volume", kinds[-1]]

    taken = send(vm, f"{SNAPSHOT}/create", name="a/b")
    assert taken.json()["scode"] == ErrorCase.NAME_ILLEGAL.code
    assert "X-Operation-Id" not in taken.headers, "refused before there was an operation"
    unknown = send(vm, f"{SNAPSHOT}/delete", name="none")
    assert unknown.json()["scode"] == ErrorCase.SNAPSHOT_UNKNOWN.code
    refused = task(vm.service, unknown.headers["X-Operation-Id"])
    assert (refused["state"], refused["snapshot"]) == ("refused", "none")
    assert "none" in refused["error"]


def test_pages_filters_and_the_command_line(take: Take) -> None:
    vm = take("one")
    for name in ("a", "b", "c"):
        vm.create(name)
    service = vm.service
    first = service.get(f"{TASK}/list", compute_uuid=vm.uuid, limit=2)
    assert [row["snapshot"] for row in first["list"]] == ["c", "b"]
    vm.create("d")
    rest = service.get(f"{TASK}/list", compute_uuid=vm.uuid, limit=2, after=first["next"])
    assert ([row["snapshot"] for row in rest["list"]], rest["next"]) == (["a"], "")
    oldest = rest["list"][0]
    assert tasks_of(vm, tenant="nobody") == []
    assert tasks_of(vm, until=oldest["started_at"] - 1) == []
    assert len(tasks_of(vm, since=oldest["started_at"], until=1 << 40)) == 4
    unknown = service.raw("GET", f"{TASK}/list", params={"after": vm.uuid})
    assert unknown["scode"] == ErrorCase.TASK_UNKNOWN.code
    elsewhere = service.raw("GET", f"{TASK}/get", params={"uuid": oldest["uuid"], "cluster_uuid": vm.uuid})
    assert elsewhere["scode"] == ErrorCase.CLUSTER_UNKNOWN.code

    shown = service.cli("task", "list", "--vm", vm.name).splitlines()
    assert [line.split()[-1] for line in shown] == ["snapshot", "d", "c", "b", "a"]
    assert "done" in service.cli("task", "show", oldest["uuid"])
    with pytest.raises(AssertionError, match="has ended: done"):
        service.cli("task", "cancel", oldest["uuid"])
