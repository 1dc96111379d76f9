"""The operation log on the command line."""

from __future__ import annotations

import json
import re
import time
from datetime import UTC, datetime
from typing import Annotated, Any

import typer

from stillframe.cli.client import call
from stillframe.cli.plain import State, moment, service_at, table, uuid_of

LOG = "/v1/compute/vsd/snapshot/log/list"
_PAGE_ROWS = 1000
_AGO = re.compile(r"([0-9]{1,9})([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
_DATE = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}.*")
_UNIX = re.compile(r"[0-9]{1,12}")


def show_log(
    *,
    machine: Annotated[str, typer.Option("--vm", metavar="VM", help="Only this one's, by name or uuid.")] = "",
    tenant: Annotated[str, typer.Option(help="Only this one's.")] = "",
    key: Annotated[str, typer.Option(metavar="ID", help="Only what this key did: the part after sfk_.")] = "",
    what: Annotated[str, typer.Option("--call", metavar="CALL", help="Only this call, such as rollback.")] = "",
    failed: Annotated[bool, typer.Option("--failed", help="Only what was refused or failed.")] = False,
    since: Annotated[str, typer.Option(metavar="WHEN", help="From then on: 2h, 7d, 2026-01-31T12:00 (UTC).")] = "",
    until: Annotated[str, typer.Option(metavar="WHEN", help="Until then.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most lines that are shown.")] = 50,
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")] = False,
) -> None:
    """Show who did or attempted what, newest first."""
    moments = {"since": _moment_of(since, "--since"), "until": _moment_of(until, "--until")}
    service = service_at(state)
    filters = {
        "compute_uuid": uuid_of(service, machine) if machine else "",
        "tenant": tenant,
        "key_id": key,
        "call": what,
        "failed": str(failed).lower(),
        **{name: at for name, at in moments.items() if at is not None},
    }
    rows: list[dict[str, Any]] = []
    after = ""
    while len(rows) < limit:
        query = {**filters, "limit": min(_PAGE_ROWS, limit - len(rows)), "after": after}
        page = call(service, "GET", LOG, params=query)
        rows += page["list"]
        after = page["next"]
        if not after:
            break
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    heads = ["when", "key", "address", "tenant", "call", "vm", "mark", "snapshot", "scode", "ms", "what"]
    for line in table([heads, *(_cells(row) for row in rows)]):
        typer.echo(line)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        moment(row["at"]),
        row["key_id"] or "-",
        row["address"] or "-",
        row["tenant"] or "-",
        row["call"] or "-",
        row["compute_name"] or row["compute_uuid"] or "-",
        row["mark"] or "-",
        row["snapshot"] or "-",
        str(row["scode"]),
        str(row["duration_ms"]),
        row["desc"] or row["operation_uuid"] or "-",
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
