"""The commands for snapshots: names and uuids, questions and their consequences, progress, exit codes, Ctrl-C."""

from __future__ import annotations

import os
import re
import sys
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stillframe.cli.shown import drawn
from stillframe.client.overviews import Overview
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.layout import lay_out
from stillframe.domain.snapshot import MemoryState, MemoryStatus, SnapshotCard
from stillframe.domain.tree import Node
from stillframe.operations.tasks import TaskPage, TaskState
from support.http_door import (
    OPERATION,
    SNAPSHOT,
    VM,
    DoorClient,
    a_memory,
    a_snapshot,
    a_task,
    an_info,
    an_overview,
    refused,
)
from support.terminal import Terminal, as_text
from unit.test_cli import CALLER, OTHER_VM, Run, run, state

__all__ = ["run", "state"]  # fixtures

PROGRAM = str(Path(sys.executable).with_name("stillframe"))
ENGLISH = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
CHINESE = {**ENGLISH, "LC_ALL": "zh_CN.UTF-8", "PYTHONUTF8": "1"}


def asked(door: DoorClient, call: str) -> list[tuple[Any, ...]]:
    return [one[1:] for one in door.stub.asked if one[0] == call]


def in_terminal(state: Path, *words: str, environment: dict[str, str] = ENGLISH) -> Terminal:
    return Terminal([PROGRAM, *words, "--state", str(state)], environment=environment)


# --- taking and the rest -------------------------------------------------------------------------------------------


