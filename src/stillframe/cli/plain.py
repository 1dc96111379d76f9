"""How commands print."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from typing import Any

import typer
from pydantic import ValidationError
from rich.cells import cell_len, set_cell_size

from stillframe.cli.ending import USAGE, CliError
from stillframe.cli.words import Words
from stillframe.client.models import Record
from stillframe.settings import Settings

_KIB = 1024
_MINUTE_S, _HOUR_S, _DAY_S = 60, 3600, 86400
# they hold together what is written before and behind them: families of emoji, Persian, Hindi
_JOINERS = "\u200c\u200d"
_BRIEF_COLUMNS = 60
_MOMENT_MAX = 253_402_300_799  # the end of the year 9999


def settings_with(**chosen: Any) -> Settings:
    try:
        return Settings(**chosen)
    except ValidationError as error:
        reasons = [f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors()]
        words = (Words(f"stillframe: setting {reason}", f"stillframe：设置 {reason}") for reason in reasons)
        raise CliError(USAGE, *words) from error


def print_json(value: Record | Sequence[Record] | dict[str, Any]) -> None:
    """As the API has it, for programs."""
    data: Any = value
    if isinstance(value, Record):
        data = value.as_json()
    elif not isinstance(value, dict):
        data = [row.as_json() for row in value]
    typer.echo(json.dumps(data, ensure_ascii=False, indent=2))


def complain(lines: Iterable[str]) -> None:
    """On stderr."""
    for line in lines:
        typer.echo(printable(line), err=True)


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns: what a terminal shows twice as wide, or on top of another, counts so."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell + " " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]


def moment(at_s: int) -> str:
    if at_s > _MOMENT_MAX:
        return "after the year 9999"
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def human_bytes(count: int) -> str:
    """1536 as "1.5 KiB"."""
    if count < _KIB:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        value /= _KIB
        if round(value, 1) < _KIB:
            return f"{value:.1f} {unit}"
    return f"{value / _KIB:.1f} TiB"


def human_time(seconds: int) -> str:
    """The two largest units: 3700 as "1 h 1 min"."""
    if seconds < _MINUTE_S:
        return f"{seconds} s"
    if seconds < _HOUR_S:
        return f"{seconds // _MINUTE_S} min {seconds % _MINUTE_S} s"
    if seconds < _DAY_S:
        return f"{seconds // _HOUR_S} h {seconds % _HOUR_S // _MINUTE_S} min"
    return f"{seconds // _DAY_S} d {seconds % _DAY_S // _HOUR_S} h"


def brief(text: str) -> str:
    """The beginning of its first line, for where many stand below each other; what is left out is marked."""
    first = text.split("\n", 1)[0].rstrip()
    if first == text and cell_len(text) <= _BRIEF_COLUMNS:
        return text
    return set_cell_size(first, min(cell_len(first), _BRIEF_COLUMNS - 1)).rstrip() + "…"


def printable(text: str) -> str:
    """What could move a terminal's cursor, or hide, is shown as "?": names are chosen by others."""
    before = ["", *text]
    return "".join(
        char if char.isprintable() or (char in _JOINERS and not at.isascii()) else "?"
        for at, char in zip(before, text, strict=False)
    )
