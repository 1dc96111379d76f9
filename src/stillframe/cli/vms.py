"""Virtual machines on the command line."""

from __future__ import annotations

from typing import Annotated

import typer

from stillframe.cli.arguments import VmName
from stillframe.cli.connecting import AsJson, connected
from stillframe.cli.plain import print_json, table
from stillframe.client import Client

vm_group = typer.Typer(help="Virtual machines: power, and whom they belong to.", no_args_is_help=True)
guest = typer.Typer(help="The witness guest, a tiny guest for trying things out.", no_args_is_help=True)

GuestName = Annotated[str, typer.Argument(metavar="NAME")]


@vm_group.command("list", hidden=True)
@connected
def list_vms(client: Client, *, as_json: AsJson = False) -> None:
    """Show the virtual machines."""
    rows = client.vms()
    if as_json:
        print_json(rows)
        return
    columns = ("uuid", "state", "action", "tenant", "name")
    for line in table([columns, *([str(getattr(row, column)) for column in columns] for row in rows)]):
        typer.echo(line)


@vm_group.command("start")
@connected
def start(client: Client, vm: VmName, *, as_json: AsJson = False) -> None:
    """Start a virtual machine that is shut off."""
    client.start(vm)
    _nothing(as_json)


@vm_group.command("shutdown")
@connected
def shutdown(client: Client, vm: VmName, *, as_json: AsJson = False) -> None:
    """Ask the guest to shut down; returns when it has been asked."""
    client.shutdown(vm)
    _nothing(as_json)


@vm_group.command("shutoff")
@connected
def shutoff(client: Client, vm: VmName, *, as_json: AsJson = False) -> None:
    """Cut the power; returns when the virtual machine is off."""
    client.shutoff(vm)
    _nothing(as_json)


@vm_group.command("assign")
@connected
def assign(
    client: Client,
    vm: VmName,
    *,
    tenant: Annotated[str, typer.Option(help="The tenant that it shall belong to.")],
    tenant_name: Annotated[str, typer.Option(help="The tenant's name.")] = "",
    namespace: Annotated[str, typer.Option(help="The namespace that it shall belong to.")] = "",
    as_json: AsJson = False,
) -> None:
    """Give a virtual machine to a tenant."""
    client.assign(vm, tenant, tenant_name=tenant_name, namespace=namespace)
    _nothing(as_json)


@guest.command("create")
@connected
def create_guest(
    client: Client,
    name: GuestName,
    *,
    memory_mib: Annotated[int, typer.Option(help="Memory in MiB.")] = 256,
    fill_mib: Annotated[
        int | None, typer.Option(help="MiB of memory that hold random data (default: 64).", show_default=False)
    ] = None,
    disks: Annotated[int, typer.Option(help="Number of disks.")] = 1,
    as_json: AsJson = False,
) -> None:
    """Define and start a witness guest; prints its uuid."""
    made = client.create_guest(name, memory_mib=memory_mib, fill_mib=fill_mib, disks=disks)
    if as_json:
        print_json(made)
    else:
        typer.echo(made.uuid)


@guest.command("delete")
@connected
def delete_guest(client: Client, name: GuestName, *, as_json: AsJson = False) -> None:
    """Remove a witness guest with its disks and snapshots."""
    client.delete_guest(name)
    _nothing(as_json)


@guest.command("console")
@connected
def guest_console(client: Client, name: GuestName, *, as_json: AsJson = False) -> None:
    """Print the path of the file that the guest's console is written to."""
    console = client.guest_console(name)
    if as_json:
        print_json(console)
    else:
        typer.echo(console.path)


def _nothing(as_json: bool) -> None:
    if as_json:
        print_json({})
