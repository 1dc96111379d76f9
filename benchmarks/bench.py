"""Stillframe beside ``virsh``, on one libvirtd, in one run.

    python benchmarks/bench.py [--rounds N] [--quick] [--write FILE]

A private libvirtd is started (needs root), a Stillframe service on it, and one witness guest after the other; whatever
was started has ended and gone when this ends, also after Ctrl-C. A ratio that misses its target is said, and is no
error: the exit code is then 0 all the same.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import trees
from peers import (
    Peer,
    Stillframe,
    Virsh,
    VirshExternal,
    VirshInternal,
    measure_gap,
    measure_rollback,
    remove_guest,
)
from report import CHANGES_MIB, Guest, Measurements, Run, document, facts, table, verdicts, write_document
from witness_gap import ConsoleTail

from support.ending import end_in_order
from support.private_libvirtd import PrivateLibvirtd
from support.service import Service, running_service

_IDLE_S = 3.0
_SETTLE_S = 1.5
_RUN_ON_S = 2.5  # a guest that has gone on for a while has something to lose


class Bench:
    """Rounds of the same measurements; every figure is kept."""

    def __init__(self, service: Service, virsh: Virsh, guest: Guest) -> None:
        self.measured = Measurements()
        self.accelerator = ""
        self._service = service
        self._virsh = virsh
        self._guest = guest
        self._stillframe = Stillframe()
        self._peers: list[Peer] = [
            self._stillframe,
            VirshExternal(virsh, service.state / "virsh"),
            VirshInternal(virsh),
        ]

    def round(self, number: int) -> None:
        """Every peer once, each on a fresh guest; who comes first changes from round to round."""
        first = number % len(self._peers)
        for _ in range(5):
            self._note("start.virsh", self._virsh("uri") * 1000, "virsh itself, doing nothing")
        for peer in self._peers[first:] + self._peers[:first]:
            self._measure(peer, f"bench-{number}-{peer.key.replace('_', '-')}")

    def trees(self) -> None:
        """Of one machine that is shut off; nothing else runs meanwhile."""
        vm_uuid = trees.plant(self._service, self._virsh)
        for key, value in trees.measure(self._service, vm_uuid):
            self.measured.add(key, value)
        for key in trees.KEYS:
            print(f"  {key:<28} {self.measured.median(key):9.1f} ms   median of {trees.REPEATS - 1}", flush=True)
        self._virsh("undefine", vm_uuid)

    def _measure(self, peer: Peer, name: str) -> None:
        vm = self._service.guest(
            name, memory_mib=self._guest.memory_mib, fill_mib=self._guest.fill_mib, dirty_pages=self._guest.dirty_pages
        )
        self.accelerator = "KVM" if self._virsh.output("dumpxml", vm.uuid).startswith("<domain type='kvm'") else "TCG"
        peer.prepare(vm)
        if vm.console is None:
            raise RuntimeError("the guest has no console")
        with ConsoleTail(vm.console) as tail:
            time.sleep(_SETTLE_S)
            self._measure_gaps(peer, tail)
            time.sleep(_RUN_ON_S)
            self._note(f"rollback.{peer.key}", measure_rollback(tail, peer), "rollback with memory to the first tick")
            time.sleep(_SETTLE_S)
            if tail.torn:
                raise RuntimeError(f"disk and memory are of different moments: {tail.torn[0]}")
        if peer is self._stillframe:
            for change_mib in CHANGES_MIB:
                taken_s = self._stillframe.time_rollback_after(change_mib)
                self._note(f"change.{change_mib}", taken_s * 1000, f"rollback of the disk after {change_mib} MiB")
        remove_guest(self._service, vm, peer)

    def _measure_gaps(self, peer: Peer, tail: ConsoleTail) -> None:
        self._note("gap.idle", measure_gap(tail, lambda: time.sleep(_IDLE_S), 0), "worst gap, undisturbed")
        if not isinstance(peer, VirshInternal):
            gap_ms = measure_gap(tail, peer.snapshot_disks)
            self._note(f"gap.disks.{peer.key}", gap_ms, "worst gap, snapshot of the disk")
            time.sleep(_SETTLE_S)
        begun_s = time.monotonic()
        taken = peer.snapshot_memory()
        time.sleep(1.0)
        gap_ms = tail.worst_gap_ms(begun_s, time.monotonic())
        self._note(f"gap.memory.{peer.key}", gap_ms, "worst gap, snapshot with memory")
        self._note(f"call.{peer.key}", taken.call_s * 1000, "snapshot with memory, until the call returned")
        self._note(f"usable.{peer.key}", taken.usable_s * 1000, "snapshot with memory, until it is usable")
        self._note(f"stored.{peer.key}", taken.stored_bytes / (1 << 20), "its memory state on disk", "MiB")

    def _note(self, key: str, value: float, what: str, unit: str = "ms") -> None:
        self.measured.add(key, value)
        print(f"  {key:<28} {value:9.1f} {unit:<3}  {what}", flush=True)


def main(arguments: list[str]) -> int:
    """Measure, print, and write the document if asked."""
    parser = argparse.ArgumentParser(description="Stillframe beside virsh, on one libvirtd, in one run.")
    parser.add_argument("--rounds", type=int, default=3, metavar="N", help="how often everything is measured (3)")
    parser.add_argument("--quick", action="store_true", help="one round with a guest of 512 MiB")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the report there as Markdown")
    given = parser.parse_args(arguments)
    guest = Guest(512, 300) if given.quick else Guest(1024, 600)
    rounds = 1 if given.quick else max(1, given.rounds)
    end_in_order()
    begun_s = time.monotonic()
    with PrivateLibvirtd() as daemon, running_service(daemon.uri) as service:
        bench = Bench(service, Virsh(daemon.uri), guest)
        for number in range(rounds):
            print(f"round {number + 1} of {rounds}", flush=True)
            bench.round(number)
        bench.trees()
        machine = facts(bench.accelerator, daemon.uri, service.state)
    checked = verdicts(bench.measured)
    print(f"\n{table(bench.measured)}\n")
    for verdict in checked:
        print(verdict.line())
    print(f"took {time.monotonic() - begun_s:.0f} s")
    if given.write:
        run = Run(shlex.join(["python", "benchmarks/bench.py", *arguments]), rounds, guest, machine)
        write_document(given.write, document(bench.measured, checked, run))
        print(f"written: {given.write}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
