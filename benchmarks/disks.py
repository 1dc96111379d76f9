"""The parts about disks alone: the way back after little and after much was written, and the merge of a layer."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from ground import Ground
from measurements import percentile
from virsh import define_machine, fill, run
from witness_gap import ConsoleTail

from support.service import Vm

_DATA_AT_MIB = 1024  # behind what the witness itself writes to
_WARM_UP_S = _SETTLE_S = 3.0
_SETTLES_IN_S = 120.0
_AT_REST_SECTORS = 8192  # in so long as is waited: a machine's own small writes do no harm
_WRITTEN, _DISCARDED = 9, 16  # fields of a line
_TIGHTEST_NS, _WIDEST_NS, _STEP = 20_000, 10_000_000_000, 1.05


@contextmanager
def _machine(ground: Ground, name: str, mib: int) -> Iterator[Vm]:
    """Shut off; gone at the end, with its files."""
    vm = define_machine(ground.service, ground.virsh.uri, name, f"{mib}M")
    try:
        yield vm
    finally:
        if vm.state() != "shutoff":
            vm.shutoff()
        names: Sequence[str] = vm.names()
        for snapshot in reversed(names):
            vm.delete(snapshot)
        ground.virsh("undefine", vm.uuid)
        shutil.rmtree(ground.service.state / "lot" / name)


def measure_changes(ground: Ground) -> None:
    """A rollback without memory after little and after much was written, in turn."""
    scale = ground.scale
    with _machine(ground, "bench-change", scale.much_mib + 2048) as vm:
        vm.create("disks")
        for _ in range(scale.changes):
            for key, mib in (("change.little", scale.little_mib), ("change.much", scale.much_mib)):
                head = vm.disk_path()
                fill(head, mib)
                _settle()  # what still waits to be written, or to be freed, would be measured along
                begun_s = time.monotonic()
                vm.rollback("disks")
                ground.note(key, (time.monotonic() - begun_s) * 1000)
                if vm.disk_path() == head or Path(head).exists():
                    raise RuntimeError("the disk was not rolled back")


def _settle() -> None:
    """Everything is written, and the disks do nothing more: a file system may give the blocks of a large file back, in the
    background, for seconds after it is gone.

    Raises:
        RuntimeError: they do not come to rest; somebody else works on them.
    """
    os.sync()
    give_up_at, before = time.monotonic() + _SETTLES_IN_S, 0
    while (now := _sectors_moved()) - before > _AT_REST_SECTORS:
        if time.monotonic() > give_up_at:
            raise RuntimeError("the disks do not come to rest: does something else work on this machine?")
        before = now
        time.sleep(_SETTLE_S)


def _sectors_moved() -> int:
    """Written to or given back, by all disks since the machine's start. Source: Documentation/admin-guide/iostats.rst."""
    lines = [line.split() for line in Path("/proc/diskstats").read_text(encoding="ascii").splitlines()]
    return sum(int(words[_WRITTEN]) + (int(words[_DISCARDED]) if len(words) > _DISCARDED else 0) for words in lines)


def measure_merge(ground: Ground) -> None:
    """A layer is merged into the one below while its guest writes, by us and by virsh; and by qemu-img, with nobody on it."""
    _measure_live(ground, "stillframe", lambda vm, name: vm.create(name), lambda vm: vm.delete("below"))
    _measure_live(ground, "virsh", partial(_snapshot_by_virsh, ground), partial(_commit_by_virsh, ground))
    _measure_commit(ground, ground.scale.layer_mib)


def _snapshot_by_virsh(ground: Ground, vm: Vm, name: str) -> None:
    file = Path(vm.disk_path()).with_name(f"{name}.qcow2")
    words = ("--disk-only", "--no-metadata", "--diskspec", f"vda,file={file}")
    ground.virsh("snapshot-create-as", vm.uuid, name, *words)


def _commit_by_virsh(ground: Ground, vm: Vm) -> None:
    lot = Path(vm.disk_path()).parent
    base, top = lot / "disk.qcow2", lot / "below.qcow2"
    ground.virsh("blockcommit", vm.uuid, "vda", "--base", str(base), "--top", str(top), "--wait")
    descriptor = os.open(base, os.O_RDONLY | os.O_CLOEXEC)
    os.fsync(descriptor)  # a merge of the service's is durable, too
    os.close(descriptor)
    top.unlink()


