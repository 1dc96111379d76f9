"""What the figures say: the table of goals, the figures by family, the pictures, and the document."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from explanation import explanation
from goals import goals
from measurements import Measurements
from plots import Chart, Series, svg
from scale import Scale

_PEERS = (
    ("stillframe", "Stillframe"),
    ("virsh_external", "virsh external, live"),
    ("virsh_internal", "virsh internal"),
    ("floor", "bare QEMU"),
)
# key before the size, title, unit; a row for each peer that was measured
_BY_SIZE = (
    ("stall.memory", "Stall, snapshot with memory", "ms"),
    ("stall.moment", "Stall, snapshot with memory, until the answer", "ms"),
    ("call.memory", "Snapshot with memory, call returns", "ms"),
    ("usable", "Snapshot with memory, can be rolled back to", "ms"),
    ("stored", "Memory state on disk", "MiB"),
    ("rollback", "Rollback with memory, to the first tick", "ms"),
)
_TREES = (
    ("tree.picture", "Tree of 1,000 snapshots drawn: tree.svg", "ms"),
    ("tree.folded", "Tree of 1,000 snapshots drawn: tree.svg, folded", "ms"),
    ("tree.overview", "Tree of 1,000 snapshots, what the console draws it from", "ms"),
)
_FELT = tuple(
    (f"{key}.{when}.{who}", f"Guest's {words}, p99: {when} {act}", "ms")
    for key, words in (("write", "writes"), ("flush", "flushes"), ("tick", "ticks"))
    for who, act in (("stillframe", "the delete"), ("virsh", "virsh blockcommit"))
    for when in ("before", "during")
)
_OTHERS = (
    ("start.virsh", "virsh doing nothing (its start and connection, part of its figures)", "ms"),
    ("stall.disks.stillframe", "Stall, disk snapshot: Stillframe", "ms"),
    ("stall.disks.virsh_external", "Stall, disk snapshot: virsh external", "ms"),
    ("call.disks.stillframe", "Disk snapshot, call to answer: Stillframe", "ms"),
    ("call.disks.virsh_external", "Disk snapshot, call to answer: virsh external", "ms"),
    ("change.little", "Rollback without memory, little changed: Stillframe", "ms"),
    ("change.much", "Rollback without memory, much changed: Stillframe", "ms"),
    ("footprint.pages", "Guest's pages that are not zero", "MiB"),
    ("footprint.disk", "Memory state of the same guest on disk: Stillframe", "MiB"),
    ("footprint.zstd", "Memory state of a guest like it, compressed (zstd, btrfs)", "MiB"),
    ("merge.stillframe", "Live delete of a layer: Stillframe", "MiB/s"),
    ("merge.virsh", "The same of a guest like it: virsh blockcommit", "MiB/s"),
    ("merge.commit", "The same layer, nobody has it open: qemu-img commit", "MiB/s"),
    *_FELT,
    *_TREES,
)
_DRAWN_MS = 100
_SAYS = (
    "Stillframe beside `virsh`, `qemu-img` and a bare QEMU, on one machine and one libvirtd, in one run. What counts are "
    "the ratios."
)
_READS = ("SQLite", "PostgreSQL")
_PICTURES = {
    "bench-pause.svg": "stall of the guest against its memory",
    "bench-rollback.svg": "rollback with memory against the guest's memory",
    "bench-reads.svg": "time of a read against the length of the history",
}

Rows = list[list[str]]


def goals_rows(measured: Measurements, scale: Scale) -> Rows:
    """The table of goals: its head first."""
    rows = [
        [goal.words, goal.required, goal.found_text(measured), goal.word(measured)]
        for goal in goals(scale)
    ]  # fmt: skip
    return [["figure", "goal", "found", ""], *rows]


def sizes_rows(measured: Measurements, scale: Scale) -> Rows:
    """What depends on the guest's memory: a column for each size."""
    rows = [["median (smallest to largest)", *(f"{mib} MiB" for mib in scale.sizes)]]
    rows.append(["Stall, undisturbed guest (its own jitter), ms", *(measured.text(f"jitter.{m}") for m in scale.sizes)])
    for start, title, unit in _BY_SIZE:
        for peer, name in _PEERS:
            keys = [f"{start}.{mib}.{peer}" for mib in scale.sizes]
            if any(measured.has(key) for key in keys):
                rows.append([f"{title}: {name}, {unit}", *map(measured.text, keys)])
    return rows


def other_rows(measured: Measurements) -> Rows:
    rows = [[f"{title}, {unit}", measured.text(key)] for key, title, unit in _OTHERS if measured.has(key)]
    return [["median (smallest to largest)", ""], *rows]


def markdown(rows: Rows) -> str:
    head, *rest = [f"| {' | '.join(row)} |" for row in rows]
    return "\n".join([head, "|" + "---|" * len(rows[0]), *rest]).replace("| MISSED |", "| **MISSED** |")


