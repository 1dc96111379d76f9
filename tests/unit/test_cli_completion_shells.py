"""Completion in the shells themselves: whatever is in a name arrives as one word, and runs nothing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.cli.quoting import BashLine
from stillframe.operations.requests import SnapshotPage, VmPage
from support.http_door import DoorClient, a_row, a_snapshot
from support.terminal import Terminal
from unit.test_cli import state
from unit.test_cli_completion import environment, named, offers

__all__ = ["environment", "named", "state"]  # fixtures

# how each is started without anybody's own settings, learns to complete, and says what it was given instead of running it
SHELLS = {
    "bash": (
        ["bash", "--norc", "--noprofile"],
        'bind "set enable-bracketed-paste off"; eval "$(_STILLFRAME_COMPLETE=source_bash stillframe)"',
        "stillframe() { printf '<%s>' \"$@\"; echo; }",
    ),
    "zsh": (
        ["zsh", "-f", "-i"],
        "unset zle_bracketed_paste; autoload -U compinit; compinit -u -D; source <(_STILLFRAME_COMPLETE=source_zsh stillframe)",
        "stillframe() { printf '<%s>' \"$@\"; echo; }",
    ),
    "fish": (
        ["fish", "--no-config"],
        "_STILLFRAME_COMPLETE=source_fish stillframe | source",
        "function stillframe; printf '<%s>' $argv; echo; end",
    ),
}
# what is typed of it, and the snapshot's name
NAMES = {
    "two": "two words",
    "it": "it's",
    "q": 'q"d',
    "d": "d$(touch x)",
    "k": "k`touch x`",
    "f": "f;touch x",
    "b": "b\\x",
    "中": "中文 名",
    "w": "w*?[x]{a,b}",
    "m": "m[bold]&<>|",
    "ex": "ex!1 !!",
    "2026": "2026-11-25T10:12:30",
    "2027-01-01T10:": "2027-01-01T10:12:30 late",
    "c:": "c:d$(touch x)",
    "p%": "p%s~#^=@",
    "'tw": "two words",
    '"d': "d$(touch x)",
    '"k': "k`touch x`",
    "two\\ ": "two words",
    '"ex': "ex!1 !!",
}
# what people write of snapshots, with what a terminal, zsh or rich would read in it
DESCRIPTION = '[/no] [bold] $(touch x) `touch x` it\'s "so" a:b'


@contextmanager
def shell_of(name: str, environment: dict[str, str], cwd: Path) -> Iterator[Terminal]:
    command, learn, say = SHELLS[name]
    with Terminal(command, environment={**environment, "PS1": "", "HISTFILE": "", "TERM": "xterm"}, cwd=cwd) as shell:
        shell.type(f"{learn}; {say}; echo rea''dy\n")
        shell.hear("ready")
        yield shell
        shell.type("exit\n")
        shell.end()


@pytest.mark.parametrize("name", SHELLS)
def test_a_name_arrives_as_one_word_and_runs_nothing(
    environment: dict[str, str], named: DoorClient, tmp_path: Path, name: str
) -> None:
    rows = tuple(a_snapshot(name=one, description=DESCRIPTION) for one in dict.fromkeys(NAMES.values()))
    named.stub.outcomes["list_snapshots"] = SnapshotPage(rows, len(rows))
    cwd = tmp_path / "empty"
    cwd.mkdir()
    with shell_of(name, environment, cwd) as shell:
        for typed, whole in NAMES.items():
            shell.type(f"stillframe show web-1 {typed}\t\n")
            shell.hear(f"<show><web-1><{whole}>")
    assert list(cwd.iterdir()) == []


def split(*words: str) -> BashLine:
    return BashLine.of({"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(len(words) - 1)})


def test_bash_gets_what_stands_behind_the_last_break() -> None:
    line = split("stillframe", "tasks", "--vm", "=", "web", ":", "1")
    assert line.words == ("stillframe", "tasks", "--vm=web:1")
    assert line.quoted("web:12\nweb:1 b") == "12\n1\\ b"
    assert split("stillframe", "show", "web", "::").quoted("web::1:2") == "1:2"
    # bash has been told not to break at colons
    assert split("stillframe", "show", "web:1").quoted("web:12") == "web:12"


def test_the_cursor_may_stand_before_the_end() -> None:
    words = {"COMP_WORDS": "stillframe\nshow\nw\nbase", "COMP_CWORD": "2"}
    assert BashLine.of(words).environment() == {"COMP_WORDS": "stillframe\nshow\nw", "COMP_CWORD": "2"}


def test_a_name_of_several_lines_is_not_offered(environment: dict[str, str], named: DoorClient) -> None:
    rows = tuple(replace(a_row(), name=name) for name in ("web\n--yes", "web\x1b[2J", "web-1"))
    named.stub.outcomes["list_vms"] = VmPage(rows, len(rows))
    for shell in SHELLS:
        told = "\n".join(offers(environment, "show", "", asking=shell))
        assert "web-1" in told
        assert "yes" not in told
        assert "\x1b" not in told


@pytest.mark.parametrize("shell", ["zsh", "fish"])
def test_a_description_is_one_short_line(environment: dict[str, str], named: DoorClient, shell: str) -> None:
    one = a_snapshot(name="base", description="first\nsecond\x1b[2J " + "long " * 200)
    named.stub.outcomes["list_snapshots"] = SnapshotPage((one,), 1)
    [line] = offers({**environment, "COLUMNS": "20"}, "show", "web-1", "", asking=shell)
    assert "first second?[2J long" in line
    assert line.count("long") < 20
