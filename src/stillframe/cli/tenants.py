"""Tenants on the command line: their limits, and what they use of them."""

from __future__ import annotations

import json
import re
from typing import Annotated, Any

import typer

from stillframe.cli.client import call
from stillframe.cli.plain import State, every, human_bytes, service_at, table

TENANT = "/v1/stillframe/tenant"
_SIZE = re.compile(r"([0-9]{1,15})([KMGT]i?B?|B)?", re.IGNORECASE)
_UNITS = {"B": 0, "K": 10, "M": 20, "G": 30, "T": 40}

tenant = typer.Typer(help="Tenants: what they may use, and what they do.", no_args_is_help=True)

Name = Annotated[str, typer.Argument(metavar="TENANT", help="Its uuid.")]


def _bytes(text: str | None, option: str) -> int | None:
    """``20G`` in bytes; None for nothing."""
    if text is None:
        return None
    match = _SIZE.fullmatch(text.strip())
    if match is None:
        raise typer.BadParameter("expected a size such as 500M or 20G, powers of 1024", param_hint=option)
    return int(match[1]) << _UNITS[(match[2] or "B")[0].upper()]


@tenant.command("set")
def set_tenant(
    name: Name,
    *,
    memory: Annotated[
        bool | None, typer.Option("--memory/--no-memory", help="Memory-snapshot space.", show_default=False)
    ] = None,
    memory_budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most bytes of memory states.", show_default=False)
    ] = None,
    space_budget: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Most bytes of snapshots' layers.", show_default=False)
    ] = None,
    max_snapshots: Annotated[
        int | None, typer.Option(min=0, help="Most snapshots of each virtual machine.", show_default=False)
    ] = None,
    state: State = None,
) -> None:
    """Say what a tenant may use. Replaces all that was said before: what is not given falls back to the default."""
    body = {
        "tenant": name,
        "memory_open": memory,
        "memory_bytes": _bytes(memory_budget, "--memory-budget"),
        "space_bytes": _bytes(space_budget, "--space-budget"),
        "max_snapshots": max_snapshots,
    }
    call(service_at(state), "POST", f"{TENANT}/set", json=body)


@tenant.command("list")
def list_tenants(
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")] = False,
) -> None:
    """Show every tenant that has snapshots or limits, with its use and its budgets."""
    _show(_usage(state, ""), as_json)


@tenant.command("usage")
def usage(
    name: Name,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")] = False,
) -> None:
    """Show one tenant's use and its budgets."""
    _show(_usage(state, name), as_json)


def _usage(state: Any, name: str) -> list[dict[str, Any]]:
    return every(service_at(state), f"{TENANT}/usage", {"tenant": name})


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    heads = ["tenant", "vms", "snapshots", "most/vm", "space", "of", "memory", "of"]
    for line in table([heads, *(_cells(row) for row in rows)]):
        typer.echo(line)


def _cells(row: dict[str, Any]) -> list[str]:
    memory_budget = row["memory_budget_bytes"]
    of_memory = "any" if memory_budget is None else human_bytes(memory_budget)
    return [
        row["tenant"],
        str(row["vms"]),
        str(row["snapshots"]),
        str(row["max_snapshots"]),
        human_bytes(row["space_bytes"]),
        human_bytes(row["space_budget_bytes"]) + ("" if row["space_budget_set"] else " (3x)"),
        human_bytes(row["memory_bytes"]),
        of_memory if row["memory_open"] else "not open",
    ]
