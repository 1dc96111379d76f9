"""One virtual machine or snapshot, and the tree, on the command line."""

from __future__ import annotations

import time
from typing import Annotated

import typer

from stillframe.cli import completing
from stillframe.cli.arguments import VmName
from stillframe.cli.connecting import AsJson, connected
from stillframe.cli.plain import brief, human_bytes, human_time, moment, print_json, printable, table
from stillframe.client import Client
from stillframe.client.models import Snapshot
from stillframe.client.overviews import Overview, OverviewSnapshot
from stillframe.domain.layout import NOW, Item, Layout, graph


@connected
def show(
    client: Client,
    vm: VmName,
    snapshot: Annotated[
        str,
        typer.Argument(
            metavar="SNAPSHOT",
            help="One of its snapshots, by name or uuid.",
            show_default=False,
            autocompletion=completing.snapshots,
        ),
    ] = "",
    *,
    as_json: AsJson = False,
) -> None:
    """Show one virtual machine, or one of its snapshots."""
    if snapshot:
        taken = client.snapshot(vm, snapshot)
        if as_json:
            print_json(taken)
        else:
            _print(_facts_of_snapshot(taken))
        return
    seen = client.overview(vm)
    if as_json:
        print_json(seen)
        return
    _print(_facts_of_vm(seen))
    if seen.snapshots:
        typer.echo("")
        heads = ["taken", "disks", "memory", "name", "description"]
        for line in table([heads, *(_cells(seen, one) for one in reversed(seen.snapshots))]):
            typer.echo(line)


@connected
def tree(
    client: Client,
    vm: VmName,
    *,
    fold: Annotated[bool, typer.Option("--fold", help="Show a long straight run as one line.")] = False,
    as_json: AsJson = False,
) -> None:
    """Draw a virtual machine's snapshots as the tree that they are, the oldest on top, with the current state in it."""
    if as_json:
        print_json({"tree": client.tree(vm).as_json()})
        return
    seen = client.overview(vm, fold=fold)
    for line in drawn(seen, time.time()):
        typer.echo(printable(line))


def drawn(seen: Overview, now_s: float) -> list[str]:
    """A line for each item: the graph, then what there is to say of it. ``now_s``: for ages, Unix seconds."""
    places = tuple(Item(one.key, one.uuids, one.parent, one.depth, one.lane, one.order) for one in seen.items)
    of = {one.uuid: one for one in seen.snapshots}
    lines: list[str] = []
    for before, _, item in graph(Layout(places, seen.lanes, seen.depth)):
        if lines and not item.parent:
            lines.append("")  # what begins a tree of its own descends from nothing above
        if item.key == NOW:
            mark = "●" if seen.vm.state == "running" else "◌"
            lines.append(f"{before}{mark} now: {seen.vm.state}, {_changed(seen)}")
        else:
            lines.append(f"{before}{_said([of[uuid] for uuid in item.uuids], now_s)}")
    return lines


def _changed(seen: Overview) -> str:
    changed = seen.now.changed_bytes
    return "size of the changes not known" if changed is None else f"{human_bytes(changed)} changed"


def _said(taken: list[OverviewSnapshot], now_s: float) -> str:
    """One snapshot, or several that are folded into one line; a filled mark stands for memory."""
    size = human_bytes(sum(one.disk_bytes + (one.memory.bytes if one.memory else 0) for one in taken))
    last = taken[-1]
    age = human_time(max(0, int(now_s) - last.ctime))
    if len(taken) > 1:
        return f"⋮ {len(taken)} snapshots, {taken[0].name} to {last.name}  ({age} ago, {size})"
    mark = "◉" if last.memory else "○"
    words = f"  {brief(last.description)}" if last.description else ""
    return f"{mark} {last.name}  ({age} ago, {size}{_memory_of(last, ', ')}){words}"


def _memory_of(taken: OverviewSnapshot, before: str = "") -> str:
    memory = taken.memory
    if memory is None:
        return ""
    if memory.status == "available":
        return f"{before}memory {human_bytes(memory.bytes)}"
    return f"{before}memory {memory.status}" + (f" {memory.progress} %" if memory.status != "failed" else "")


def _cells(seen: Overview, one: OverviewSnapshot) -> list[str]:
    name = f"{one.name} (current)" if one.uuid == seen.now.head else one.name
    return [
        moment(one.ctime),
        human_bytes(one.disk_bytes),
        _memory_of(one).removeprefix("memory ") or "-",
        name,
        brief(one.description),
    ]


def _print(facts: list[tuple[str, str]]) -> None:
    for line in table([[name, value] for name, value in facts if value]):
        typer.echo(line)


def _facts_of_vm(seen: Overview) -> list[tuple[str, str]]:
    vm, now = seen.vm, seen.now
    head = next((one.name for one in seen.snapshots if one.uuid == now.head), "")
    since = f" since {moment(now.since)}" if now.since else ""
    size = "size not known" if now.changed_bytes is None else human_bytes(now.changed_bytes)
    return [
        ("name", vm.name),
        ("uuid", vm.uuid),
        ("state", vm.state),
        ("action", vm.action),
        ("tenant", vm.tenant),
        ("disks", ", ".join(vm.disks)),
        ("stands on", head),
        ("changed", f"{size}{since}"),
        ("snapshots", f"{len(seen.snapshots)}, {human_bytes(seen.total_bytes)}"),
    ]


def _facts_of_snapshot(taken: Snapshot) -> list[tuple[str, str]]:
    attr = taken.attr or {}
    memory = attr.get("status", "")
    if memory == "available":
        memory = f"saved, {human_bytes(int(attr['memory_bytes']))} ({attr['capture_mode']})"
    elif memory:
        memory = f"{memory}, {attr['progress']} %"
    return [
        ("name", taken.name),
        ("uuid", taken.uuid),
        ("description", taken.description),
        ("taken", moment(taken.ctime)),
        ("memory", memory or "none"),
        ("reason", attr.get("reason", "")),
        ("disks", ", ".join(f"{disk.disk} {disk.snapshot_uuid}" for disk in taken.disk_snapshot_list)),
        ("screen", taken.screenshot_url),
        ("operation", taken.operation_uuid),
    ]
