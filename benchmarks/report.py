"""What the figures say: medians, ratios with their targets, and the document."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

CHANGES_MIB = (0, 64, 512)
_DISK_ALLOWANCE_MS = 20.0
_SIZE_FACTOR = 1.5
_DRAWN_MS = 100

_ROWS = (
    ("gap.idle", "Worst gap, undisturbed guest (its own jitter)", "ms"),
    ("gap.disks.stillframe", "Worst gap, disk snapshot: Stillframe", "ms"),
    ("gap.disks.virsh_external", "Worst gap, disk snapshot: virsh external", "ms"),
    ("gap.memory.stillframe", "Worst gap, snapshot with memory: Stillframe", "ms"),
    ("gap.memory.virsh_external", "Worst gap, snapshot with memory: virsh external, live", "ms"),
    ("gap.memory.virsh_internal", "Worst gap, snapshot with memory: virsh internal", "ms"),
    ("call.stillframe", "Snapshot with memory, call returns: Stillframe", "ms"),
    ("usable.stillframe", "Snapshot with memory, can be rolled back to: Stillframe", "ms"),
    ("usable.virsh_external", "Snapshot with memory, call returns and usable: virsh external, live", "ms"),
    ("usable.virsh_internal", "Snapshot with memory, call returns and usable: virsh internal", "ms"),
    ("stored.stillframe", "Memory state on disk: Stillframe", "MiB"),
    ("stored.virsh_external", "Memory state on disk: virsh external", "MiB"),
    ("stored.virsh_internal", "Memory state on disk: virsh internal (growth of the disk image)", "MiB"),
    ("rollback.stillframe", "Rollback with memory, to the first tick: Stillframe", "ms"),
    ("rollback.virsh_external", "Rollback with memory, to the first tick: virsh external", "ms"),
    ("rollback.virsh_internal", "Rollback with memory, to the first tick: virsh internal", "ms"),
    *((f"change.{mib}", f"Rollback of the disk after {mib} MiB of change: Stillframe", "ms") for mib in CHANGES_MIB),
    ("tree.picture", "Tree of 1,000 snapshots drawn: tree.svg", "ms"),
    ("tree.folded", "Tree of 1,000 snapshots drawn: tree.svg, folded", "ms"),
    ("tree.overview", "Tree of 1,000 snapshots, what the console draws it from", "ms"),
    ("start.virsh", "virsh doing nothing (its start and connection, part of its figures)", "ms"),
)

_EXPLANATION = """\
## How it was measured

All peers work on the same private libvirtd, started for this run alone, behind the same process that waits for dead
QEMU processes at once (where nobody does, libvirt waits seconds for a zombie). Stillframe is its HTTP service connected
to that libvirtd; `virsh` is given the same address. One guest runs at a time. Every peer gets a freshly booted guest
in every round, and the peer that comes first changes from round to round. A figure is the median of all rounds, with
the smallest and the largest in brackets.

The guest is the witness: a real Linux whose only program writes a line with a number to its serial console every 5 ms,
after writing that number to its disk; {fill_mib} of its {memory_mib} MiB of memory hold random data and {dirty_pages}
random pages of it are changed with every line. Its disk is a qcow2 file with `cache=none`.

- **Worst gap**: how long the guest stood still for somebody who watches it. A thread of the benchmark looks at the
  console file every half millisecond and notes when each line arrives; the figure is the longest time between two lines
  from the request until one second after the operation, the saving of memory behind the guest's back included, has
  completely ended. *Undisturbed* is the same over 3 s in which nothing is done: the guest's own jitter.
- **Snapshot with memory**: Stillframe `domain_memory: true`; `virsh snapshot-create-as --memspec
  file=…,snapshot=external --diskspec vda,snapshot=external --live --atomic`; `virsh snapshot-create-as` (internal).
  **Disk snapshot**: Stillframe without `domain_memory`; `virsh snapshot-create-as --disk-only --atomic` (external).
