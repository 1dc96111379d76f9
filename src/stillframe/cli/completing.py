"""Completion of live names: virtual machines, their snapshots, tasks.

It is asked for while somebody types: whatever is wrong it offers nothing and says nothing, and it is given up after
``GIVE_UP_S``, however slow the service is.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable, Mapping
from pathlib import Path

import typer

from stillframe.cli.connecting import way_to
from stillframe.client import Client

COMPLETION = "_STILLFRAME_COMPLETE"
GIVE_UP_S = 2.0
_CONNECT_S = 0.5
_TASKS = 50
_SHELL_SPECIAL = re.compile(r"([^\w@%+=:,./\-]|^~)")
# zsh evaluates what it is offered, twice: once in single quotes, then in double ones. Typer's own quoting lets a backslash
# end the quotes, and names are chosen by others; so these stand as characters that nobody quotes until all is printed
_ZSH_QUOTED = {"\\": "\\" * 4, '"': '\\"', "'": "'\\''", "$": "\\$", "`": "\\`", ":": "\\\\:"}
_ZSH_STANDS_IN = 0xE000  # added to a character: where Unicode has room for private use

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

    def look() -> None:
        try:
            state: Path | None = ctx.params.get("state")
            way = way_to(Path(state) if state else None, ctx.params.get("profile") or "")
            with Client(way, connect_timeout_s=_CONNECT_S, answer_timeout_s=GIVE_UP_S) as client:
                found = [(name, words) for name, words in ask(client) if name.startswith(incomplete)]
                offers.extend((_as_offered(name), _as_offered(words)) for name, words in found)
        except Exception:  # noqa: BLE001 -- whoever types has asked for names, not for errors
            offers.clear()

    # in a thread, which ends with the process: names may take longer to be looked up than anybody waits
    looking = threading.Thread(target=look, daemon=True)
    looking.start()
    looking.join(GIVE_UP_S)
    return [] if looking.is_alive() else list(offers)


def _as_offered(text: str) -> str:
    if os.environ.get(COMPLETION) != "complete_zsh":
        return text
    return text.translate({ord(char): chr(_ZSH_STANDS_IN + ord(char)) for char in _ZSH_QUOTED})


def quoted_for_zsh(printed: str) -> str:
    """The offers as zsh evaluates them, so that every character of a name and a description is only that."""
    return printed.translate({_ZSH_STANDS_IN + ord(char): quoted for char, quoted in _ZSH_QUOTED.items()})


def quoted_for_bash(printed: str, environment: Mapping[str, str]) -> str:
    """The offers, one a line, as bash puts them into the line: blanks and the like escaped, but within quotes."""
    words = environment.get("COMP_WORDS", "").split("\n")
    at = environment.get("COMP_CWORD", "")
    word = words[int(at)] if at.isdigit() and int(at) < len(words) else ""
    if word.startswith(("'", '"')):
        return printed
    return "\n".join(_SHELL_SPECIAL.sub(r"\\\1", line) for line in printed.split("\n"))
