"""The operation log of a real service: who did what, and who attempted it; each tenant's lines are its own."""

from __future__ import annotations

import json
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import Any

import httpx
import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from support.ledger import rows
from support.offline import domain_xml, file_disk, image, lot, offline, write
from support.service import SNAPSHOT, Service, Vm, eventually, running_service

LOG = f"{SNAPSHOT}/log/list"
ONE, TWO = "log-one", "log-two"
NOWHERE = "00000000-1111-4222-8333-444444444444"


class Bearer:
    """Who brings one key."""

    def __init__(self, service: Service, role: str, tenant: str) -> None:
        made = service.post("/v1/stillframe/key/create", role=role, tenant=tenant)
        self.key_id: str = made["key_id"]
        self._service = service
        self._headers = {"ApiKey": made["api_key"]}

    def post(self, call: str, vm: Vm, **body: Any) -> int:
        """The scode, of a request with the mark GCD."""
        whole = {"cluster_uuid": "", "compute_uuid": vm.uuid, "vm_type": "GCD", **body}
        path = call if call.startswith("/") else f"{SNAPSHOT}/{call}"
        return int(self._service.raw("POST", path, json=whole, headers=self._headers)["scode"])

    def post_raw(self, call: str, content: bytes) -> int:
        headers = {**self._headers, "Content-Type": "application/json"}
        return int(self._service.raw("POST", f"{SNAPSHOT}/{call}", content=content, headers=headers)["scode"])

    def log(self, **filters: Any) -> list[dict[str, Any]]:
        answer = self._service.raw("GET", LOG, params=filters, headers=self._headers)
        assert answer["scode"] == 0, answer
        found: list[dict[str, Any]] = answer["data"]["list"]
        return found