def plain(rows: Rows) -> str:
    """For a terminal."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return "\n".join(
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows
    )


def charts(measured: Measurements, scale: Scale) -> dict[str, Chart]:
    """By file name; those of which something was measured."""
    read = {f"{call}.{database}": f"{words}, {database}" for call, words in (("list", "list of 50"), ("get", "get"), ("tree", "tree of 1,000"), ("head", "head")) for database in _READS}  # fmt: skip
    histories = (1_000, scale.reads.many)
    memory, milliseconds = "guest's memory, MiB", "median, ms"
    found = {
        "bench-pause.svg": Chart(
            "Stall of the guest at a snapshot with memory", memory, milliseconds,
            (*_lines(measured, scale.sizes, "stall.memory.{x}.{key}", dict(_PEERS)),
             *_lines(measured, scale.sizes, "stall.moment.{x}.{key}", {"stillframe": "Stillframe, until the answer"}),
             *_lines(measured, scale.sizes, "jitter.{x}", {"": "undisturbed"})),
            log_x=True, log_y=True,
        ),
        "bench-rollback.svg": Chart(
            "Rollback with memory, request to first tick", memory, milliseconds,
            _lines(measured, scale.sizes, "rollback.{x}.{key}", dict(_PEERS)), log_x=True,
            log_y=True,
        ),
        "bench-reads.svg": Chart(
            "Reads with a long history", "snapshots in the database", milliseconds,
            _lines(measured, histories, "{key}.{x}", read), log_x=True,
        ),
    }  # fmt: skip
    return {name: chart for name, chart in found.items() if chart.series}


def _lines(measured: Measurements, xs: Sequence[int], pattern: str, names: dict[str, str]) -> tuple[Series, ...]:
    lines = []
    for key, name in names.items():
        keys = {x: pattern.format(x=x, key=key) for x in xs}
        points = tuple((float(x), measured.median(one)) for x, one in keys.items() if measured.has(one))
        if points:
            lines.append(Series(name, points))
    return tuple(lines)


@dataclass(frozen=True)
class Run:
    """How, when and where the figures were made. ``failed``: of which parts something could not be measured."""

    command: str
    day: str
    scale: Scale
    machine: list[tuple[str, str]]
    failed: tuple[str, ...] = ()


def document(measured: Measurements, run: Run) -> str:
    """docs/benchmarks.md without the sections of others."""
    goal_rows = goals_rows(measured, run.scale)
    words = [row[-1] for row in goal_rows[1:]]
    missed, unknown = words.count("MISSED"), words.count("-")
    held = words.count("holds")
    said = f"All {held} goals hold." if held == len(words) else f"{held} of {len(words)} goals hold, {missed} missed."
    said += f" {unknown} were not measured." if unknown else ""
    said += (
        f" FAILED in this run, and without the figures that it would have had: {', '.join(run.failed)}."
        if run.failed
        else ""
    )
    rounds = "1 round" if run.scale.rounds == 1 else f"{run.scale.rounds} rounds"
    pictures = [f"![{_PICTURES[name]}](images/{name})" for name in charts(measured, run.scale)]
    parts = [
        "# Benchmarks",
        _SAYS,
        f"Written by `{run.command}` on {run.day}. {rounds}. **{said}**",
        markdown([["machine", ""], *map(list, run.machine)]),
        "## Goals",
        "The goal and what was found, with the medians that it is made of in brackets.",
        markdown(goal_rows),
        "## Figures",
        markdown(sizes_rows(measured, run.scale)),
        *pictures,
        markdown(other_rows(measured)),
        explanation(run.scale),
    ]
    return "\n\n".join(parts)


def write_pictures(measured: Measurements, scale: Scale, directory: Path) -> None:
    """They belong to whom the directory belongs to, also when root has measured for somebody."""
    owner = directory.stat()
    for name, chart in charts(measured, scale).items():
        (directory / name).write_text(svg(chart), encoding="utf-8")
        os.chown(directory / name, owner.st_uid, owner.st_gid)


def trees_table(measured: Measurements) -> str:
    """The rows about trees alone, as Markdown; they must have been measured."""
    taken = measured.median("tree.picture")
    rows = [[f"{title}, {unit}", measured.text(key)] for key, title, unit in _TREES]
    word = "holds" if taken <= _DRAWN_MS else "MISSED"
    return markdown([["", ""], *rows, [f"Tree of 1,000 snapshots drawn as a picture: {_DRAWN_MS} ms at most", word]])


def write_document(file: Path, text: str, dropped: Sequence[str] = ()) -> None:
    """Replace what ``document`` wrote before; sections that others put into the file stay behind it.

    ``dropped``: headings of sections that an older version wrote.
    """
    own = {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")} | set(dropped)
    old = file.read_text(encoding="utf-8") if file.exists() else ""
    others = [section for section in old.split("\n## ")[1:] if section.partition("\n")[0] not in own]
    parts = [text.rstrip(), *(f"## {section.rstrip()}" for section in others)]
    file.write_text("\n\n".join(parts) + "\n", encoding="utf-8")


def put_section(file: Path, heading: str, text: str) -> None:
    """Replace the document's section of this heading, or put it at the end; the others stay."""
    before, _heading, old = file.read_text(encoding="utf-8").partition(f"{heading}\n")
    _old, next_heading, after = old.partition("\n## ")
    sections = [before.rstrip(), f"{heading}\n\n{text}", *([f"## {after.rstrip()}"] if next_heading else [])]
    file.write_text("\n\n".join(sections) + "\n", encoding="utf-8")
