"""Completion of live names: virtual machines, their snapshots, tasks.

It is asked for while somebody types: whatever is wrong it offers nothing and says nothing, and it is given up after
``GIVE_UP_S``, however slow the service is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import typer

from stillframe.cli.connecting import way_to
from stillframe.cli.plain import printable
from stillframe.cli.quoting import found, hidden
from stillframe.client import Client

GIVE_UP_S = 2.0
_CONNECT_S = 0.5
_TASKS = 50
_WORDS_MAX = 80  # of a description: a line beside a name

Offers = list[tuple[str, str]]


def vms(ctx: typer.Context, incomplete: str) -> Offers:
    return _offered(ctx, lambda client: [(vm.name, vm.state) for vm in client.vms()], incomplete)


def snapshots(ctx: typer.Context, incomplete: str) -> Offers:
    """Of the virtual machine that stands before it."""
    vm = ctx.params.get("vm")
    if not vm:
        return []
    return _offered(ctx, lambda client: [(one.name, one.description) for one in client.snapshots(vm)], incomplete)


def disks(ctx: typer.Context, incomplete: str) -> Offers:
    """Of the snapshot that stands before them."""
    vm, name = ctx.params.get("vm"), ctx.params.get("name")
    if not vm or not name:
        return []
    return _offered(
        ctx, lambda client: [(one.disk, "") for one in client.snapshot(vm, name).disk_snapshot_list], incomplete
    )


def tasks(ctx: typer.Context, incomplete: str) -> Offers:
    """Those that have not ended."""
    return _offered(ctx, _open_tasks, incomplete)


def vms_and_tasks(ctx: typer.Context, incomplete: str) -> Offers:
    return vms(ctx, incomplete) + tasks(ctx, incomplete)


def _open_tasks(client: Client) -> Offers:
    rows = [row for row in client.tasks(limit=_TASKS) if not row.has_ended]
    return [(row.uuid, f"{row.kind} {row.snapshot} {row.progress} %") for row in rows]


def _offered(ctx: typer.Context, ask: Callable[[Client], Offers], incomplete: str) -> Offers:
    offers: Offers = []
    typed = found(incomplete)

    def look() -> None:
        try:
            state: Path | None = ctx.params.get("state")
            way = way_to(Path(state) if state else None, ctx.params.get("profile") or "")
            with Client(way, connect_timeout_s=_CONNECT_S, answer_timeout_s=GIVE_UP_S) as client:
                # a name that is no line would be two offers; it can be given by its uuid
                fit = [(name, words) for name, words in ask(client) if name.startswith(typed) and name.isprintable()]
                offers.extend((hidden(name), hidden(_short(words))) for name, words in fit)
        except Exception:  # noqa: BLE001 -- whoever types has asked for names, not for errors
            offers.clear()

    # in a thread, which ends with the process: names may take longer to be looked up than anybody waits
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(GIVE_UP_S)
    return [] if looking.is_alive() else list(offers)


def _short(words: str) -> str:
    line = printable(" ".join(words.split()))
    return line if len(line) <= _WORDS_MAX else f"{line[: _WORDS_MAX - 1]}…"
