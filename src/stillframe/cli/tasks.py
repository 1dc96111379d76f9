"""Long work on the command line: what runs, how far it is, waiting for it and stopping it."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from stillframe.cli import completing
from stillframe.cli.arguments import OnlyVm, TaskUuid, Timeout
from stillframe.cli.connecting import AsJson, connected
from stillframe.cli.ending import FAILED, OPEN, CliError
from stillframe.cli.plain import human_bytes, moment, print_json, printable, table
from stillframe.cli.progress import Showing, rate_of, time_left_of
from stillframe.cli.words import Words
from stillframe.client import ApiError, Client, StillGoingOnError
from stillframe.client.acting import POLL_S
from stillframe.client.asking import is_uuid
from stillframe.client.models import Task
from stillframe.domain.errors import ErrorCase

task_group = typer.Typer(help="One operation; the commands for all are tasks, watch and cancel.", no_args_is_help=True)

_NEWEST = 100  # more than can be under way at a time


@task_group.command("list", hidden=True)
@connected
def list_tasks(
    client: Client,
    *,
    vm: OnlyVm = "",
    in_state: Annotated[str, typer.Option("--in", metavar="STATE", help="Only those in it, such as running.")] = "",
    limit: Annotated[int, typer.Option(min=1, help="Most tasks that are shown.")] = 20,
    as_json: AsJson = False,
) -> None:
    """Show the operations, newest first."""
    rows = client.tasks(vm=vm, state=in_state, limit=limit)
    if as_json:
        print_json(rows)
        return
    heads = ["uuid", "kind", "state", "progress", "rate", "left", "started", "vm", "snapshot"]
    for line in table([heads, *(_cells(row) for row in rows)]):
        typer.echo(line)


@task_group.command("show")
@connected
def show_task(client: Client, uuid: TaskUuid, *, as_json: AsJson = False) -> None:
    """Show one operation."""
    row = client.task(uuid)
    if as_json:
        print_json(row)
        return
    for line in table([[name, value] for name, value in _facts(row) if value]):
        typer.echo(line)


@task_group.command("cancel", hidden=True)
@connected
def cancel_task(client: Client, uuid: TaskUuid, *, as_json: AsJson = False) -> None:
    """Let an operation be undone; refused when it is past its point of no return. Prints its state."""
    row = client.cancel(uuid)
    if as_json:
        print_json(row)
    else:
        typer.echo(printable(row.state))


@connected
def watch(
    client: Client,
    what: Annotated[
        str,
        typer.Argument(
            metavar="VM|TASK",
            help="A virtual machine's name or uuid, or a task's uuid; without it everything that runs.",
            show_default=False,
            autocompletion=completing.vms_and_tasks,
        ),
    ] = "",
    *,
    timeout: Timeout = None,
    as_json: AsJson = False,
) -> None:
    """Show how far operations are until they have ended.

    Ends with 1 when one of them was not done, with 5 when one is not decided or goes on after --timeout.
    """
    with Showing() as showing:
        task = _task_of(client, what)
        if task is not None:
            rows = [client.wait(task.uuid, on_progress=showing, timeout_s=timeout)]
        else:
            rows = _watch_all(client, what, showing, timeout)
    if as_json:
        print_json(rows[0] if task is not None else rows)
    elif not rows:
        typer.echo(Words("nothing is going on", "没有正在进行的操作").said())
    else:
        for row in rows:
            typer.echo(printable(f"{row.uuid}  {row.kind}  {row.snapshot or '-'}  {row.state}"))
    _end_as(rows)


def _task_of(client: Client, what: str) -> Task | None:
    """The task of this uuid; None: it is a virtual machine's, or no uuid."""
    if not is_uuid(what):
        return None
    try:
        return client.task(what)
    except ApiError as error:
        if error.scode != ErrorCase.TASK_UNKNOWN.code:
            raise
        client.inspect(what)  # what is neither is no reason to say that nothing goes on
        return None


def _watch_all(client: Client, vm: str, showing: Showing, timeout_s: float | None) -> list[Task]:
    """What is under way, also what begins meanwhile, until nothing is; as it ended."""
    watched: dict[str, Task] = {}
    uuid = client.vm_uuid(vm) if vm else ""
    give_up_at = float("inf") if timeout_s is None else time.monotonic() + timeout_s
    while True:
        rows = {row.uuid: row for row in client.tasks(vm=uuid, limit=_NEWEST)}
        for row in rows.values():
            if row.uuid in watched or not row.has_ended:
                watched[row.uuid] = row
                showing(row)
        going = [row for row in watched.values() if not row.has_ended]
        if not going:
            return list(watched.values())
        for row in going:
            if row.uuid not in rows:  # many others have begun since
                watched[row.uuid] = client.task(row.uuid)
        if time.monotonic() >= give_up_at:
            raise StillGoingOnError(going[0])
        time.sleep(POLL_S)


def _end_as(rows: list[Task]) -> None:
    """Raises: CliError: one of them was not done."""
    bad = [row for row in rows if row.state != "done"]
    if not bad:
        return
    left = [row for row in bad if row.state == "left"]
    words = [
        Words(
            f"stillframe: {row.kind} {row.snapshot}: {row.state}: {row.error}",
            f"stillframe：{row.kind} {row.snapshot}：{row.state}：{row.error}",
        )
        for row in bad
    ]
    raise CliError(OPEN if left else FAILED, *words)


def _cells(row: Task) -> list[str]:
    return [
        row.uuid,
        row.kind,
        row.state,
        f"{row.progress} %",
        rate_of(row) or "-",
        time_left_of(row) or "-",
        moment(row.started_at),
        row.compute_name or row.compute_uuid,
        row.snapshot,
    ]


def _facts(row: Task) -> list[tuple[str, str]]:
    """What is worth a line; an empty value is none."""
    counted = f"{human_bytes(row.bytes_done)} of {human_bytes(row.bytes_total)}" if row.bytes_total else ""
    return [
        ("uuid", row.uuid),
        ("kind", row.kind),
        ("vm", " ".join(part for part in (row.compute_name, row.compute_uuid) if part)),
        ("tenant", row.tenant),
        ("snapshot", row.snapshot),
        ("state", row.state + (" (can be cancelled)" if row.cancellable else "")),
        ("progress", f"{row.progress} %, {row.steps_done} of {row.steps_total} steps"),
        ("step", row.step),
        ("copied", counted),
        ("rate", rate_of(row)),
        ("time left", time_left_of(row)),
        ("started", moment(row.started_at)),
        ("ended", "" if row.ended_at is None else moment(row.ended_at)),
        ("error", row.error),
    ]
