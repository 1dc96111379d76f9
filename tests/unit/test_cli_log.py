"""The log command, against the stub of the use cases behind a real door on loopback."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from stillframe.operations.log import LogPage, LogQuery
from stillframe.operations.requests import VmQuery
from support.http_door import LINE, OPERATION, TENANT, VM, DoorClient, a_line
from unit.test_cli import OTHER_VM, Run, run, state

__all__ = ["run", "state"]  # fixtures


def test_the_log_is_a_table(run: Run, state: Path, door: DoorClient) -> None:
    nobodys = a_line(
        uuid=OTHER_VM, who="", tenant="", call="", vm_uuid="", vm_name="", mark="", snapshot="", scode=25001,
        desc="3 more\x1b[2J", operation_uuid="",
    )  # fmt: skip
    door.stub.outcomes["list_log"] = LogPage((nobodys, a_line(vm_name="")), "")
    result = run("log", "--state", state)
    assert result.code == 0
    head, first, second = (line.split(maxsplit=10) for line in result.out.splitlines())
    assert head == ["when", "key", "address", "tenant", "call", "vm", "mark", "snapshot", "scode", "ms", "what"]
    at = "2021-09-09T05:51:13Z"
    assert first == [at, "-", "192.0.2.7", "-", "-", "-", "-", "-", "25001", "812", "3 more?[2J"]
    assert second == [*(at, "0123456789ab", "192.0.2.7", TENANT, "create", VM, "GCD", "origin", "0", "812", OPERATION)]
    assert door.stub.asked == [("list_log", LogQuery(limit=50))]


def test_every_filter_is_asked_for(run: Run, state: Path, door: DoorClient) -> None:
    what = ("--vm", "测试", "--tenant", TENANT, "--key", "0123456789ab", "--call", "rollback", "--failed")
    result = run("log", *what, "--since", "1700000000", "--until", "2023-11-15", "--limit", 5, "--state", state)
    assert result.code == 0
    query = LogQuery(
        compute_uuid=VM, tenant=TENANT, key_id="0123456789ab", call="rollback", failed=True,
        since=1700000000, until=1700006400, limit=5,
    )  # fmt: skip
    assert door.stub.asked == [("list_vms", VmQuery(name="测试", fuzzy=False)), ("list_log", query)]


def test_it_goes_on_to_the_next_page_as_far_as_the_limit(run: Run, state: Path, door: DoorClient) -> None:
    pages = {"": LogPage((a_line(),), LINE), LINE: LogPage((a_line(uuid=OTHER_VM),), OTHER_VM)}
    door.stub.outcomes["list_log"] = lambda query: pages[query.after]
    result = run("log", "--limit", 2, "--json", "--state", state)
    assert [row["id"] for row in json.loads(result.out)] == [LINE, OTHER_VM]
    assert [call[1].limit for call in door.stub.asked] == [2, 1]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("0", 0),
        ("2023-11-14T22:13:20", 1700000000),
        ("2023-11-14T22:13:20Z", 1700000000),
        ("2023-11-15T06:13:20+08:00", 1700000000),
        ("1900-01-01", 0),
    ],
)
def test_a_moment(run: Run, state: Path, door: DoorClient, text: str, at: int) -> None:
    assert run("log", "--since", text, "--state", state).code == 0
    assert door.stub.asked == [("list_log", LogQuery(since=at, limit=50))]


def test_a_moment_so_long_ago(run: Run, state: Path, door: DoorClient) -> None:
    before = int(time.time())
    assert run("log", "--since", "2h", "--state", state).code == 0
    assert before - 7200 <= door.stub.asked[0][1].since <= time.time() - 7200


@pytest.mark.parametrize("text", ["yesterday", "2h ago", "-5m", "2026-13-01", "1" * 40])
def test_another_moment_is_wrong_usage(run: Run, state: Path, door: DoorClient, text: str) -> None:
    result = run("log", f"--until={text}", "--state", state)
    assert (result.code, result.out) == (2, "")
    assert "--until" in result.err
    assert door.stub.asked == []
