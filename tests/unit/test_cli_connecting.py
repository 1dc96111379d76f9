"""Which service a command is for, in which language it speaks, and how it ends when the answer is lost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stillframe.domain.errors import ErrorCase
from support.http_door import ADMIN_KEY, OPERATION, VM, DoorClient, refused
from unit.test_cli import Run, run, spoken, state
from unit.test_client import output, scripted

__all__ = ["run", "state"]  # fixtures


@pytest.mark.parametrize(
    ("environment", "chinese"),
    [
        ({"LANG": "zh_CN.UTF-8"}, True),
        ({"LANG": "en_GB.UTF-8", "LC_MESSAGES": "zh_TW"}, True),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, False),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": ""}, True),
        ({}, False),
    ],
)
def test_an_api_error_is_told_in_the_readers_language(
    run: Run,
    state: Path,
    door: DoorClient,
    *,
    monkeypatch: pytest.MonkeyPatch,
    environment: dict[str, str],
    chinese: bool,
) -> None:
    for name in ("LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    door.stub.outcomes["delete_guest"] = refused(ErrorCase.VM_BUSY, "create since noon")
    result = run("guest", "delete", "g", "--state", state)
    assert (result.code, result.out) == (1, "")
    case = ErrorCase.VM_BUSY.value
    assert result.err.splitlines() == [case.message_cn if chinese else case.message, "create since noon"]


@pytest.fixture
def profiles(served: tuple[DoorClient, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """profiles.toml, with a profile of the door and one of a service that is not there."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setenv("STILLFRAME_STATE", str(tmp_path / "none"))
    file = tmp_path / "stillframe" / "profiles.toml"
    file.parent.mkdir()
    file.write_text(
        f'default = "here"\n[profile.here]\nurl = "{served[1]}"\nkey = "{ADMIN_KEY}"\n'
        f'[profile.gone]\nstate = "{tmp_path}/gone"\n'
    )
    file.chmod(0o600)
    return file


def test_a_profile_by_option_environment_and_default(
    run: Run, door: DoorClient, profiles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert run("ls").code == 3, "the environment's state directory goes before the default"
    assert VM in run("ls", "--profile", "here").out
    monkeypatch.setenv("STILLFRAME_PROFILE", "here")
    assert VM in run("ls").out
    assert run("ls", "--profile", "gone").code == 3
    monkeypatch.delenv("STILLFRAME_PROFILE")
    monkeypatch.delenv("STILLFRAME_STATE")
    assert VM in run("ls").out


def test_a_profile_that_cannot_be_used_is_wrong_usage(run: Run, profiles: Path, door: DoorClient) -> None:
    for words in (("--profile", "none"), ("--profile", "here", "--state", "/s")):
        result = run("ls", *words)
        assert (result.code, result.out) == (2, "")
        assert result.err
    profiles.chmod(0o644)
    result = run("ls", "--profile", "here")
    assert (result.code, result.out) == (2, "")
    assert "chmod 600" in result.err
    assert ADMIN_KEY not in result.err
    assert door.stub.asked == []


def test_doctor_looks_by_itself_for_this_machines_service_alone(
    run: Run, profiles: Path, door: DoorClient, tmp_path: Path
) -> None:
    """Of a service elsewhere it can see nothing."""
    profiles.write_text('[profile.far]\nurl = "http://127.0.0.1:1"\nkey = "k"\n')
    result = run("doctor", "--profile", "far")
    assert (result.code, result.out) == (3, "")
    assert "http://127.0.0.1:1" in result.err


def test_a_key_is_kept_where_it_was_only_for_this_machines_service(run: Run, profiles: Path, door: DoorClient) -> None:
    result = run("key", "rotate", "0123456789ab", "--profile", "here")
    assert (result.code, result.out) == (0, "sfk_new\n")


def test_an_answer_that_is_lost_decides_nothing(run: Run, tmp_path: Path) -> None:
    """What changes something ends with 5, what only looks with 1."""
    (tmp_path / "admin.key").write_text("k")
    for words, code in ((("edit", VM, "a", "-m", "d"), 5), (("cancel", OPERATION), 5), (("tasks",), 1)):
        with scripted((None, {})) as (script, url), spoken(tmp_path, url):
            result = run(*words, "--state", tmp_path)
        assert (result.code, result.out) == (code, "")
        assert len(script.asked) == 1
        assert ("task list" in result.err) == (code == 5)


def test_an_answer_of_a_newer_service_is_printed_whole(run: Run, tmp_path: Path) -> None:
    (tmp_path / "admin.key").write_text("k")
    data = {"version": "9", "cluster_uuid": "u", "cluster_name": "n", "colour": ["red"]}
    with scripted((output(data), {})) as (_, url), spoken(tmp_path, url):
        assert json.loads(run("version", "--json", "--state", tmp_path).out) == data