- **Call returns / can be rolled back to**: Stillframe answers as soon as disks and memory are of one moment and the
  guest runs; the memory is saved behind it and is usable when its checksum is recorded and it is on disk.
- **Rollback with memory**: from sending the request to the arrival of the first line with which the guest counts on
  from the snapshot, after it had run on for more than two seconds. Stillframe's figure contains reading the whole
  memory state to check it against its checksum before anything is given up; libvirt checks nothing. The figures of
  `virsh` contain its own start, which is listed; Stillframe's contain HTTP.
- **Tree of 1,000 snapshots**: a whole request over HTTP, the virtual machine asked of libvirt and the rows read, 30 times each
  in turn.
- **Rollback of the disk**: that much data is written to the shut-off guest's disk (`qemu-io`, past the page cache as the
  guest itself would) and flushed, then the whole rollback call is timed. It must not grow with the data.
"""


@dataclass(frozen=True)
class Guest:
    """The witness guest of a run."""

    memory_mib: int
    fill_mib: int
    dirty_pages: int = 20


class Measurements:
    """Every figure of a run under its key."""

    def __init__(self) -> None:
        self._values: dict[str, list[float]] = {}

    def add(self, key: str, value: float) -> None:
        self._values.setdefault(key, []).append(value)

    def median(self, key: str) -> float:
        return median(self._values[key])

    def text(self, key: str) -> str:
        """Median, smallest and largest."""
        values = self._values[key]
        return f"{_figure(median(values))} ({_figure(min(values))} to {_figure(max(values))})"

    def rows(self) -> Iterable[tuple[str, str]]:
        """Titles and figures, in the document's order."""
        for key, title, unit in _ROWS:
            yield f"{title}, {unit}", self.text(key)


@dataclass(frozen=True)
class Verdict:
    """A target: what was found, what is required, in words, and whether it holds."""

    what: str
    found: str
    required: str
    holds: bool

    @property
    def word(self) -> str:
        return "holds" if self.holds else "MISSED"

    def line(self) -> str:
        return f"{self.word:<6}  {self.what}: {self.found}, required {self.required}"


def verdicts(measured: Measurements) -> list[Verdict]:
    """Every target of the run."""
    disks, jitter = measured.median("gap.disks.stillframe"), measured.median("gap.idle")
    limit = jitter + _DISK_ALLOWANCE_MS
    return [
        _ratio(measured, "Gap of a snapshot with memory, of virsh external live", "gap.memory", "virsh_external", 6),
        _ratio(measured, "Gap of a snapshot with memory, of virsh internal", "gap.memory", "virsh_internal", 30),
        Verdict(
            "Gap of a disk snapshot",
            f"{disks:.1f} ms",
            f"own jitter + {_DISK_ALLOWANCE_MS:.0f} ms = {limit:.1f} ms at most",
            disks <= limit,
        ),
        _ratio(measured, "Rollback with memory, of virsh external", "rollback", "virsh_external", 1),
        _ratio(measured, "Rollback with memory, of virsh internal", "rollback", "virsh_internal", 3),
        _growth(measured),
        _drawn(measured),
    ]


def _ratio(measured: Measurements, what: str, row: str, peer: str, divisor: int) -> Verdict:
    ratio = measured.median(f"{row}.stillframe") / measured.median(f"{row}.{peer}")
    required = f"1/{divisor} at most" if divisor > 1 else "1 at most"
    found = f"1/{1 / ratio:.1f}" if ratio < 1 else f"{ratio:.2f}"
    return Verdict(what, found, required, ratio <= 1 / divisor)


def _growth(measured: Measurements) -> Verdict:
    none, most = measured.median("change.0"), measured.median(f"change.{CHANGES_MIB[-1]}")
    return Verdict(
        f"Rollback after {CHANGES_MIB[-1]} MiB of change, of one after none",
        f"{most / none:.2f}",
        f"{_SIZE_FACTOR} at most",
        most <= _SIZE_FACTOR * none,
    )


