"""The task commands, against the stub of the use cases behind a real door on loopback."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillframe.cli.plain import human_bytes, human_time
from stillframe.domain.errors import ErrorCase
from stillframe.operations.tasks import TaskPage, TaskQuery, TaskState
from support.http_door import OPERATION, VM, DoorClient, a_task, refused
from unit.test_cli import CALLER, OTHER_VM, Run, run, state

__all__ = ["run", "state"]  # fixtures


def test_the_list_is_a_table_in_human_units(run: Run, state: Path, door: DoorClient) -> None:
    ended = a_task(
        uuid=OTHER_VM,
        kind="delete",
        state=TaskState.DONE,
        progress=100,
        rate_bytes_s=0,
        time_left_s=None,
        compute_name="",
    )
    door.stub.outcomes["list_tasks"] = TaskPage((a_task(), ended), "")
    result = run("task", "list", "--vm", VM, "--in", "running", "--state", state)
    assert result.code == 0
    moment = "2021-09-09T05:51:13Z"
    head, first, second = (line.split() for line in result.out.splitlines())
    assert head == ["uuid", "kind", "state", "progress", "rate", "left", "started", "vm", "snapshot"]
    assert first == [
        *(OPERATION, "save_memory", "running", "40", "%", "100.0", "MiB/s", "11", "s", moment, "测试", "origin")
    ]
    assert second == [OTHER_VM, "delete", "done", "100", "%", "-", "-", moment, VM, "origin"]
    assert door.stub.asked == [("list_tasks", TaskQuery(compute_uuid=VM, state="running", limit=20))]


def test_the_list_goes_on_to_the_next_page(run: Run, state: Path, door: DoorClient) -> None:
    pages = {"": TaskPage((a_task(),), OPERATION), OPERATION: TaskPage((a_task(uuid=OTHER_VM),), OTHER_VM)}
    door.stub.outcomes["list_tasks"] = lambda query: pages[query.after]
    result = run("task", "list", "--limit", 2, "--json", "--state", state)
    assert [row["uuid"] for row in json.loads(result.out)] == [OPERATION, OTHER_VM]
    assert [call[1].limit for call in door.stub.asked] == [2, 1]


def test_one_task_is_a_list_of_facts(run: Run, state: Path, door: DoorClient) -> None:
    result = run("task", "show", OPERATION, "--state", state)
    assert result.out.splitlines() == [
        f"uuid       {OPERATION}",
        "kind       save_memory",
        f"vm         测试 {VM}",
        "tenant     a5badacf-a25c-4171-9aff-b619fc2d300a",
        "snapshot   origin",
        "state      running (can be cancelled)",
        "progress   40 %, 0 of 6 steps",
        "step       await the capture",
        "copied     1.0 GiB of 2.0 GiB",
        "rate       100.0 MiB/s",
        "time left  11 s",
        "started    2021-09-09T05:51:13Z",
    ]
    assert json.loads(run("task", "show", OPERATION, "--json", "--state", state).out)["progress"] == 40


def test_cancelling_prints_the_state_or_why_not(run: Run, state: Path, door: DoorClient) -> None:
    assert run("task", "cancel", OPERATION, "--state", state).out == "cancelling\n"
    assert door.stub.asked == [("cancel_task", "", OPERATION, CALLER)]
    door.stub.outcomes["cancel_task"] = refused(ErrorCase.TASK_NOT_CANCELLABLE, "it has ended: done")
    result = run("task", "cancel", OPERATION, "--state", state)
    assert (result.code, result.out) == (1, "")
    assert "it has ended: done" in result.err


@pytest.mark.parametrize(
    ("count", "said"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (1 << 20, "1.0 MiB"),
        ((1 << 20) - 1, "1.0 MiB"),
        (5 << 40, "5.0 TiB"),
    ],
)
def test_bytes_for_people(count: int, said: str) -> None:
    assert human_bytes(count) == said


@pytest.mark.parametrize(
    ("seconds", "said"), [(0, "0 s"), (59, "59 s"), (125, "2 min 5 s"), (3700, "1 h 1 min"), (180000, "2 d 2 h")]
)
def test_time_for_people(seconds: int, said: str) -> None:
    assert human_time(seconds) == said