def _measure_live(
    ground: Ground, who: str, snapshot: Callable[[Vm, str], object], merge: Callable[[Vm], object]
) -> None:
    mib = ground.scale.layer_mib
    with _machine(ground, f"bench-merge-{who}", mib + 2 * _DATA_AT_MIB) as vm:
        snapshot(vm, "below")
        fill(vm.disk_path(), mib, _DATA_AT_MIB)
        snapshot(vm, "above")
        os.sync()
        vm.start()
        vm.await_ticks(200)
        if vm.console is None:
            raise RuntimeError("the guest has no console")
        with ConsoleTail(vm.console) as tail:
            time.sleep(_WARM_UP_S)
            watched = _Watched(ground, vm, tail, who)
            watched.begin()
            time.sleep(ground.scale.quiet_s)
            watched.end("before")
            watched.begin()
            begun_s = time.monotonic()
            merge(vm)
            ground.note(f"merge.{who}", mib / (time.monotonic() - begun_s), "MiB/s")
            watched.end("during")
            if tail.torn:
                raise RuntimeError(f"the guest does not find what it has written: {tail.torn[0]}")


def _measure_commit(ground: Ground, mib: int) -> None:
    ground.scratch.mkdir(mode=0o711)
    below, layer = ground.scratch / "below.qcow2", ground.scratch / "layer.qcow2"
    try:
        run(["qemu-img", "create", "-q", "-f", "qcow2", str(below), f"{mib + 2 * _DATA_AT_MIB}M"])
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(below), "-F", "qcow2", str(layer)])
        fill(layer, mib, _DATA_AT_MIB)
        _settle()
        begun_s = time.monotonic()
        run(["qemu-img", "commit", "-q", "-d", "-f", "qcow2", str(layer)])
        descriptor = os.open(below, os.O_RDONLY | os.O_CLOEXEC)
        os.fsync(descriptor)  # a merge of the service's is durable, too
        os.close(descriptor)
        ground.note("merge.commit", mib / (time.monotonic() - begun_s), "MiB/s")
    finally:
        for file in (below, layer):
            file.unlink(missing_ok=True)
        ground.scratch.rmdir()


class _Watched:
    """The guest's writes and flushes as its disk's device sees them, and its ticks."""

    def __init__(self, ground: Ground, vm: Vm, tail: ConsoleTail, who: str) -> None:
        self._ground = ground
        self._who = who
        self._vm = vm
        self._tail = tail
        self._begun_s = 0.0

    def begin(self) -> None:
        """Everything is counted anew."""
        bounds = boundaries()
        for group in ("write", "flush"):
            arguments: dict[str, Any] = {"id": self._stats()["qdev"], f"boundaries_{group}": bounds}
            self._ground.virsh.monitor(self._vm.uuid, "block-latency-histogram-set", **arguments)
        self._begun_s = time.monotonic()

    def end(self, when: str) -> None:
        gaps = self._tail.gaps_ms(self._begun_s, time.monotonic())
        stats = self._stats()["stats"]
        for key, name in (("write", "wr_latency_histogram"), ("flush", "flush_latency_histogram")):
            histogram = stats[name]
            self._ground.note(f"{key}.{when}.{self._who}", histogram_p99_ms(histogram["boundaries"], histogram["bins"]))
        self._ground.note(f"tick.{when}.{self._who}", percentile(gaps, 0.99))

    def _stats(self) -> dict[str, Any]:
        (one,) = (stats for stats in self._ground.virsh.monitor(self._vm.uuid, "query-blockstats") if stats.get("qdev"))
        found: dict[str, Any] = one
        return found


def boundaries() -> list[int]:
    """Of a histogram's bins, in nanoseconds: each a twentieth wider than the one before."""
    found, bound = [], float(_TIGHTEST_NS)
    while bound < _WIDEST_NS:
        found.append(round(bound))
        bound *= _STEP
    return found


def histogram_p99_ms(bounds: list[int], bins: list[int]) -> float:
    """The upper end of the bin that the 99th of a hundred falls into; the last bin has none, and counts as its lower end.

    Raises:
        RuntimeError: nothing was counted.
    """
    if not sum(bins):
        raise RuntimeError("the guest has not written")
    ends = zip(accumulate(bins), [*bounds, bounds[-1]], strict=True)
    return next(bound for seen, bound in ends if seen * 100 >= sum(bins) * 99) / 1e6
