"""Long work on the command line: what runs, how far it is, and stopping it."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from stillframe.cli.client import call
from stillframe.cli.plain import State, human_bytes, moment, printable, service_at, table, uuid_of

TASK = "/v1/compute/vsd/snapshot/task"
_PAGE_ROWS = 1000
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400

task = typer.Typer(help="Operations: what runs, how far it is, and stopping it.", no_args_is_help=True)

AsJson = Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")]
TaskUuid = Annotated[str, typer.Argument(metavar="TASK", help="Its uuid.")]


@task.command("list")
def list_tasks(
    machine: Annotated[str, typer.Option("--vm", metavar="VM", help="Only this one's, by name or uuid.")] = "",
    in_state: Annotated[str, typer.Option("--in", metavar="STATE", help="Only those in it, such as running.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most tasks that are shown.")] = 20,
    state: State = None,
    as_json: AsJson = False,
) -> None:
    """Show the operations, newest first."""
    service = service_at(state)
    filters = {"compute_uuid": uuid_of(service, machine) if machine else "", "state": in_state}
    rows: list[dict[str, Any]] = []
    after = ""
    while len(rows) < limit:
        query = {**filters, "limit": min(_PAGE_ROWS, limit - len(rows)), "after": after}
        page = call(service, "GET", f"{TASK}/list", params=query)
        rows += page["list"]
        after = page["next"]
        if not after:
            break
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    heads = ["uuid", "kind", "state", "progress", "rate", "left", "started", "vm", "snapshot"]
    for line in table([heads, *(_cells(row) for row in rows)]):
        typer.echo(line)


@task.command("show")
def show_task(uuid: TaskUuid, state: State = None, as_json: AsJson = False) -> None:
    """Show one operation."""
    row = call(service_at(state), "GET", f"{TASK}/get", params={"uuid": uuid})
    if as_json:
        typer.echo(json.dumps(row, ensure_ascii=False, indent=2))
        return
    for line in table([[name, value] for name, value in _facts(row) if value]):
        typer.echo(line)


@task.command("cancel")
def cancel_task(uuid: TaskUuid, state: State = None) -> None:
    """Let an operation be undone; refused when it is past its point of no return. Prints its state."""
    typer.echo(printable(call(service_at(state), "POST", f"{TASK}/cancel", json={"uuid": uuid})["state"]))


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        row["uuid"],
        row["kind"],
        row["state"],
        f"{row['progress']} %",
        _rate(row) or "-",
        _left(row) or "-",
        moment(row["started_at"]),
        row["compute_name"] or row["compute_uuid"],
        row["snapshot"],
    ]


def _facts(row: dict[str, Any]) -> list[tuple[str, str]]:
    """What is worth a line; an empty value is none."""
    counted = f"{human_bytes(row['bytes_done'])} of {human_bytes(row['bytes_total'])}" if row["bytes_total"] else ""
    return [
        ("uuid", row["uuid"]),
        ("kind", row["kind"]),
        ("vm", " ".join(part for part in (row["compute_name"], row["compute_uuid"]) if part)),
        ("tenant", row["tenant"]),
        ("snapshot", row["snapshot"]),
        ("state", row["state"] + (" (can be cancelled)" if row["cancellable"] else "")),
        ("progress", f"{row['progress']} %, {row['steps_done']} of {row['steps_total']} steps"),
        ("step", row["step"]),
        ("copied", counted),
        ("rate", _rate(row)),
        ("time left", _left(row)),
        ("started", moment(row["started_at"])),
        ("ended", "" if row["ended_at"] is None else moment(row["ended_at"])),
        ("error", row["error"]),
    ]


def _rate(row: dict[str, Any]) -> str:
    return f"{human_bytes(row['rate_bytes_s'])}/s" if row["rate_bytes_s"] else ""


def _left(row: dict[str, Any]) -> str:
    return "" if row["time_left_s"] is None else human_time(row["time_left_s"])


def human_time(seconds: int) -> str:
    """The two largest units: 3700 as "1 h 1 min"."""
    if seconds < _MINUTE_S:
        return f"{seconds} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S} min {seconds % _MINUTE_S} s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S} h {seconds % _HOUR_S // _MINUTE_S} min"
    return f"{seconds // _DAY_S} d {seconds % _DAY_S // _HOUR_S} h"
