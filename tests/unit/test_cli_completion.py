"""Completion of live names: in a real bash, and as zsh and fish ask for it; quiet and quick whatever is wrong."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from stillframe.domain.errors import ErrorCase
from stillframe.operations.requests import SnapshotPage, VmPage, VmQuery
from stillframe.operations.tasks import TaskPage, TaskState
from support.http_door import OPERATION, VM, DoorClient, a_row, a_snapshot, a_task, refused
from support.terminal import Terminal
from unit.test_cli import OTHER_VM, spoken, state

__all__ = ["state"]  # a fixture

BIN = Path(sys.executable).parent


@pytest.fixture
def environment(state: Path, tmp_path: Path) -> dict[str, str]:
    """Of somebody whose service is this one."""
    return {
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "HOME": str(tmp_path),
        "LC_ALL": "C.UTF-8",
        "TERM": "dumb",
        "STILLFRAME_STATE": str(state),
    }


@pytest.fixture
def named(door: DoorClient) -> DoorClient:
    rows = (replace(a_row(), name="web-1"), replace(a_row(), uuid=OTHER_VM, name="数据库"))

    def list_vms(query: VmQuery) -> VmPage:
        found = tuple(row for row in rows if query.name in ("", row.name))
        return VmPage(found, len(found))

    door.stub.outcomes["list_vms"] = list_vms
    names = ("before upgrade", "before$(reboot)", "it's", "plain")
    door.stub.outcomes["list_snapshots"] = SnapshotPage(tuple(a_snapshot(name=name) for name in names), len(names))
    door.stub.outcomes["list_tasks"] = TaskPage((a_task(), a_task(uuid=OTHER_VM, state=TaskState.DONE)), "")
    return door


def offers(environment: dict[str, str], *words: str, asking: str = "bash") -> list[str]:
    """What the shell is told when the last of these words is being typed."""
    asked = {"_STILLFRAME_COMPLETE": f"complete_{asking}"}
    if asking == "bash":
        asked |= {"COMP_WORDS": "\n".join(("stillframe", *words)), "COMP_CWORD": str(len(words))}
    else:
        asked |= {"_TYPER_COMPLETE_ARGS": " ".join(("stillframe", *words)), "_TYPER_COMPLETE_FISH_ACTION": "get-args"}
    done = subprocess.run(
        [BIN / "stillframe"], env={**environment, **asked}, capture_output=True, text=True, check=True, timeout=30
    )
    assert done.stderr == ""
    return [line for line in done.stdout.splitlines() if line]


def test_in_a_real_bash(environment: dict[str, str], named: DoorClient) -> None:
    """As somebody types it: what is completed arrives as one word, whatever is in it."""
    with Terminal(["bash", "--norc", "--noprofile"], environment={**environment, "PS1": "", "HISTFILE": ""}) as shell:
        shell.type('bind "set enable-bracketed-paste off"; eval "$(stillframe --show-completion)"; echo rea""dy\n')
        shell.hear("ready")
        # the words are those of the line that was completed
        shell.type("says() { printf '<%s>' \"$@\"; echo; }; complete -F _stillframe_completion stillframe\n")
        for typed, completed in (
            ("stillframe show we\t", "<show><web-1>"),
            ("stillframe show 数\t", "<show><数据库>"),
            ("stillframe show web-1 before\\ \t", "<show><web-1><before upgrade>"),
            ("stillframe rm web-1 before\\$\t", "<rm><web-1><before$(reboot)>"),
            ("stillframe rollback web-1 it\t", "<rollback><web-1><it's>"),
            ("stillframe rollback-disk web-1 plain s\t", "<rollback-disk><web-1><plain><sda>"),
            (f"stillframe cancel {OPERATION[:4]}\t", f"<cancel><{OPERATION}>"),
            ("stillframe rollb\t", "<rollback>"),
        ):
            shell.type(typed)
            # to the line's beginning, where the program's name becomes that of one that says what it was given
            shell.type("\x01\x1bdsays\x05\n")
            shell.hear(completed)
        shell.type("exit\n")
        shell.end()


def test_as_each_shell_asks(environment: dict[str, str], named: DoorClient) -> None:
    assert offers(environment, "show", "") == ["web-1", "数据库"]
    assert offers(environment, "watch", "") == ["web-1", "数据库", OPERATION]
    assert offers(environment, "tasks", "--vm", "w") == ["web-1"]
    assert offers(environment, "show", "web-1", "'before u") == ["before upgrade"]
    assert offers(environment, "show", "web-1", "before") == [r"before\ upgrade", r"before\$\(reboot\)"]
    fish = offers(environment, "show", "", asking="fish")
    assert [line.split("\t")[0] for line in fish] == ["web-1", "数据库"]
    zsh = "\n".join(offers(environment, "show", "", asking="zsh"))
    assert '"web-1":"running"' in zsh


# what Typer's script for zsh does with an offer, and then zsh's own _arguments: bash quotes in the same way
_ZSH = """
_arguments() { action=${1#'*: :(('}; eval "ws=( ${action%'))'} )"; }
set -f
eval $(stillframe)
printf '%s\\n' "${ws[@]}"
"""


def test_zsh_runs_nothing_of_what_it_is_offered(environment: dict[str, str], named: DoorClient, tmp_path: Path) -> None:
    """It evaluates the offers; who may name or describe a snapshot must not choose what is run by who types."""
    hostile = (
        r"a\$(touch x)", r"b\`touch x`", "c'; touch x; '", 'd"; touch x; "', r"e\"; touch x; \"", "f) ; touch x ; (", "g\\", "h:i",
        "j$(touch x)", "it's",
    )  # fmt: skip
    rows = tuple(a_snapshot(name=name, description=name) for name in hostile)
    named.stub.outcomes["list_snapshots"] = SnapshotPage(rows, len(rows))
    asking = {"_STILLFRAME_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "stillframe show web-1 "}
    done = subprocess.run(
        ["bash", "-c", _ZSH], env={**environment, **asking}, cwd=tmp_path, capture_output=True, text=True, check=True
    )
    assert done.stderr == ""
    assert not (tmp_path / "x").exists()
    # what _describe takes apart at a colon that nothing escapes
    escaped = [name.replace("\\", "\\\\").replace(":", r"\:") for name in hostile]
    assert done.stdout.splitlines() == [f"{name}:{name}" for name in escaped]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_the_shell(environment: dict[str, str], shell: str) -> None:
    made = subprocess.run(
        [BIN / "stillframe"],
        env={**environment, "_STILLFRAME_COMPLETE": f"source_{shell}"},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert f"complete_{shell}" in made.stdout
    assert made.stderr == ""


def test_profiles_are_offered_too(environment: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / ".config" / "stillframe" / "profiles.toml"
    file.parent.mkdir(parents=True)
    file.write_text('[profile.lab]\nurl = "https://lab"\n[profile.home]\nstate = "/s"\n')
    assert offers(environment, "ls", "--profile", "l") == ["lab"]
    file.write_text("[")
    assert offers(environment, "ls", "--profile", "l") == []


def test_the_service_that_the_line_names_is_asked(
    environment: dict[str, str], named: DoorClient, state: Path, tmp_path: Path
) -> None:
    elsewhere = {**environment, "STILLFRAME_STATE": str(tmp_path / "none")}
    assert offers(elsewhere, "show", "") == []
    assert offers(elsewhere, "show", "--state", str(state), "w") == ["web-1"]


def test_whatever_is_wrong_nothing_is_said(environment: dict[str, str], named: DoorClient, state: Path) -> None:
    named.stub.outcomes["list_vms"] = refused(ErrorCase.HOST_UNREACHABLE)
    assert offers(environment, "show", "") == []
    named.stub.outcomes["list_vms"] = RuntimeError("crash")
    assert offers(environment, "show", "") == []
    assert offers({**environment, "STILLFRAME_MAX_CHAIN_DEPTH": "many"}, "show", "") == []
    assert offers({**environment, "STILLFRAME_PROFILE": "none"}, "show", "") == []
    (state / "admin.key").write_text("wrong")
    assert offers(environment, "show", VM, "") == []


def test_who_does_not_come_to_an_end_is_given_up(environment: dict[str, str], tmp_path: Path) -> None:
    """A service whose answer trickles for ever; ``offers`` fails where the command does not end."""
    over = threading.Event()
    (tmp_path / "admin.key").write_text("k")
    with socket.create_server(("127.0.0.1", 0)) as slow:

        def trickle() -> None:
            with slow.accept()[0] as connection:
                connection.sendall(b"HTTP/1.1 200 OK\r\n")
                while not over.wait(0.2):
                    try:
                        connection.sendall(b"X: y\r\n")
                    except OSError:
                        return  # it has been given up

        thread = threading.Thread(target=trickle)
        thread.start()
        try:
            with spoken(tmp_path, f"http://127.0.0.1:{slow.getsockname()[1]}"):
                assert offers({**environment, "STILLFRAME_STATE": str(tmp_path)}, "show", "") == []
        finally:
            over.set()
            thread.join()