def test_take_prints_the_name_that_it_was_given_or_made_up(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes["get_snapshot"] = lambda ref, name: a_snapshot(name=name)
    assert run("take", "测试", "before", "-m", "why", "--state", state).out == "before\n"
    ref, *rest = asked(door, "create")[0]
    assert (ref.compute_uuid, rest) == (VM, ["before", "why", False, CALLER])
    made_up = run("take", VM, "--state", state).out.strip()
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d-\d\d-\d\dZ", made_up)
    assert asked(door, "create")[1][1] == made_up


def test_take_waits_for_memory_and_tells_how_far(run: Run, state: Path, door: DoorClient) -> None:
    left = [a_snapshot(memory=a_memory(status=MemoryStatus.SAVING)), a_snapshot(memory=a_memory())]
    door.stub.outcomes["get_snapshot"] = lambda *_: left.pop(0)
    result = run("take", VM, "origin", "--memory", "--state", state)
    assert (result.code, result.out) == (0, "origin\n")
    assert result.err == "save_memory origin 测试: running, await the capture, 40 %, 100.0 MiB/s, 11 s left\n"


def test_take_that_is_not_to_wait_does_not(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes["get_snapshot"] = a_snapshot(memory=a_memory(status=MemoryStatus.SAVING))
    assert run("take", VM, "origin", "--memory", "--no-wait", "--state", state).code == 0


@pytest.mark.parametrize(
    ("outcomes", "options", "code", "said"),
    [
        ({"create": refused(ErrorCase.NAME_TAKEN, "origin")}, (), 1, "already has a snapshot of this name"),
        (
            {"get_snapshot": a_snapshot(memory=a_memory(status=MemoryStatus.FAILED, reason="no space"))},
            (),
            1,
            "no space",
        ),
        ({"get_snapshot": a_snapshot(memory=a_memory(status=MemoryStatus.SAVING))}, ("--timeout", "0"), 5, OPERATION),
        ({"create": refused(ErrorCase.STOPPING)}, (), 5, "next start"),
        ({"create": refused(ErrorCase.LEFT_BEHIND)}, (), 5, "goes on trying"),
        ({"list_vms": refused(ErrorCase.HOST_UNREACHABLE)}, (), 1, "hypervisor"),
    ],
)
def test_how_take_ends(
    run: Run, state: Path, door: DoorClient, *, outcomes: dict[str, Any], options: tuple[str, ...], code: int, said: str
) -> None:
    door.stub.outcomes |= outcomes
    result = run("take", "测试", "origin", "--memory", *options, "--state", state)
    assert (result.code, result.out) == (code, "")
    assert said in result.err


def test_edit_by_uuid(run: Run, state: Path, door: DoorClient) -> None:
    assert run("edit", "测试", SNAPSHOT, "-m", "new", "--state", state).code == 0
    assert asked(door, "modify")[0][1:] == ("origin", "new", CALLER)
    assert run("edit", VM, "origin", "--state", state).code == 2


def test_single_disks_fail_one_by_one(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes["rollback_volumes"] = lambda ref, entries, caller: [Refused(ErrorCase.VM_NOT_SHUTOFF, "running")]
    result = run("rollback-disk", VM, "origin", "sda", "--yes", "--state", state)
    assert (result.code, result.out) == (1, "")
    assert result.err.startswith("sda: the virtual machine must be shut off")
    assert "running" in result.err
    assert run("rollback-disk", VM, "origin", "vdb", "--yes", "--state", state).code == 1


def test_power(run: Run, state: Path, door: DoorClient) -> None:
    for act in ("start", "shutdown", "shutoff"):
        assert run("vm", act, "测试", "--state", state).code == 0
        assert [ref.compute_uuid for ref, _ in asked(door, act)] == [VM]


def test_an_argument_that_is_no_text(state: Path, door: DoorClient) -> None:
    with Terminal(
        [PROGRAM, "show", b"\xff".decode(errors="surrogateescape"), "--state", str(state)], environment=ENGLISH
    ) as t:
        assert t.end() == 1
        assert "not valid text" in t.raw


# --- questions -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "words", [("rollback", VM, "origin"), ("rm", VM, "origin"), ("rollback-disk", VM, "origin", "sda")]
)
def test_where_nobody_can_be_asked_it_is_refused(
    run: Run, state: Path, door: DoorClient, words: tuple[str, ...]
) -> None:
    result = run(*words, "--state", state)
    assert (result.code, result.out) == (2, "")
    assert "--yes" in result.err
    assert door.stub.asked == []
    assert run(*words, "--yes", "--state", state).code == 0


@pytest.mark.parametrize(
    ("words", "environment", "said"),
    [
        (
            ("rollback", "测试", "origin", "--memory"),
            ENGLISH,
            ['测试 goes back to "origin" and goes on from that moment.', 'of changes since "origin" (64.0 KiB)'],
        ),
        (("rollback", "测试", "origin"), CHINESE, ["将回滚到“origin”，随后处于关机状态", "的更改（64.0 KiB）"]),
        (
            ("rm", "测试", "origin"),
            ENGLISH,
            ["Merged with what stands on it: vda 1.0 MiB; 1.0 MiB to copy.", "Freed for certain: 4.0 MiB."],
        ),
        (("rm", "测试", "origin"), CHINESE, ["与其上的层合并：vda 1.0 MiB", "确定释放：4.0 MiB"]),
        (
            ("rollback-disk", "测试", "origin", "sda"),
            ENGLISH,
            ['sda of 测试 will be as in "origin"', "or rollback is thrown away"],
        ),
    ],
)
def test_the_question_says_what_goes_and_no_is_no(
    state: Path, door: DoorClient, *, words: tuple[str, ...], environment: dict[str, str], said: list[str]
) -> None:
    door.stub.outcomes["inspect"] = replace(an_info(), state="shutoff" if words[0] == "rollback-disk" else "running")
    door.stub.outcomes["get_snapshot"] = a_snapshot(memory=a_memory())
    with in_terminal(state, *words, environment=environment) as terminal:
        terminal.hear("[y/N]")
        for part in said:
            assert part in terminal.raw
        terminal.type("n\n")
        assert terminal.end() == 1
        assert ("nothing was done" if environment is ENGLISH else "未执行任何操作") in terminal.raw
    call = {"rollback": "rollback", "rm": "delete", "rollback-disk": "rollback_volumes"}[words[0]]
    assert asked(door, call) == []
    with in_terminal(state, *words, environment=environment) as terminal:
        terminal.hear("[y/N]")
        terminal.type("y\n")
        assert terminal.end() == 0
    assert len(asked(door, call)) == 1


def test_the_end_of_the_input_is_no_and_ctrl_c_is_an_end(state: Path, door: DoorClient) -> None:
    for typed, code in (("\x04", 1), ("\x03", 130)):
        with in_terminal(state, "rm", VM, "origin") as terminal:
            terminal.hear("[y/N]")
            terminal.type(typed)
            assert terminal.end() == code
            # on a line of its own
            assert terminal.raw.splitlines()[-1] == "stillframe: nothing was done"
            assert len(terminal.raw.splitlines()[-2]) < len("Go on? [y/N] ^C ")
    assert asked(door, "delete") == []


def test_what_would_be_refused_is_said_before_anybody_is_asked(state: Path, door: DoorClient) -> None:
    told = door.stub.outcomes["consequences"]
    door.stub.outcomes["consequences"] = replace(told, refusal=refused(ErrorCase.SNAPSHOT_HAS_CHILDREN, "a, b"))
    with in_terminal(state, "rm", VM, "origin") as terminal:
        assert terminal.end() == 1
        assert "several children" in terminal.raw
        assert "[y/N]" not in terminal.raw


@pytest.mark.parametrize(
    ("memory", "environment", "said"),
    [
        (None, ENGLISH, 'the snapshot "origin" has no memory: roll back without --memory'),
        (None, CHINESE, "快照“origin”不含内存：请不带 --memory 回滚"),
        (a_memory(status=MemoryStatus.SAVING), ENGLISH, '"stillframe watch 测试" waits for it'),
        (a_memory(status=MemoryStatus.FAILED, reason="no space"), ENGLISH, "could not be saved: roll back without"),
    ],
)
def test_memory_that_cannot_be_had_is_said_before_anybody_is_asked(
    state: Path, door: DoorClient, *, memory: MemoryState | None, environment: dict[str, str], said: str
) -> None:
    door.stub.outcomes["get_snapshot"] = a_snapshot(memory=memory)
    with in_terminal(state, "rollback", "测试", "origin", "--memory", environment=environment) as terminal:
        assert terminal.end() == 1
        assert said in terminal.raw
        assert "[y/N]" not in terminal.raw
        assert memory is None or memory.reason in terminal.raw


def test_single_disks_of_what_runs_are_refused_before_anybody_is_asked(state: Path, door: DoorClient) -> None:
    door.stub.outcomes["inspect"] = an_info()  # it runs
    with in_terminal(state, "rollback-disk", "测试", "origin", "sda") as terminal:
        assert terminal.end() == 1
        assert ErrorCase.VM_NOT_SHUTOFF.value.message in terminal.raw
        assert "[y/N]" not in terminal.raw
    with in_terminal(state, "rollback-disk", "测试", "origin", "vdz") as terminal:
        assert terminal.end() == 1
        assert 'has no disk "vdz"; it has sda' in terminal.raw
        assert "[y/N]" not in terminal.raw


# --- progress ------------------------------------------------------------------------------------------------------


def _slow_delete(door: DoorClient) -> Callable[[], None]:
    """A delete that goes on until the returned function is called."""
    over = threading.Event()
    door.stub.outcomes["delete"] = lambda *_: over.wait(60) and None
    door.stub.outcomes["list_tasks"] = TaskPage((a_task(kind="delete"),), "")
    door.stub.outcomes["get_task"] = a_task(kind="delete", state=TaskState.DONE, progress=100)
    return over.set


def test_a_terminal_sees_a_bar_with_rate_and_time_left(state: Path, door: DoorClient) -> None:
    finish = _slow_delete(door)
    with in_terminal(state, "rm", VM, "origin", "--yes") as terminal:
        terminal.hear("100.0 MiB/s")
        finish()
        assert terminal.end() == 0
        line, last = as_text(terminal.raw)
    assert re.fullmatch(r"delete origin 测试: await the capture +[━╸╺ ]+ +40% +100.0 MiB/s +11 s left", line)
    assert re.fullmatch(r"delete origin 测试: done +━+ +100%", last)


def test_ctrl_c_says_what_goes_on_and_how_to_watch_or_cancel_it(state: Path, door: DoorClient) -> None:
    finish = _slow_delete(door)
    for environment, said in ((ENGLISH, "it goes on"), (CHINESE, "仍在继续")):
        with in_terminal(state, "rm", VM, "origin", "--yes", environment=environment) as terminal:
            terminal.hear("40%")
            terminal.type("\x03")
            assert terminal.end() == 130
            for part in (said, f"stillframe watch {OPERATION}", f"stillframe cancel {OPERATION}"):
                assert part in terminal.raw
            assert "Traceback" not in terminal.raw
    finish()


def test_watch_shows_everything_until_nothing_goes_on(run: Run, state: Path, door: DoorClient) -> None:
    other = a_task(
        uuid=OTHER_VM, kind="delete", snapshot="b", progress=5, step="merge", time_left_s=None, rate_bytes_s=0
    )
    done = a_task(state=TaskState.DONE, progress=100, step="", time_left_s=None, rate_bytes_s=0)
    old = a_task(uuid=SNAPSHOT, state=TaskState.REFUSED)
    pages = [(other, a_task(), old), (other, done, old), (replace(other, state=TaskState.DONE), done, old)]
    door.stub.outcomes["list_tasks"] = lambda _: TaskPage(pages.pop(0), "")
    result = run("watch", "--state", state)
    assert result.code == 0
    assert [line.split() for line in result.out.splitlines()] == [
        [OTHER_VM, "delete", "b", "done"],
        [OPERATION, "save_memory", "origin", "done"],
    ]
    assert "delete b 测试: running, merge, 5 %\n" in result.err
    assert "save_memory origin 测试: done, 100 %\n" in result.err


def test_watch_where_nothing_goes_on(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes["list_tasks"] = TaskPage((a_task(state=TaskState.UNDONE),), "")
    result = run("watch", "测试", "--state", state)
    assert (result.code, result.out, result.err) == (0, "nothing is going on\n", "")


@pytest.mark.parametrize(
    ("ended", "code"), [(TaskState.DONE, 0), (TaskState.REFUSED, 1), (TaskState.UNDONE, 1), (TaskState.LEFT, 5)]
)
def test_watch_ends_as_the_task_did(run: Run, state: Path, door: DoorClient, *, ended: TaskState, code: int) -> None:
    door.stub.outcomes["get_task"] = a_task(state=ended, error="why")
    result = run("watch", OPERATION, "--state", state)
    assert result.code == code
    assert ("why" in result.err.split("\n", 1)[1]) == (code != 0)


def test_watch_takes_a_uuid_that_is_no_tasks_for_a_vms(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes["get_task"] = refused(ErrorCase.TASK_UNKNOWN)
    door.stub.outcomes["list_tasks"] = TaskPage((), "")
    assert run("watch", VM, "--state", state).code == 0
    assert asked(door, "list_tasks")[0][0].compute_uuid == VM
    door.stub.outcomes["get_task"] = refused(ErrorCase.STORAGE_FAILED)
    assert run("watch", VM, "--state", state).code == 1


def test_what_is_neither_task_nor_machine_is_not_said_to_be_quiet(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes |= {"get_task": refused(ErrorCase.TASK_UNKNOWN), "list_tasks": TaskPage((), "")}
    door.stub.outcomes["inspect"] = refused(ErrorCase.VM_UNKNOWN)
    result = run("watch", VM, "--state", state)
    assert (result.code, result.out) == (1, "")
    assert ErrorCase.VM_UNKNOWN.value.message in result.err


def test_watch_that_may_not_wait_ends_with_5(run: Run, state: Path, door: DoorClient) -> None:
    for what in ((), (OPERATION,)):
        result = run("watch", *what, "--timeout", "0", "--state", state)
        assert (result.code, result.out) == (5, "")
        assert OPERATION in result.err


# --- looking -------------------------------------------------------------------------------------------------------


def test_show(run: Run, state: Path, door: DoorClient) -> None:
    lines = run("show", "测试", "--state", state).out.splitlines()
    assert lines[0].split() == ["name", "测试"]
    assert "stands on  origin" in lines
    assert "changed    64.0 KiB since 2021-09-09T05:51:13Z" in lines
    assert lines[-1].split() == ["2021-09-09T05:51:13Z", "1.0", "MiB", "4.0", "KiB", "origin", "(current)"]
    door.stub.outcomes["get_snapshot"] = a_snapshot(memory=a_memory(), description="why\x1b[2J")
    facts = run("show", "测试", "origin", "--state", state).out
    assert "memory       saved, 4.0 KiB (background-snapshot)" in facts
    assert "why?[2J" in facts


def test_a_size_that_could_not_be_measured_is_no_figure(run: Run, state: Path, door: DoorClient) -> None:
    unmeasured = replace(an_overview().now, changed_bytes=None)
    door.stub.outcomes["overview"] = replace(an_overview(), now=unmeasured)
    door.stub.outcomes["consequences"] = replace(door.stub.outcomes["consequences"], now=unmeasured)
    assert "changed    size not known since 2021-" in run("show", "测试", "--state", state).out
    assert run("tree", "测试", "--state", state).out.endswith("● now: running, size of the changes not known\n")
    with in_terminal(state, "rollback", VM, "origin") as terminal:
        terminal.hear("(size not known)")
        terminal.type("n\n")
        assert terminal.end() == 1


def _seen(parents: dict[str, str], head: str, **options: Any) -> Overview:
    """An overview of these snapshots (name -> parent), as the service would answer it."""
    from stillframe.http.links import Links  # noqa: PLC0415 -- the service's own side
    from stillframe.http.overview import overview_data  # noqa: PLC0415 -- see above
    from support.http_door import SIGNER  # noqa: PLC0415 -- see above

    cards = [
        SnapshotCard(name, n, name, "", above or None, 1000, 1 << 20, "", None)
        for n, (name, above) in enumerate(parents.items())
    ]
    nodes = [Node(card.uuid, card.name, card.parent_uuid, card.seq) for card in cards]
    whole = replace(an_overview(), cards=tuple(cards), layout=lay_out(nodes, head, **options))
    return Overview.model_validate(overview_data(whole, Links("http://x", SIGNER)).model_dump())


def test_the_tree_has_side_branches_and_the_current_state() -> None:
    lines = drawn(_seen({"a": "", "b": "a", "c": "b", "side": "a", "tip": "side"}, "c"), 1060)
    assert [line.split("  (")[0] for line in lines] == [
        "○ a",
        "├─○ side",
        "│ ○ tip",
        "○ b",
        "○ c",
        "● now: running, 64.0 KiB changed",
    ]
    assert lines[0] == "○ a  (1 min 0 s ago, 1.0 MiB)"


def test_a_long_run_is_folded() -> None:
    names = [f"s{n}" for n in range(10)]
    chain = dict(zip(names, ["", *names], strict=False))
    (folded,) = [line for line in drawn(_seen(chain, "s9", fold=True), 1000) if line.startswith("⋮")]
    assert folded == "⋮ 8 snapshots, s1 to s8  (0 s ago, 8.0 MiB)"


def test_the_tree_is_printed(run: Run, state: Path, door: DoorClient) -> None:
    first, last = run("tree", "测试", "--state", state).out.splitlines()
    assert first.startswith("◉ origin  (")
    assert first.endswith("memory 4.0 KiB)")
    assert last == "● now: running, 64.0 KiB changed"


def test_trees_of_their_own_stand_apart() -> None:
    """Without a gap the second would read as what goes on from the first."""
    lines = drawn(_seen({"a": "", "b": ""}, "b"), 1060)
    assert [line[:3] for line in lines] == ["○ b", "● n", "", "○ a"]
