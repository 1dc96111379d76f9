"""The page of the command line, made from the commands themselves: ``python -m stillframe.cli.reference > docs/cli.md``."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple

import typer.main

from stillframe.cli.ending import EXITS
from stillframe.cli.main import app


class Shape(NamedTuple):
    """What ``--json`` prints: the call's ``data``, or the list in its ``field``."""

    call: str  # its operationId in /openapi.json
    field: str = ""


# the command as it is typed -> what its --json is; a test holds each against the OpenAPI document
JSON = {
    "ls": Shape("listVms", "domains"),
    "show VM": Shape("getVmOverview"),
    "show VM SNAPSHOT": Shape("getSnapshot"),
    "tree": Shape("getSnapshotTree"),
    "take": Shape("getSnapshot"),
    "rollback": Shape("rollbackSnapshot"),
    "rollback-disk": Shape("rollbackVolumes"),
    "edit": Shape("modifySnapshot"),
    "rm": Shape("deleteSnapshot"),
    "tasks": Shape("listTasks", "list"),
    "watch": Shape("listTasks", "list"),
    "watch TASK": Shape("getTask"),
    "cancel": Shape("cancelTask"),
    "task show": Shape("getTask"),
    "log": Shape("listLog", "list"),
    "vm start": Shape("startVm"),
    "vm shutdown": Shape("shutdownVm"),
    "vm shutoff": Shape("shutoffVm"),
    "vm assign": Shape("assignVm"),
    "guest create": Shape("createGuest"),
    "guest delete": Shape("deleteGuest"),
    "guest console": Shape("getGuestConsole"),
    "key create": Shape("createKey"),
    "key list": Shape("listKeys", "list"),
    "key revoke": Shape("revokeKey"),
    "key rotate": Shape("rotateKey"),
    "link rotate": Shape("rotateLinks"),
    "tenant set": Shape("setTenant"),
    "tenant list": Shape("getTenantUsage", "list"),
    "tenant usage": Shape("getTenantUsage", "list"),
    "doctor": Shape("getDoctor"),
    "version": Shape("getVersion"),
}
# what each command has: said once
_COMMON = frozenset({"state", "profile", "as_json", "help"})

_HEAD = """# The command line

<!-- Generated from the commands: make docs-cli -->

`stillframe COMMAND --help` says the same. Virtual machines and snapshots are given by name or uuid; completion offers the live
ones: `stillframe --install-completion` (bash, zsh, fish).

## Which service

| | |
|---|---|
| `--state DIR` | the service of this machine with this state directory, and the key that it keeps there for its owner |
| `--profile NAME` | the service of this name in `~/.config/stillframe/profiles.toml` (`XDG_CONFIG_HOME`) |
| `STILLFRAME_PROFILE`, else `STILLFRAME_STATE` | the same by environment, where no option says it |
| `default = "NAME"` in `profiles.toml` | where neither says it; without it the state directory that `stillframe serve` takes |

A key is never an option: everybody on the machine can read those. It is the state directory's, or a profile's (`key_file`, or
`key` in the file itself), or that of the variable `STILLFRAME_API_KEY`, which goes before a state directory's and after a
profile's own. A file with a key that others can read is refused.

```toml
default = "lab"

[profile.lab]
url = "https://lab.example:8443"
key_file = "~/.config/stillframe/lab.key"
certificate = "~/.config/stillframe/lab.pem"   # trusted alone; without it: what this machine trusts

[profile.here]
state = "/var/lib/stillframe"
```

Plain HTTP beyond this machine would show the key to the network; `plain_http = true` allows it.

## What it prints

Results go to stdout; questions, progress and errors to stderr, errors and questions in Chinese where the first of `LC_ALL`,
`LC_MESSAGES` and `LANG` that is set begins with `zh`, else in English. Progress is a bar with rate and time left on a terminal,
else a line whenever there is something to tell. `--json`, which every command but `serve` has, prints the API's own `data`, which
`/openapi.json` describes; the commands below say of which call. A list is the list of the rows.

What throws something away (`rollback`, `rollback-disk`, `rm`) asks first and says what goes; `--yes` does not ask. Where nobody
can be asked it is refused without `--yes`.

The older spellings `vm list`, `task list` and `task cancel` go on working.

## Exit codes

| code | meaning |
|---|---|
"""


def page() -> str:
    """The whole page as Markdown; the same commands give the same bytes."""
    codes = "".join(f"| {end.code} | {end.meaning} |\n" for end in EXITS)
    return f"{_HEAD}{codes}\n## Commands\n\n" + "\n".join(_sections(typer.main.get_command(app), ()))


def commands(group: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every command that is not a hidden spelling of another, with its path."""
    for name, command in group.commands.items():
        if command.hidden:
            continue
        if hasattr(command, "commands"):
            yield from commands(command, (*path, name))
        else:
            yield (*path, name), command


def _sections(group: Any, path: tuple[str, ...]) -> Iterator[str]:
    for name, command in commands(group, path):
        yield _section(" ".join(name), command)


def _section(name: str, command: Any) -> str:
    arguments = [one for one in command.params if one.param_type_name == "argument"]
    options = [one for one in command.params if one.param_type_name == "option" and one.name not in _COMMON]
    usage = " ".join(["stillframe", name, *map(_usage_of, arguments), *(["[OPTIONS]"] if options else [])])
    parts = [f"### {name}\n\n    {usage}\n\n{inspect.cleandoc(command.help or '')}\n"]
    rows = [
        (_spelled(one), (one.help or "") + _must_be_given(one))
        for one in [*arguments, *options]
        if one.help or one in options
    ]
    if rows:
        parts.append(
            "\n| | |\n|---|---|\n" + "".join(f"| `{_cell(first)}` | {_cell(second)} |\n" for first, second in rows)
        )
    shapes = [(typed, shape) for typed, shape in JSON.items() if typed == name or typed.startswith(f"{name} ")]
    if shapes:
        told = "; ".join(_shape_of(typed, name, shape) for typed, shape in shapes)
        parts.append(f"\n`--json`: {told}.\n")
    return "".join(parts)


def _usage_of(argument: Any) -> str:
    name = argument.metavar or argument.name.upper()
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return _usage_of(parameter)
    names = [*parameter.opts, *parameter.secondary_opts]
    value = "" if parameter.is_flag else f" {parameter.metavar or parameter.name.upper()}"
    return ", ".join(names) + value


def _must_be_given(parameter: Any) -> str:
    return " Has to be given." if parameter.required and parameter.param_type_name == "option" else ""


def _shape_of(typed: str, name: str, shape: Shape) -> str:
    told = f"`{shape.call}`" + (f", its `{shape.field}`" if shape.field else "")
    return told if typed == name else f"{told} (`{typed}`)"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    sys.stdout.write(page())
