"""The command line: starts the service, and is otherwise a client of its HTTP API.

Exit codes: 0 done, 1 the service said no (its message in both languages on stderr), 2 wrong usage, 3 no service runs,
4 doctor found something that is still so when it ends.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
import unicodedata
from collections.abc import Sequence
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from stillframe.cli.client import EXIT_FAILED, EXIT_NO_SERVICE, CliError, call
from stillframe.cli.doctor import lines_of
from stillframe.settings import Settings

log = logging.getLogger("stillframe.cli")

EXIT_USAGE = 2
EXIT_FOUND = 4
PORT_MAX = 65535
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_LISTEN = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[^:\s/\[\]]+):([0-9]{1,5})")

app = typer.Typer(
    help="Snapshots of virtual machines on libvirt/QEMU.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
vm = typer.Typer(help="Virtual machines.", no_args_is_help=True)
guest = typer.Typer(help="The witness guest, a tiny guest for trying things out.", no_args_is_help=True)
app.add_typer(vm, name="vm")
app.add_typer(guest, name="guest")

State = Annotated[
    Path | None, typer.Option("--state", metavar="DIR", help="The service's state directory.", show_default=False)
]


def main() -> None:
    """Run the command line; ends the process with one of the exit codes above, never with a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show is no reason to fail
    try:
        app()
    except CliError as error:
        _complain(*error.lines)
        sys.exit(error.exit_code)
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        _complain(
            f"stillframe: unexpected {type(error).__name__}: {error}",
            f"stillframe：意外错误 {type(error).__name__}",
        )
        sys.exit(EXIT_FAILED)


@app.command()
def serve(
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address to listen on [127.0.0.1:8080].", show_default=False)
    ] = None,
    state: State = None,
    connect: Annotated[
        str | None, typer.Option(metavar="URI", help="libvirt to connect to [found by itself].", show_default=False)
    ] = None,
) -> None:
    """Run the service in the foreground."""
    if listen is not None and not _is_listen(listen):
        raise typer.BadParameter("expected HOST:PORT, such as 127.0.0.1:8080", param_hint="--listen")
    chosen = {"listen": listen, "state": state, "connect": connect}
    settings = _settings(**{name: value for name, value in chosen.items() if value is not None})
    # everything that the service is made of; the other commands start faster without it
    from stillframe.bootstrap import serve as run_service  # noqa: PLC0415

    raise typer.Exit(run_service(settings))


@vm.command("list")
def list_vms(
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")] = False,
) -> None:
    """Show the virtual machines."""
    rows = call(_service(state), "GET", "/v1/compute/list")["domains"]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    columns = ("uuid", "state", "action", "tenant", "name")
    for line in _table([columns, *([str(row[column]) for column in columns] for row in rows)]):
        typer.echo(line)


@vm.command("assign")
def assign(
    machine: Annotated[str, typer.Argument(metavar="VM", help="Its name or uuid.")],
    tenant: Annotated[str, typer.Option(help="The tenant that it shall belong to.")],
    tenant_name: Annotated[str, typer.Option(help="The tenant's name.")] = "",
    namespace: Annotated[str, typer.Option(help="The namespace that it shall belong to.")] = "",
    state: State = None,
) -> None:
    """Give a virtual machine to a tenant."""
    service = _service(state)
    body = {
        "cluster_uuid": "",
        "compute_uuid": _uuid_of(service, machine),
        "tenant": tenant,
        "tenant_name": tenant_name,
        "namespace_uuid": namespace,
    }
    call(service, "POST", "/v1/stillframe/vm/assign", json=body)


@guest.command("create")
def create_guest(
    name: Annotated[str, typer.Argument(metavar="NAME")],
    memory_mib: Annotated[int, typer.Option(help="Memory in MiB.")] = 256,
    fill_mib: Annotated[
        int | None, typer.Option(help="MiB of memory that hold random data [64].", show_default=False)
    ] = None,
    disks: Annotated[int, typer.Option(help="Number of disks.")] = 1,
    state: State = None,
) -> None:
    """Define and start a witness guest; prints its uuid."""
    body = {"name": name, "memory_mib": memory_mib, "fill_mib": fill_mib, "disks": disks}
    typer.echo(call(_service(state), "POST", "/v1/stillframe/guest/create", json=body)["uuid"])


@guest.command("delete")
def delete_guest(name: Annotated[str, typer.Argument(metavar="NAME")], state: State = None) -> None:
    """Remove a witness guest with its disks and snapshots."""
    call(_service(state), "POST", "/v1/stillframe/guest/delete", json={"name": name})


@guest.command("console")
def guest_console(name: Annotated[str, typer.Argument(metavar="NAME")], state: State = None) -> None:
    """Print the path of the file that the guest's console is written to."""
    typer.echo(call(_service(state), "GET", "/v1/stillframe/guest/console", params={"name": name})["path"])


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Repair what has exactly one right answer.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also read memory files and the structure of layers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")] = False,
    state: State = None,
) -> None:
    """Compare database, files and hypervisor; ends with 4 when something is found, or left after --repair."""
    service = _service(state)
    if repair:
        data = call(service, "POST", "/v1/stillframe/doctor/repair", json={"deep": deep})
    else:
        data = call(service, "GET", "/v1/stillframe/doctor", params={"deep": str(deep).lower()})
    if as_json:
        typer.echo(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        for line in lines_of(data, _table):
            typer.echo(_printable(line))
    if data["findings"]:
        raise typer.Exit(EXIT_FOUND)


@app.command()
def version(state: State = None) -> None:
    """Print the version of this command and, when one runs, of the service."""
    typer.echo(f"stillframe {installed_version('stillframe')}")
    try:
        running = call(_service(state), "GET", "/v1/stillframe/version")
    except CliError as error:
        if error.exit_code != EXIT_NO_SERVICE:
            raise
        return
    typer.echo(f"service {running['version']} ({running['cluster_name']}, {running['cluster_uuid']})")


def _settings(**chosen: Any) -> Settings:
    try:
        return Settings(**chosen)
    except ValidationError as error:
        reasons = (f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in error.errors())
        raise CliError(EXIT_USAGE, *(f"stillframe: setting {reason}" for reason in reasons)) from error


def _service(state: Path | None) -> Settings:
    return _settings() if state is None else _settings(state=state)


def _is_listen(listen: str) -> bool:
    match = _LISTEN.fullmatch(listen)
    return match is not None and int(match[1]) <= PORT_MAX


def _uuid_of(service: Settings, machine: str) -> str:
    """The uuid of the VM of this name; a uuid stands for itself."""
    if _UUID.fullmatch(machine):
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


def _table(rows: Sequence[Sequence[str]]) -> list[str]:
    """Aligned columns; wide characters count twice."""
    shown = [[_printable(cell) for cell in row] for row in rows]
    widths = [max(map(_width, column)) for column in zip(*shown, strict=True)]
    return [
        "  ".join(cell + " " * (width - _width(cell)) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in shown
    ]


def _printable(text: str) -> str:
    """What could move a terminal's cursor is shown as "?": names are chosen by others."""
    return "".join(char if char.isprintable() else "?" for char in text)


def _width(text: str) -> int:
    return sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in text)


def _complain(*lines: str) -> None:
    for line in lines:
        typer.echo(_printable(line), err=True)


if __name__ == "__main__":
    main()
