"""Snapshots on the command line: taking, rolling back, editing, deleting."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Annotated

import typer

from stillframe.cli import completing
from stillframe.cli.arguments import SnapshotName, Timeout, VmName, Yes
from stillframe.cli.asking import agree, need_somebody
from stillframe.cli.connecting import AsJson, connected
from stillframe.cli.consequences import what_delete_does, what_disk_rollback_does, what_rollback_does
from stillframe.cli.ending import FAILED, CliError
from stillframe.cli.plain import print_json, printable
from stillframe.cli.progress import Showing
from stillframe.cli.words import Words
from stillframe.client import Client

Description = typer.Option("--description", "-m", metavar="TEXT", help="What it is for.")
Memory = Annotated[bool, typer.Option("--memory", help="With the running memory.")]


@connected
def take(
    client: Client,
    vm: VmName,
    name: Annotated[
        str | None,
        typer.Argument(
            metavar="NAME", help="The new snapshot's name (default: the moment, in UTC).", show_default=False
        ),
    ] = None,
    *,
    memory: Memory = False,
    description: Annotated[str, Description] = "",
    wait: Annotated[
        bool, typer.Option("--wait/--no-wait", help="Wait until memory is saved, too: until then it cannot be used.")
    ] = True,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Take a snapshot; prints its name."""
    if name is None:  # an empty one is a script's mistake, and the service refuses it
        name = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%SZ")
    with Showing() as showing:
        taken = client.create(
            vm, name, description=description, memory=memory, wait=wait, on_progress=showing, timeout_s=timeout
        )
    if as_json:
        print_json(taken)
    else:
        typer.echo(printable(taken.name))


@connected
def rollback(
    client: Client, vm: VmName, name: SnapshotName, *, memory: Memory = False, yes: Yes = False, as_json: AsJson = False
) -> None:
    """Bring disks and configuration back to a snapshot, with --memory resume the guest where it was.

    Without memory the virtual machine ends shut off. No snapshot is lost; what has changed since the last one is.
    """
    need_somebody(yes)
    if not yes:
        agree(yes, *what_rollback_does(client, vm, name, memory=memory))
    with Showing() as showing:
        there = client.rollback(vm, name, memory=memory, on_progress=showing)
    if as_json:
        print_json(there)
    else:
        typer.echo(printable(there.name))


@connected
def rollback_disk(
    client: Client,
    vm: VmName,
    name: SnapshotName,
    disks: Annotated[
        list[str],
        typer.Argument(metavar="DISK...", help="Such as vda, or a volume's uuid.", autocompletion=completing.disks),
    ],
    *,
    yes: Yes = False,
    as_json: AsJson = False,
) -> None:
    """Bring single disks of a shut-off virtual machine back to a snapshot; the rest stays as it is."""
    need_somebody(yes)
    if not yes:
        agree(yes, what_disk_rollback_does(client, vm, name, disks))
    batch = client.rollback_disks(vm, name, disks)
    if as_json:
        print_json(batch)
    bad = [one for one in batch.results if one.scode != 0]
    if bad:
        words = (Words(f"{one.data.disk}: {one.message}", f"{one.data.disk}：{one.message_cn}") for one in bad)
        raise CliError(FAILED, *words, details="; ".join(one.desc for one in bad))


@connected
def edit(
    client: Client, vm: VmName, name: SnapshotName, *, description: Annotated[str, Description], as_json: AsJson = False
) -> None:
    """Change a snapshot's description; an empty one clears it."""
    client.modify(vm, name, description)
    _nothing(as_json)


@connected
def rm(client: Client, vm: VmName, name: SnapshotName, *, yes: Yes = False, as_json: AsJson = False) -> None:
    """Delete a snapshot that has at most one child; nothing else changes."""
    need_somebody(yes)
    if not yes:
        agree(yes, *what_delete_does(client, vm, name))
    with Showing() as showing:
        client.delete(vm, name, on_progress=showing)
    _nothing(as_json)


def _nothing(as_json: bool) -> None:
    if as_json:
        print_json({})
