"""The command line: starts the service, and is otherwise a client of its HTTP API. Where none runs doctor looks by itself.

Exit codes: 0 done, 1 the service said no (its message in both languages on stderr), 2 wrong usage, 3 no service runs,
4 doctor found something that is still so when it ends.
"""

from __future__ import annotations

import io
import json
import logging
import re
import sys
from importlib.metadata import version as installed_version
from pathlib import Path
from typing import Annotated

import typer

from stillframe.cli.client import EXIT_FAILED, EXIT_NO_SERVICE, CliError, call
from stillframe.cli.doctor import lines_of
from stillframe.cli.keys import key, link
from stillframe.cli.log import show_log
from stillframe.cli.offline import OFFLINE, look_offline
from stillframe.cli.plain import State, printable, service_at, settings_with, table, uuid_of
from stillframe.cli.tasks import task
from stillframe.cli.tenants import tenant

log = logging.getLogger("stillframe.cli")

EXIT_FOUND = 4
PORT_MAX = 65535
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
app.add_typer(task, name="task")
app.add_typer(key, name="key")
app.add_typer(link, name="link")
app.command("log")(show_log)
app.add_typer(tenant, name="tenant")


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
    *,
    listen: Annotated[
        str | None, typer.Option(metavar="HOST:PORT", help="Address to listen on [127.0.0.1:8080].", show_default=False)
    ] = None,
    state: State = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM certificate with its chain.", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM key of the certificate.", show_default=False)
    ] = None,
    plain_http: Annotated[
        bool | None,
        typer.Option(
            "--plain-http",
            help="Listen beyond loopback without TLS; keys can be read on the network.",
            show_default=False,
        ),
    ] = None,
    connect: Annotated[
        str | None, typer.Option(metavar="URI", help="libvirt to connect to [found by itself].", show_default=False)
    ] = None,
) -> None:
    """Run the service in the foreground."""
    if listen is not None and not _is_listen(listen):
        raise typer.BadParameter("expected HOST:PORT, such as 127.0.0.1:8080", param_hint="--listen")
    chosen = {
        "listen": listen,
        "state": state,
        "connect": connect,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "plain_http": plain_http,
    }
    settings = settings_with(**{name: value for name, value in chosen.items() if value is not None})
    # everything that the service is made of; the other commands start faster without it
    from stillframe.bootstrap import serve as run_service  # noqa: PLC0415

    raise typer.Exit(run_service(settings))


@vm.command("list")
def list_vms(
    state: State = None,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")] = False,
) -> None:
    """Show the virtual machines."""
    rows = call(service_at(state), "GET", "/v1/compute/list")["domains"]
    if as_json:
        typer.echo(json.dumps(rows, ensure_ascii=False, indent=2))
        return
    columns = ("uuid", "state", "action", "tenant", "name")
    for line in table([columns, *([str(row[column]) for column in columns] for row in rows)]):
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
    service = service_at(state)
    body = {
        "cluster_uuid": "",
        "compute_uuid": uuid_of(service, machine),
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
    typer.echo(call(service_at(state), "POST", "/v1/stillframe/guest/create", json=body)["uuid"])


@guest.command("delete")
def delete_guest(name: Annotated[str, typer.Argument(metavar="NAME")], state: State = None) -> None:
    """Remove a witness guest with its disks and snapshots."""
    call(service_at(state), "POST", "/v1/stillframe/guest/delete", json={"name": name})


@guest.command("console")
def guest_console(name: Annotated[str, typer.Argument(metavar="NAME")], state: State = None) -> None:
    """Print the path of the file that the guest's console is written to."""
    typer.echo(call(service_at(state), "GET", "/v1/stillframe/guest/console", params={"name": name})["path"])


@app.command()
def doctor(
    repair: Annotated[bool, typer.Option("--repair", help="Repair what has exactly one right answer.")] = False,
    deep: Annotated[bool, typer.Option("--deep", help="Also read memory files and the structure of layers.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, with every field of the API.")] = False,
    state: State = None,
) -> None:
    """Compare database, files and hypervisor; ends with 4 when something is found, or left after --repair.

    While no service runs it looks by itself at what needs no hypervisor, and repairs nothing.
    """
    service = service_at(state)
    try:
        if repair:
            data = call(service, "POST", "/v1/stillframe/doctor/repair", json={"deep": deep})
        else:
            data = call(service, "GET", "/v1/stillframe/doctor", params={"deep": str(deep).lower()})
    except CliError as error:
        if error.exit_code != EXIT_NO_SERVICE:
            raise
        data = look_offline(service, error, repair=repair, deep=deep)
        _complain(*OFFLINE)
    if as_json:
        typer.echo(json.dumps(data, ensure_ascii=False, indent=2))
    else:
        for line in lines_of(data, table):
            typer.echo(printable(line))
    if data["findings"]:
        raise typer.Exit(EXIT_FOUND)


@app.command()
def version(state: State = None) -> None:
    """Print the version of this command and, when one runs, of the service."""
    typer.echo(f"stillframe {installed_version('stillframe')}")
    try:
        running = call(service_at(state), "GET", "/v1/stillframe/version")
    except CliError as error:
        if error.exit_code != EXIT_NO_SERVICE:
            raise
        return
    typer.echo(f"service {running['version']} ({running['cluster_name']}, {running['cluster_uuid']})")


def _is_listen(listen: str) -> bool:
    match = _LISTEN.fullmatch(listen)
    return match is not None and int(match[1]) <= PORT_MAX


def _complain(*lines: str) -> None:
    for line in lines:
        typer.echo(printable(line), err=True)


if __name__ == "__main__":
    main()
