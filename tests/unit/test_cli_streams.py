"""Where the command line's streams are full, closed or narrow; and how names that are no plain letters are shown."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main
from rich.markup import render

from stillframe.cli.main import app
from stillframe.cli.plain import brief, printable, table
from stillframe.cli.reference import commands
from stillframe.domain.errors import ErrorCase
from stillframe.domain.snapshot import MemoryStatus
from support.http_door import VM, DoorClient, a_memory, a_snapshot, refused
from support.terminal import Terminal
from unit.test_cli import Run, run, state

__all__ = ["run", "state"]  # fixtures

PROGRAM = str(Path(sys.executable).with_name("stillframe"))
ENGLISH = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "LC_ALL": "C.UTF-8", "HOME": "/nonexistent"}
CHINESE = {**ENGLISH, "LC_ALL": "zh_CN.UTF-8", "PYTHONUTF8": "1"}


def in_shell(line: str, *, environment: dict[str, str] = ENGLISH) -> subprocess.CompletedProcess[str]:
    """A line of shell, in which ``stillframe`` is the installed program."""
    words = " ".join(f"{name}={value}" for name, value in environment.items() if name != "PATH")
    script = f'stillframe() {{ env {words} {PROGRAM} "$@"; }}; {line}'
    return subprocess.run(
        ["bash", "-c", script],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


# --- streams -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("where", "why"), [(">/dev/full", "No space left on device"), (">&-", "stdout is closed")])
@pytest.mark.parametrize("command", ["ls", "ls --json", f"take {VM} origin", f"tree {VM}", "--help", "version"])
def test_output_that_cannot_be_written_is_said(
    state: Path, door: DoorClient, *, command: str, where: str, why: str
) -> None:
    options = "" if command == "--help" else f"--state {state}"
    done = in_shell(f"stillframe {command} {options} {where}")
    assert done.returncode == 6, done.stderr
    assert done.stderr.splitlines()[-1] == (
        f"stillframe: the output could not be written: {why}; what was done is not undone by that"
    )
    assert "Traceback" not in done.stderr
    assert "Exception" not in done.stderr


def test_nothing_to_print_is_no_failure_to_print(state: Path, door: DoorClient) -> None:
    assert in_shell(f"stillframe edit {VM} origin -m new --state {state} >/dev/full").returncode == 0
    assert in_shell(f"stillframe rm {VM} origin --yes --state {state} >&-").returncode == 0


def test_a_reader_that_has_had_enough_ends_it_without_a_word(state: Path, door: DoorClient) -> None:
    done = in_shell(f"stillframe ls --state {state} | true; exit $((PIPESTATUS[0] > 1))")
    assert (done.returncode, done.stderr) == (0, "")


def test_who_can_be_told_nothing_still_gets_the_exit_code(state: Path, door: DoorClient) -> None:
    for where in ("2>/dev/full", "2>&-", "<&- >&- 2>&-"):
        assert in_shell(f"stillframe nosuch {where}").returncode == 2
        assert in_shell(f"stillframe show {VM} none --profile none --state {state} {where}").returncode == 2
        assert in_shell(f"stillframe rm {VM} origin --yes --state {state} {where}").returncode == 0
    # nobody can be asked there
    done = in_shell(f"stillframe rm {VM} origin --state {state} <&-")
    assert done.returncode == 2
    assert "give --yes" in done.stderr


def test_a_narrow_terminal_is_told_in_words_how_far_it_is(state: Path, door: DoorClient) -> None:
    """There a bar would leave no room for anything else."""
    left = [a_snapshot(memory=a_memory(status=MemoryStatus.SAVING)), a_snapshot(memory=a_memory())]
    door.stub.outcomes["get_snapshot"] = lambda *_: left.pop(0)
    with Terminal(
        [PROGRAM, "take", VM, "origin", "--memory", "--state", str(state)], environment=ENGLISH, columns=20
    ) as t:
        assert t.end() == 0
        assert t.raw.rstrip().endswith("origin")
        assert "running, await the capture, 40 %, 100.0 MiB/s, 11 s left" in t.raw
        assert "Traceback" not in t.raw


# --- wrong usage ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["nosuch", "--nosuch", "take", "ls --nosuch", "task nosuch", "tasks --limit many"])
def test_wrong_usage_is_told_in_the_readers_language_first(line: str) -> None:
    for environment, is_chinese in ((CHINESE, True), (ENGLISH, False)):
        done = in_shell(f"stillframe {line}", environment=environment)
        assert (done.returncode, done.stdout) == (2, "")
        assert done.stderr.startswith("stillframe：命令用法有误") == is_chinese
        assert "Usage:" in done.stderr


@pytest.mark.parametrize("line", ["", "key"])
def test_help_for_want_of_arguments_is_no_complaint(line: str) -> None:
    done = in_shell(f"stillframe {line}", environment=CHINESE)
    assert (done.returncode, done.stderr) == (2, "")
    assert "Usage:" in done.stdout


@pytest.mark.parametrize(
    "command", [command for _, command in commands(typer.main.get_command(app))], ids=lambda one: one.name
)
def test_help_shows_every_word_of_what_it_says(command: Any) -> None:
    """It is markup to Rich, which swallows what stands in brackets."""
    said = [command.help, *(param.help for param in command.params)]
    assert [words for words in said if words and render(words).plain != words] == []


def test_an_empty_name_is_not_a_wish_for_any_name(run: Run, state: Path, door: DoorClient) -> None:
    """As of a script whose variable is empty: it is handed on, for the service to refuse."""
    door.stub.outcomes["create"] = refused(ErrorCase.NAME_ILLEGAL, "name is empty")
    result = run("take", VM, "", "--state", state)
    assert (result.code, result.out) == (1, "")
    assert [one[2] for one in door.stub.asked] == [""]


# --- names ---------------------------------------------------------------------------------------------------------

FAMILY = "\N{WOMAN}\N{ZERO WIDTH JOINER}\N{WOMAN}\N{ZERO WIDTH JOINER}\N{GIRL}"


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("e\N{COMBINING ACUTE ACCENT}a\N{COMBINING DIAERESIS}", 2),
        ("数据", 4),
        (FAMILY, 2),
        ("\N{BLACK SUN WITH RAYS}\N{VARIATION SELECTOR-16}", 2),
        ("a\N{ZERO WIDTH SPACE}b", 3),  # the question mark in its place is seen
    ],
)
def test_columns_stand_below_each_other_whatever_is_in_them(name: str, columns: int) -> None:
    first, second = table([[name, "|"], ["x" * 10, "|"]])
    assert first.removeprefix(printable(name)) == " " * (10 - columns) + "  |"
    assert second == "x" * 10 + "  |"


def test_what_holds_a_picture_together_is_shown_and_what_hides_is_not() -> None:
    assert printable(FAMILY) == FAMILY
    assert printable("می\N{ZERO WIDTH NON-JOINER}خواهم") == "می\N{ZERO WIDTH NON-JOINER}خواهم"
    for hidden in "\u200b\u202e\u2066\x1b\ufeff\u00ad":
        assert printable(f"a{hidden}b") == "a?b"
    # between plain letters it joins nothing, and only makes two names look alike
    assert printable("we\N{ZERO WIDTH JOINER}b") == "we?b"


@pytest.mark.parametrize(
    ("whole", "shown"),
    [
        ("short", "short"),
        ("x" * 60, "x" * 60),
        ("x" * 61, "x" * 59 + "…"),
        ("数" * 31, "数" * 29 + "…"),
        ("first\nsecond", "first…"),
        ("", ""),
    ],
)
def test_of_a_long_description_a_list_shows_the_beginning(whole: str, shown: str) -> None:
    assert brief(whole) == shown


def test_a_family_in_a_fact_is_one_picture(run: Run, state: Path, door: DoorClient) -> None:
    door.stub.outcomes["get_snapshot"] = a_snapshot(name=FAMILY)
    assert f"name    {FAMILY}\n" in run("show", VM, "origin", "--state", state).out