def trees_table(measured: Measurements) -> str:
    """The rows about trees alone, as Markdown; they must have been measured."""
    rows = [(title, unit, measured.text(key)) for key, title, unit in _ROWS if key.startswith("tree.")]
    verdict = _drawn(measured)
    lines = [f"| {title}, {unit} | {figures} |" for title, unit, figures in rows]
    return "\n".join(["| | |", "|---|---|", *lines, f"| {verdict.what}: {verdict.required} | {verdict.word} |"])


def _drawn(measured: Measurements) -> Verdict:
    taken = measured.median("tree.picture")
    return Verdict(
        "Tree of 1,000 snapshots drawn as a picture", f"{taken:.1f} ms", f"{_DRAWN_MS} ms at most", taken <= _DRAWN_MS
    )


def table(measured: Measurements) -> str:
    """The figures for a terminal."""
    rows = list(measured.rows())
    width = max(len(title) for title, _ in rows)
    return "\n".join(f"{title:<{width}}  {figures}" for title, figures in rows)


def facts(accelerator: str, uri: str, where: Path) -> list[tuple[str, str]]:
    """The machine, without its name."""
    memory_kib = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))[0])
    versions = _output("virsh", "-c", uri, "version", "--daemon")
    libvirt = re.findall(r"Running against daemon: (\S+)", versions)
    qemu = re.findall(r"Running hypervisor: QEMU (\S+)", versions)
    return [
        ("Cores", str(os.cpu_count())),
        ("Memory", f"{memory_kib / (1 << 20):.0f} GiB"),
        ("Kernel", platform.release()),
        ("File system", _output("stat", "--file-system", "--format=%T", str(where)).strip()),
        ("QEMU", qemu[0] if qemu else "unknown"),
        ("libvirt", libvirt[0] if libvirt else "unknown"),
        ("Python", platform.python_version()),
        ("Accelerator", accelerator),
    ]


@dataclass(frozen=True)
class Run:
    """How and where the figures were made."""

    command: str
    rounds: int
    guest: Guest
    machine: list[tuple[str, str]]


def document(measured: Measurements, checked: list[Verdict], run: Run) -> str:
    """docs/benchmarks.md."""
    guest = run.guest
    missed = [verdict for verdict in checked if not verdict.holds]
    said = f"{len(missed)} of {len(checked)} targets missed." if missed else f"All {len(checked)} targets hold."
    lines = [
        "# Benchmarks",
        "",
        "Stillframe beside `virsh`, on one machine and one libvirtd, in one run. What counts are the ratios.",
        "",
        f"Written by `{run.command}` on {datetime.now(UTC):%Y-%m-%d}. {run.rounds} "
        + ("round" if run.rounds == 1 else "rounds")
        + f", guest of {guest.memory_mib} MiB with {guest.fill_mib} MiB filled. **{said}**",
        "",
        "## Targets",
        "",
        "| | found | required | |",
        "|---|---|---|---|",
        *(f"| {v.what} | {v.found} | {v.required} | {v.word if v.holds else f'**{v.word}**'} |" for v in checked),
        "",
        "## Figures",
        "",
        "Median (smallest to largest).",
        "",
        "| | |",
        "|---|---|",
        *(f"| {title} | {figures} |" for title, figures in measured.rows()),
        "",
        "## Machine",
        "",
        "| | |",
        "|---|---|",
        *(f"| {name} | {value} |" for name, value in run.machine),
        "",
        _EXPLANATION.format(memory_mib=guest.memory_mib, fill_mib=guest.fill_mib, dirty_pages=guest.dirty_pages),
    ]
    return "\n".join(lines)


def write_document(file: Path, text: str) -> None:
    """Replace what ``document`` wrote before; sections that others put into the file stay behind it."""
    own = {line.removeprefix("## ") for line in text.splitlines() if line.startswith("## ")}
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


def _figure(value: float) -> str:
    return f"{value:.1f}" if value < 100 else f"{value:,.0f}"


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
