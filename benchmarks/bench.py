"""Stillframe beside its peers, on one libvirtd, in one run: `virsh`, `qemu-img`, a bare QEMU.

    python benchmarks/bench.py [--quick] [--rounds N] [--only PART]... [--write FILE]

A private libvirtd is started (needs root), a Stillframe service on it, and one witness guest after the other; whatever
was started has ended and gone when this ends, also after Ctrl-C. A goal that is missed is said, and is no error; a part
that could not be measured is one.
"""

from __future__ import annotations

import argparse
import dataclasses
import shlex
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import disks
import footprint
import httpx
import reads
import snapshots
import trees
from ground import Ground
from machine import facts
from report import (
    Run,
    document,
    goals_rows,
    other_rows,
    plain,
    put_section,
    sizes_rows,
    write_document,
    write_pictures,
)
from scale import FULL, QUICK, Scale
from virsh import Virsh

from support.ending import end_in_order
from support.private_libvirtd import PrivateLibvirtd
from support.service import running_service

PARTS = ("snapshots", "footprint", "changes", "merge", "trees", "reads")
_QUICK_SAYS = (
    "This proves that the benchmark works, not how fast things are: one round, the smallest guest, little data. "
    "`make bench` measures."
)
_OLD_SECTIONS = ("Targets", "Machine")
_FAILURES = (RuntimeError, AssertionError, OSError, ValueError, LookupError, httpx.HTTPError)


class Bench:
    """Parts one after the other. One that fails is named at the end, and the others are measured all the same."""

    def __init__(self, scale: Scale, parts: list[str]) -> None:
        self.failed: list[str] = []
        self._scale = scale
        self._parts = parts
        self._last = ""

    def run(self) -> tuple[Ground, list[tuple[str, str]], reads.Found | None]:
        """The figures, the machine, and what the last part has to say for itself."""
        with PrivateLibvirtd() as daemon, running_service(daemon.uri) as service:
            ground = Ground(daemon, service, Virsh(daemon.uri), self._scale)
            for number in range(self._scale.rounds):
                print(f"round {number + 1} of {self._scale.rounds}", flush=True)
                for measure in snapshots.in_round(ground, number):
                    self._part("snapshots", measure)
            self._part("footprint", partial(footprint.measure, ground))
            self._part("footprint", partial(footprint.measure_compressed, ground))
            self._part("changes", partial(disks.measure_changes, ground))
            for _ in range(self._scale.merges):
                self._part("merge", partial(disks.measure_merge, ground))
            self._part("trees", partial(trees.measure_on, ground))
            machine = facts(ground.accelerator, daemon.uri, service.state)
        found: list[reads.Found] = []
        self._part("reads", lambda: found.append(reads.measure(self._scale.reads, ground.measured)))
        return ground, machine, found[0] if found else None

    def _part(self, name: str, measure: Callable[[], object]) -> None:
        if name not in self._parts:
            return
        begun_s = time.monotonic()
        if name != self._last:
            print(name, flush=True)
        self._last = name
        try:
            measure()
        except _FAILURES as error:
            self.failed.append(name)
            print(f"FAILED: {name}: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
        print(f"  [{time.monotonic() - begun_s:.0f} s]", flush=True)


def main(arguments: list[str]) -> int:
    """Measure, print, and write the document if asked."""
    parser = argparse.ArgumentParser(description="Stillframe beside its peers, on one libvirtd, in one run.")
    parser.add_argument("--rounds", type=int, metavar="N", help=f"how often everything is measured ({FULL.rounds})")
    parser.add_argument("--quick", action="store_true", help="one round with the smallest guest and little data")
    parser.add_argument("--only", action="append", choices=PARTS, metavar="PART", help=f"one of {', '.join(PARTS)}")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report there as Markdown")
    given = parser.parse_args(arguments)
    if given.write and not given.write.parent.is_dir():
        parser.error(f"no directory for {given.write}")
    scale = QUICK if given.quick else FULL
    if given.rounds:
        scale = dataclasses.replace(scale, rounds=max(1, given.rounds))
    if given.quick:
        print(_QUICK_SAYS, flush=True)
    end_in_order()
    begun_s = time.monotonic()
    bench = Bench(scale, given.only or list(PARTS))
    ground, machine, read = bench.run()
    measured = ground.measured
    print("", *(f"{name}: {value}" for name, value in machine), sep="\n")
    tables = [sizes_rows(measured, scale), other_rows(measured), goals_rows(measured, scale)]
    print("", *(f"{plain(rows)}\n" for rows in tables), sep="\n")
    failed = tuple(dict.fromkeys(bench.failed))
    print(f"took {time.monotonic() - begun_s:.0f} s" + (f"; FAILED: {', '.join(failed)}" if failed else ""))
    if given.write:
        command = shlex.join(["python", "benchmarks/bench.py", *arguments])
        run = Run(command, f"{datetime.now(UTC):%Y-%m-%d}", scale, machine, failed)
        write_document(given.write, document(measured, run), _OLD_SECTIONS)
        pictures = given.write.parent / "images"
        pictures.mkdir(exist_ok=True)
        write_pictures(measured, scale, pictures)
        if read:
            put_section(given.write, reads.HEADING, reads.section(command, scale.reads, measured, read))
        print(f"written: {given.write}")
    return 1 if bench.failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
