"""The operation log on the command line."""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime
from typing import Annotated

import typer

from stillframe.cli.arguments import OnlyVm
from stillframe.cli.connecting import AsJson, connected
from stillframe.cli.plain import moment, print_json, table
from stillframe.client import Client
from stillframe.client.models import LogLine

_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*")
_UNIX = re.compile(r"[0-9]{1,12}")


@connected
def show_log(
    client: Client,
    *,
    vm: OnlyVm = "",
    tenant: Annotated[str, typer.Option(help="Only this one's.")] = "",
    key: Annotated[str, typer.Option(metavar="ID", help="Only what this key did: the part after sfk_.")] = "",
    what: Annotated[str, typer.Option("--call", metavar="CALL", help="Only this call, such as rollback.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only what was refused or failed.")] = False,
    since: Annotated[str, typer.Option(metavar="WHEN", help="From then on: 2h, 7d, 2026-01-31T12:00 (UTC).")] = "",
    until: Annotated[str, typer.Option(metavar="WHEN", help="Until then.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most lines that are shown.")] = 50,
    as_json: AsJson = False,
) -> None:
    """Show who did or attempted what, newest first."""
    rows = client.log(
        since=_moment_of(since, "--since"),
        until=_moment_of(until, "--until"),
        vm=vm,
        tenant=tenant,
        key_id=key,
        call=what,
        failed=failed,
        limit=limit,
    )
    if as_json:
        print_json(rows)
        return
    heads = ["when", "key", "address", "tenant", "call", "vm", "mark", "snapshot", "scode", "ms", "what"]
    for line in table([heads, *(_cells(row) for row in rows)]):
        typer.echo(line)


def _cells(row: LogLine) -> list[str]:
    return [
        moment(row.at),
        row.key_id or "-",
        row.address or "-",
        row.tenant or "-",
        row.call or "-",
        row.compute_name or row.compute_uuid or "-",
        row.mark or "-",
        row.snapshot or "-",
        str(row.scode),
        str(row.duration_ms),
        row.desc or row.operation_uuid or "-",
    ]


def _moment_of(text: str, option: str) -> int | None:
    """Unix seconds of ``90m`` ago, of a date, of a date and time (UTC, unless it says otherwise) or of themselves."""
    if not text:
        return None
    if match := _AGO.fullmatch(text):
        return max(0, int(time.time()) - int(match[1]) * _SECONDS[match[2]])
    if _UNIX.fullmatch(text):
        return int(text)
    try:
        at = datetime.fromisoformat(text if _DATE.fullmatch(text) else "")
    except ValueError as error:
        wanted = "expected 90m, 2h, 7d, a date, a date and time such as 2026-01-31T12:00, or Unix seconds"
        raise typer.BadParameter(wanted, param_hint=option) from error
    return max(0, int((at if at.tzinfo else at.replace(tzinfo=UTC)).timestamp()))
