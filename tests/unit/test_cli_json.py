"""What ``--json`` prints is the API's own data, by the OpenAPI document; and docs/cli.md is what the commands are."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer.main

from stillframe.cli.ending import EXITS
from stillframe.cli.main import app
from stillframe.cli.reference import JSON, commands
from stillframe.operations.tasks import TaskPage, TaskState
from support.http_door import OPERATION, SNAPSHOT, TENANT, VM, DoorClient, a_task, answer_schemas
from unit.test_cli import Run, run, state

__all__ = ["run", "state"]  # fixtures

PAGE = Path(__file__).parents[2] / "docs" / "cli.md"
TYPED: dict[str, tuple[str, ...]] = {
    "ls": ("ls",),
    "show VM": ("show", "测试"),
    "show VM SNAPSHOT": ("show", VM, SNAPSHOT),
    "tree": ("tree", VM),
    "take": ("take", VM, "--memory", "-m", "d"),
    "rollback": ("rollback", VM, "origin", "--memory", "--yes"),
    "rollback-disk": ("rollback-disk", VM, "origin", "sda", "-y"),
    "edit": ("edit", VM, "origin", "-m", ""),
    "rm": ("rm", VM, "origin", "--yes"),
    "tasks": ("tasks",),
    "watch": ("watch", "测试"),
    "watch TASK": ("watch", OPERATION),
    "cancel": ("cancel", OPERATION),
    "task show": ("task", "show", OPERATION),
    "log": ("log",),
    "vm start": ("vm", "start", VM),
    "vm shutdown": ("vm", "shutdown", VM),
    "vm shutoff": ("vm", "shutoff", VM),
    "vm assign": ("vm", "assign", VM, "--tenant", TENANT),
    "guest create": ("guest", "create", "g"),
    "guest delete": ("guest", "delete", "g"),
    "guest console": ("guest", "console", "g"),
    "key create": ("key", "create", "--tenant", TENANT),
    "key list": ("key", "list"),
    "key revoke": ("key", "revoke", "0123456789ab"),
    "key rotate": ("key", "rotate", "0123456789ab"),
    "link rotate": ("link", "rotate"),
    "tenant set": ("tenant", "set", TENANT),
    "tenant list": ("tenant", "list"),
    "tenant usage": ("tenant", "usage", TENANT),
    "doctor": ("doctor",),
    "version": ("version",),
}


def schema_of(call: str, field: str) -> dict[str, Any]:
    """Of the call's data when it was done, every object closed: what is not documented is not printed."""
    document = answer_schemas().document
    (operation,) = [one for path in document["paths"].values() for one in path.values() if one["operationId"] == call]
    answer = operation["responses"]["200"]["content"]["application/json"]["schema"]
    done: list[dict[str, Any]] = []
    for one in answer["anyOf"]:
        output = document["components"]["schemas"][one["$ref"].rsplit("/", 1)[1]]["properties"]
        if output["scode"].get("const") == 0:
            done.append(output["data"])
    if field:
        data = document["components"]["schemas"][done[0]["$ref"].rsplit("/", 1)[1]]
        done = [data["properties"][field]]
    return {"anyOf": done, "components": document["components"]}


def test_every_command_but_serve_has_json_and_is_tried_here() -> None:
    with_json = {
        " ".join(path)
        for path, command in commands(typer.main.get_command(app))
        if any("--json" in one.opts for one in command.params)
    }
    every = {" ".join(path) for path, _ in commands(typer.main.get_command(app))}
    assert every - with_json == {"serve"}
    assert {next(one for one in with_json if f"{typed} ".startswith(f"{one} ")) for typed in JSON} == with_json
    assert set(TYPED) == set(JSON)


@pytest.mark.parametrize("typed", sorted(JSON))
def test_it_is_the_calls_data(run: Run, state: Path, door: DoorClient, typed: str) -> None:
    ended = a_task(state=TaskState.DONE, progress=100, ended_at=1631166700, cancellable=False)
    door.stub.outcomes["get_task"] = ended
    if typed == "watch":
        left = [TaskPage((a_task(),), ""), TaskPage((ended,), "")]
        door.stub.outcomes["list_tasks"] = lambda _: left.pop(0)
    result = run(*TYPED[typed], "--json", "--state", state)
    assert result.code == 0, result.err
    data = json.loads(result.out)
    jsonschema.Draft202012Validator(schema_of(*JSON[typed])).validate(data)
    assert data or typed in {one for one, shape in JSON.items() if not shape.field}


def test_the_check_sees_a_wrong_shape(run: Run, state: Path, door: DoorClient) -> None:
    data = json.loads(run("task", "show", OPERATION, "--json", "--state", state).out)
    for wrong in ({**data, "more": 1}, {**data, "uuid": 5}, [data], {}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.Draft202012Validator(schema_of("getTask", "")).validate(wrong)


def test_the_page_is_what_the_commands_are() -> None:
    command = [sys.executable, "-m", "stillframe.cli.reference"]
    made = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env={"PYTHONUTF8": "1"}).stdout
    assert PAGE.read_text("utf-8") == made, "run: make docs-cli"


def test_no_exit_code_means_two_things() -> None:
    assert [end.code for end in EXITS] == [0, 1, 2, 3, 4, 5, 6, 130]
