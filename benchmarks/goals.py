"""What is asked of the figures: a table of goals as data, and what a run has found for each."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

from measurements import Measurements, figure
from scale import Scale


class Kind(Enum):
    """How a goal's two figures are compared, and how the outcome is written."""

    SHARE = "share"  # the first is at most this part of the second: 1/20
    FACTOR = "factor"  # the first is at most so many times the second
    RATE = "rate"  # the first is at least so many times the second
    ABOVE = "above"  # the first is at most so many milliseconds above the second


@dataclass(frozen=True)
class Goal:
    """``first`` and ``second`` are keys of measurements; their medians are compared."""

    key: str
    words: str
    kind: Kind
    limit: float
    first: str
    second: str
    unit: str = "ms"

    @property
    def required(self) -> str:
        return f"{'>=' if self.kind is Kind.RATE else '<='} {self._said(self.limit)}"

    def found(self, measured: Measurements) -> float | None:
        """None: one of the two was not measured."""
        if not measured.has(self.first, self.second):
            return None
        first, second = measured.median(self.first), measured.median(self.second)
        return first - second if self.kind is Kind.ABOVE else first / second

    def found_text(self, measured: Measurements) -> str:
        found = self.found(measured)
        if found is None:
            return "not measured"
        of = "over" if self.kind is Kind.ABOVE else "of"
        medians = f"{figure(measured.median(self.first))} {of} {figure(measured.median(self.second))} {self.unit}"
        return f"{self._said(found)} ({medians})"

    def word(self, measured: Measurements) -> str:
        found = self.found(measured)
        if found is None:
            return "-"
        holds = found >= self.limit if self.kind is Kind.RATE else found <= self.limit
        return "holds" if holds else "MISSED"

    def _said(self, value: float) -> str:
        if self.kind is Kind.ABOVE:
            return f"{value:.1f} ms"
        if self.kind is Kind.SHARE and value < 1:
            return f"1/{1 / value:.1f}".removesuffix(".0")
        return f"{value:.2f}x"


def goals(scale: Scale) -> list[Goal]:
    """In the order of the table. What compares sizes is left out where there is one size."""
    return [*_snapshots(scale), *_rollbacks(scale), *_disks(scale), *_reads(scale)]


def _snapshots(scale: Scale) -> list[Goal]:
    base, large, small = scale.base, max(scale.sizes), min(scale.sizes)
    ours = f"stall.memory.{base}.stillframe"
    stall = f"Stall, snapshot with memory, {base} MiB"
    found = [
        Goal("stall.live", f"{stall}: of virsh --live", Kind.SHARE, 1 / 20, ours, f"stall.memory.{base}.virsh_external"),
        Goal("stall.internal", f"{stall}: of virsh internal", Kind.SHARE, 1 / 100, ours, f"stall.memory.{base}.virsh_internal"),
    ]  # fmt: skip
    if large > small:
        words = f"Stall, snapshot with memory: at {large} MiB, of at {small} MiB"
        keys = (f"stall.memory.{large}.stillframe", f"stall.memory.{small}.stillframe")
        found.append(Goal("stall.growth", words, Kind.FACTOR, 1.5, *keys))
    return [
        *found,
        Goal("stall.disks", "Stall, disk snapshot, above the guest's own jitter", Kind.ABOVE, 10, "stall.disks.stillframe", f"jitter.{base}"),
        Goal("call.disks", "Disk snapshot, call to answer: of virsh's", Kind.FACTOR, 1, "call.disks.stillframe", "call.disks.virsh_external"),
    ]  # fmt: skip


def _rollbacks(scale: Scale) -> list[Goal]:
    base, large, small = scale.base, max(scale.sizes), min(scale.sizes)
    found: list[Goal] = []

    def add(mib: int, peer: str, limit: float, words: str) -> None:
        kind = Kind.SHARE if limit < 1 else Kind.FACTOR
        words = f"Rollback with memory to the first tick, {mib} MiB: of {words}"
        keys = (f"rollback.{mib}.stillframe", f"rollback.{mib}.{peer}")
        found.append(Goal(f"rollback.{peer}.{mib}", words, kind, limit, *keys))

    add(base, "virsh_external", 1 / 2, "virsh external")
    if large > small:
        add(large, "virsh_external", 1 / 6, "virsh external")
    for mib in scale.internal:
        add(mib, "virsh_internal", 1 / 10, "virsh internal")
    for mib in scale.sizes:
        add(mib, "floor", 2, "the bare-QEMU floor")
    if large > small:
        words = f"Rollback with memory to the first tick: at {large} MiB, of at {small} MiB"
        keys = (f"rollback.{large}.stillframe", f"rollback.{small}.stillframe")
        found.append(Goal("rollback.growth", words, Kind.FACTOR, 1.2, *keys))
    return found


def _disks(scale: Scale) -> list[Goal]:
    much, little, layer = (_amount(mib) for mib in (scale.much_mib, scale.little_mib, scale.layer_mib))
    merge = f"Live delete of a layer of {layer}"
    return [
        Goal("change", f"Rollback without memory, {much} changed: of {little} changed", Kind.FACTOR, 1.1, "change.much", "change.little"),
        Goal("footprint", "Memory state on disk, of the guest's pages that are not zero", Kind.FACTOR, 1.02, "footprint.disk", "footprint.pages", "MiB"),
        Goal("merge.rate", f"{merge}: rate, of qemu-img commit", Kind.RATE, 0.9, "merge.stillframe", "merge.commit", "MiB/s"),
        Goal("merge.write", f"{merge}: guest's writes, p99, of before", Kind.FACTOR, 2, "write.during.stillframe", "write.before.stillframe"),
        Goal("merge.flush", f"{merge}: guest's flushes, p99, of before", Kind.FACTOR, 2, "flush.during.stillframe", "flush.before.stillframe"),
    ]  # fmt: skip


def _reads(scale: Scale) -> list[Goal]:
    few, many = 1_000, scale.reads.many
    databases = ("SQLite", "PostgreSQL")
    growth = [
        Goal(
            f"reads.{call}.{database}",
            f"{words}, {database}: at {many:,} snapshots of at {few:,}",
            Kind.FACTOR,
            1.3,
            f"{call}.{database}.{many}",
            f"{call}.{database}.{few}",
        )
        for call, words in (("list", "List of 50"), ("tree", "Tree of 1,000"))
        for database in databases
    ]
    calls = {"list": "list of 50", "get": "get", "tree": "tree of 1,000", "head": "head"}
    throughput = [
        Goal(f"per_s.{call}.{database}", f"Answers a second of one core, {words}, {database}: of a constant's as long", Kind.RATE, 0.5, f"per_s.{call}.{database}", f"per_s.{call}.constant", "a second")
        for database in databases
        for call, words in calls.items()
    ]  # fmt: skip
    return [*growth, *throughput]


def _amount(mib: int) -> str:
    return f"{mib} MiB" if mib % 1024 else f"{mib // 1024} GiB"
