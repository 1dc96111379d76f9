"""How commands print, and how they find what they are asked about."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from stillframe.cli.client import EXIT_FAILED, CliError, call
from stillframe.settings import Settings

EXIT_USAGE = 2
_KIB = 1024
_PAGE_ROWS = 1000
_MOMENT_MAX = 253_402_300_799  # the end of the year 9999
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

State = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="The service's state directory.", show_default=False)
]


def settings_with(**chosen: Any) -> Settings:
    try:
        return Settings(**chosen)
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise CliError(EXIT_USAGE, *(f"stillframe: setting {reason}" for reason in reasons)) from error


def service_at(state: Path | None) -> Settings:
    return settings_with() if state is None else settings_with(state=state)


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None


def uuid_of(service: Settings, machine: str) -> str:
    """The uuid of the VM of this name; a uuid stands for itself."""
    if is_uuid(machine):
        return machine
    query = {"filter_name": machine, "filter_fuzzy": "false"}
    found = [row["uuid"] for row in call(service, "GET", "/v1/compute/list", params=query)["domains"]]
    if len(found) == 1:
        return str(found[0])
    if found:
        raise CliError(
            EXIT_FAILED,
            f'stillframe: several virtual machines are called "{machine}"; give the uuid',
            f"stillframe：有多台虚拟机名为“{machine}”；请使用 uuid",
        )
    raise CliError(
        EXIT_FAILED,
        f'stillframe: no virtual machine is called "{machine}"; see "stillframe vm list"',
        f"stillframe：没有名为“{machine}”的虚拟机；请查看“stillframe vm list”",
    )


def every(service: Settings, path: str, query: dict[str, Any]) -> list[dict[str, Any]]:
    """Every row of a list that comes in pages."""
    rows: list[dict[str, Any]] = []
    after = ""
    while True:
        page = call(service, "GET", path, params={**query, "after": after, "limit": _PAGE_ROWS})
        rows += page["list"]
        after = page["next"]
        if not after:
            return rows


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns; wide characters count twice."""
    shown = [[printable(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
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


def printable(text: str) -> str:
    """What could move a terminal's cursor is shown as "?": names are chosen by others."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)
