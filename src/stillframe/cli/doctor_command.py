"""Doctor and version: the commands that have something to say where no service runs, too."""

from __future__ import annotations

from importlib.metadata import version as installed_version
from typing import Annotated, Any

import typer

from stillframe.cli.connecting import AsJson, connected, settings_of
from stillframe.cli.doctor import lines_of
from stillframe.cli.ending import FOUND, ended_by
from stillframe.cli.offline import OFFLINE, look_offline
from stillframe.cli.plain import complain, print_json, printable, table
from stillframe.client import Client, NoServiceError


@connected
def doctor(
    client: Client,
    *,
    repair: Annotated[bool, typer.Option("--repair", help="Repair what has exactly one right answer.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also read memory files and the structure of layers.")] = False,
    as_json: AsJson = False,
) -> None:
    """Compare database, files and hypervisor; ends with 4 when something is found, or left after --repair.

    While no service runs it looks by itself at what needs no hypervisor, and repairs nothing.
    """
    data: dict[str, Any]
    try:
        data = (client.repair(deep=deep) if repair else client.doctor(deep=deep)).as_json()
    except NoServiceError as error:
        service = settings_of(client)
        if service is None:
            raise
        data = look_offline(service, ended_by(error), repair=repair, deep=deep)
        complain([OFFLINE.said()])
    if as_json:
        print_json(data)
    else:
        for line in lines_of(data, table):
            typer.echo(printable(line))
    if data["findings"]:
        raise typer.Exit(FOUND.code)


def _print_own_version(asked: bool) -> None:
    if asked:
        typer.echo(f"stillframe {installed_version('stillframe')}")
        raise typer.Exit


def options(
    *,
    version: Annotated[
        bool,
        typer.Option("--version", is_eager=True, callback=_print_own_version, help="Print this command's version."),
    ] = False,
) -> None:
    """What stands before any command. ``--version`` asks no service."""


@connected
def version(client: Client, *, as_json: AsJson = False) -> None:
    """Print the version of this command and, when one runs, of the service; with --json of the service alone."""
    if as_json:
        print_json(client.version())
        return
    typer.echo(f"stillframe {installed_version('stillframe')}")
    try:
        running = client.version()
    except NoServiceError:
        return
    typer.echo(f"service {running.version} ({running.cluster_name}, {running.cluster_uuid})")