def told(lines: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    """The oldest first."""
    return [(line["call"], line["snapshot"], line["scode"], line["compute_name"]) for line in reversed(lines)]


def test_what_was_done_and_attempted_is_there_with_who_and_only_for_its_tenant(take: Take) -> None:
    mine, theirs = take("small"), take("small")
    service = mine.service
    for vm, tenant in ((mine, ONE), (theirs, TWO)):
        vm.post("/v1/stillframe/vm/assign", tenant=tenant)
    one, reader, two = (
        Bearer(service, "operator", ONE),
        Bearer(service, "reader", ONE),
        Bearer(service, "operator", TWO),
    )
    begun = int(time.time()) + 1  # the keys were made before that
    eventually(lambda: time.time() >= begun, "a new second")
    assert one.post("create", mine, name="升级前") == 0
    assert two.post("create", theirs, name="theirs") == 0
    assert one.post("modify", mine, name="升级前", description="d") == 0
    assert one.post("create", mine, name="升级前") == ErrorCase.NAME_TAKEN.code
    assert one.post("delete", theirs, name="theirs") == ErrorCase.VM_UNKNOWN.code
    assert one.post("task/cancel", mine, uuid=NOWHERE) == ErrorCase.TASK_UNKNOWN.code
    assert reader.post("delete", mine, name="升级前") == ErrorCase.NOT_ALLOWED.code
    assert reader.post("delete", theirs, name="theirs") == ErrorCase.NOT_ALLOWED.code
    assert one.post_raw("delete", b"{") == ErrorCase.PARAMETER_MALFORMED.code
    assert one.post_raw("delete", b" " * (2 << 20)) == ErrorCase.BODY_TOO_LARGE.code
    disks = mine.get("升级前")["disk_snapshot_list"]
    assert one.post("/v1/compute/volume/snapshot/rollback", theirs, disk_snapshot_list=disks) == (
        ErrorCase.VM_UNKNOWN.code
    )
    assert one.post("/v1/compute/volume/snapshot/rollback", mine, disk_snapshot_list=disks[:1]) == 0
    assert one.post("/v1/compute/shutdown", mine) == ErrorCase.VM_NOT_RUNNING.code
    assert one.post("rollback", mine, name="升级前") == 0
    assert one.post("delete", mine, name="升级前") == 0

    own = [
        ("create", "升级前", 0, mine.name),
        ("modify", "升级前", 0, mine.name),
        ("create", "升级前", ErrorCase.NAME_TAKEN.code, mine.name),
        ("delete", "theirs", ErrorCase.VM_UNKNOWN.code, ""),
        ("cancel", "", ErrorCase.TASK_UNKNOWN.code, ""),
        ("delete", "升级前", ErrorCase.NOT_ALLOWED.code, ""),
        ("delete", "theirs", ErrorCase.NOT_ALLOWED.code, ""),
        ("delete", "", ErrorCase.PARAMETER_MALFORMED.code, ""),
        ("delete", "", ErrorCase.BODY_TOO_LARGE.code, ""),
        ("rollback_volume", "", ErrorCase.VM_UNKNOWN.code, ""),
        ("rollback_volume", disks[0]["SnapshotUuid"], 0, mine.name),
        ("shutdown", "", ErrorCase.VM_NOT_RUNNING.code, mine.name),
        ("rollback", "升级前", 0, mine.name),
        ("delete", "升级前", 0, mine.name),
    ]
    for bearer in (one, reader):
        lines = bearer.log(since=begun)
        assert told(lines) == own
        assert {line["tenant"] for line in lines} == {ONE}
        assert theirs.name not in json.dumps(lines)
    assert told(two.log(since=begun)) == [("create", "theirs", 0, theirs.name)]
    _check_fields(one, reader, mine)
    _check_filters(service, one, reader, begun, own)


def _check_fields(one: Bearer, reader: Bearer, mine: Vm) -> None:
    (created,) = one.log(call="create", failed="false", scode=0)
    assert (created["key_id"], created["address"], created["mark"]) == (one.key_id, "127.0.0.1", "GCD")
    assert (created["compute_uuid"], created["desc"]) == (mine.uuid, "")
    assert created["duration_ms"] > 0
    assert abs(created["at"] - time.time()) < 600
    (task,) = [
        row for row in mine.service.get(f"{SNAPSHOT}/task/list")["list"] if row["uuid"] == created["operation_uuid"]
    ]
    assert (task["kind"], task["snapshot"]) == ("create", "升级前")
    refused = reader.log(key_id=reader.key_id, compute_uuid=mine.uuid)
    assert [(line["mark"], line["operation_uuid"], line["snapshot"]) for line in refused] == [("GCD", "", "升级前")]


def _check_filters(service: Service, one: Bearer, reader: Bearer, begun: int, own: list[tuple[Any, ...]]) -> None:
    """And what an administrator sees of the two, in small pages and on the command line."""
    assert len(one.log(since=begun, failed="true")) == sum(line[2] != 0 for line in own)
    assert one.log(tenant=TWO) == []
    seen: list[dict[str, Any]] = []
    after = ""
    while True:
        page = service.get(LOG, tenant=ONE, since=str(begun), limit="3", after=after)
        seen += page["list"]
        after = page["next"]
        if not after:
            break
    assert told(seen) == own
    printed = json.loads(service.cli("log", "--tenant", ONE, "--key", reader.key_id, "--failed", "--json"))
    assert told(printed) == [own[5], own[6]]
    assert "升级前" in service.cli("log", "--tenant", ONE, "--since", str(begun))


def test_strangers_share_lines_that_are_the_administrators_and_the_log_outlives_a_restart() -> None:
    with running_service() as service:
        for _ in range(5):
            answer = service.raw("POST", f"{SNAPSHOT}/create", json={"name": "x"}, headers={"ApiKey": "sfk_nobody"})
            assert answer["scode"] == ErrorCase.NOT_AUTHENTICATED.code
        assert service.terminate() == 0
        service.start()
        counted, first = service.get(LOG, scode=str(ErrorCase.NOT_AUTHENTICATED.code))["list"]
        for line in (first, counted):
            assert (line["key_id"], line["tenant"], line["address"], line["call"]) == ("", "", "127.0.0.1", "create")
        assert counted["desc"].startswith("4 more since")
        assert Bearer(service, "reader", "t").log(scode=ErrorCase.NOT_AUTHENTICATED.code) == []
        with (
            closing(sqlite3.connect(service.state / "stillframe.db")) as database,
            pytest.raises(sqlite3.IntegrityError, match="never changed"),
        ):
            database.execute("UPDATE operation_log SET scode = 0")


def test_a_call_that_was_cut_off_is_in_the_log_of_the_next_start() -> None:
    service = Service(merge_bytes_per_s="4096")
    try:
        one = lot(service, "slow")
        disk = image(one.directory / "disk-0.qcow2", size="4M")
        offline(service, ("define", domain_xml(one, [file_disk(disk, "vda")])))
        vm = one.vm(service.start())
        for name, pattern in (("doomed", 1), ("tip", 2)):
            write(vm.disk_path(), pattern, length="2M")
            vm.create(name)
        with ThreadPoolExecutor(1) as client:
            body = {"compute_uuid": vm.uuid, "name": "doomed", "vm_type": "GDT"}
            told = client.submit(service.raw, "POST", f"{SNAPSHOT}/delete", json=body)
            query = "SELECT uuid FROM operations WHERE kind = 'delete' AND state = 'committed'"
            eventually(lambda: bool(rows(service, query)), "the merge is under way")
            ((operation_uuid,),) = rows(service, query)
            service.kill()
            assert isinstance(told.exception(), httpx.HTTPError)
        service.configure(merge_bytes_per_s="0")
        service.start()
        (line,) = service.get(LOG, compute_uuid=vm.uuid, call="delete")["list"]
        assert (line["operation_uuid"], line["snapshot"], line["mark"]) == (operation_uuid, "doomed", "GDT")
        assert (line["scode"], line["compute_name"]) == (ErrorCase.STOPPING.code, vm.name)
        eventually(lambda: vm.names() == ["tip"], "the delete is finished")
        assert len(service.get(LOG, compute_uuid=vm.uuid, call="delete")["list"]) == 1
    finally:
        service.destroy()


def test_lines_beyond_the_retention_are_gone_after_a_start() -> None:
    """The newest thousand stay whatever their age: what goes has more than that behind it."""
    with running_service(log_retention_days="30") as service:
        service.terminate()
        now = int(time.time())
        columns = "uuid, at, who, address, tenant, call, vm_uuid, vm_name, mark, snapshot, scode, desc, duration_ms, operation_uuid"
        with closing(sqlite3.connect(service.state / "stillframe.db")) as database, database:
            for number in range(1600):
                at = now - (40 * 86400 if number < 600 else 60)
                database.execute(
                    f"INSERT INTO operation_log ({columns}) "  # noqa: S608 -- our own
                    "VALUES (?, ?, 'k', '', 't', 'create', '', '', '', '', 0, '', 1, '')",
                    (f"{number:08x}-0000-4000-8000-000000000000", at),
                )
        service.start()
        eventually(lambda: not service.get(LOG, until=str(now - 86400))["list"], "the old lines are gone", timeout_s=60)
        assert len(service.get(LOG, tenant="t", limit="1000")["list"]) == 1000
