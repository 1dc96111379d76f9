"""Tenants on the command line: their limits, and what they use of them."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from stillframe.cli.connecting import AsJson, connected
from stillframe.cli.plain import human_bytes, print_json, table
from stillframe.client import Client
from stillframe.client.models import TenantUse

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
@connected
def set_tenant(
    client: Client,
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
    as_json: AsJson = False,
) -> None:
    """Say what a tenant may use. Replaces all that was said before: what is not given falls back to the default."""
    client.set_tenant(
        name,
        memory_open=memory,
        memory_bytes=_bytes(memory_budget, "--memory-budget"),
        space_bytes=_bytes(space_budget, "--space-budget"),
        max_snapshots=max_snapshots,
    )
    if as_json:
        print_json({})


@tenant.command("list")
@connected
def list_tenants(client: Client, *, as_json: AsJson = False) -> None:
    """Show every tenant that has snapshots or limits, with its use and its budgets."""
    _show(client.tenants(), as_json)


@tenant.command("usage")
@connected
def usage(client: Client, name: Name, *, as_json: AsJson = False) -> None:
    """Show one tenant's use and its budgets."""
    _show(client.tenants(tenant=name), as_json)


def _show(rows: list[TenantUse], as_json: bool) -> None:
    if as_json:
        print_json(rows)
        return
    heads = ["tenant", "vms", "snapshots", "most/vm", "space", "of", "memory", "of"]
    for line in table([heads, *(_cells(row) for row in rows)]):
        typer.echo(line)


def _cells(row: TenantUse) -> list[str]:
    memory_budget = row.memory_budget_bytes
    of_memory = "any" if memory_budget is None else human_bytes(memory_budget)
    return [
        row.tenant,
        str(row.vms),
        str(row.snapshots),
        str(row.max_snapshots),
        human_bytes(row.space_bytes),
        human_bytes(row.space_budget_bytes) + ("" if row.space_budget_set else " (3x)"),
        human_bytes(row.memory_bytes),
        of_memory if row.memory_open else "not open",
    ]
