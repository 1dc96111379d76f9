"""The part in which peers meet: snapshots of a running guest, and the way back to them, by the size of its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from floor import measure_floor
from ground import Ground
from peers import Peer, Stillframe, VirshExternal, VirshInternal, remove_guest
from scale import Guest
from witness_gap import ConsoleTail

from support.service import Vm

_IDLE_WATCHED = 3  # times
_SETTLE_S = 1.5
_RUN_ON_S = 2.5  # a guest that has gone on for a while has something to lose
_REST_S = 1.0  # watched after an operation has ended, and where nothing is done


def in_round(ground: Ground, number: int) -> Iterator[Callable[[], None]]:
    """At every size every peer once, each on a fresh guest, to be called in turn.

    Who comes first changes from round to round.
    """
    yield partial(_measure_start, ground)
    for guest in ground.scale.guests:
        peers: list[Peer] = [Stillframe(), VirshExternal(ground.virsh, ground.service.state / "virsh")]
        if guest.memory_mib in ground.scale.internal:
            peers.append(VirshInternal(ground.virsh))
        first = number % len(peers)
        for peer in peers[first:] + peers[:first]:
            yield partial(_measure, ground, peer, guest, f"bench-{number}-{guest.memory_mib}-{peer.key}")


def _measure_start(ground: Ground) -> None:
    for _ in range(5):
        ground.note("start.virsh", ground.virsh("uri") * 1000)


def _measure(ground: Ground, peer: Peer, guest: Guest, name: str) -> None:
    print(f" {guest.memory_mib} MiB, {peer.key.replace('_', ' ')}", flush=True)
    vm = ground.service.guest(name, memory_mib=guest.memory_mib, fill_mib=guest.fill_mib, dirty_pages=guest.dirty_pages)
    ground.accelerator = "KVM" if ground.virsh.output("dumpxml", vm.uuid).startswith("<domain type='kvm'") else "TCG"
    if vm.console is None:
        raise RuntimeError("the guest has no console")
    peer.prepare(vm)
    try:
        with ConsoleTail(vm.console) as tail:
            time.sleep(_SETTLE_S)
            session = _Session(ground, peer, guest, tail)
            session.watch()
            if guest.memory_mib == ground.scale.base and not isinstance(peer, VirshInternal):
                session.snapshot_disks()
            name = session.snapshot_memory()
            session.roll_back(name)
            if tail.torn:
                raise RuntimeError(f"disk and memory are of different moments: {tail.torn[0]}")
        if isinstance(peer, Stillframe):
            _measure_floor(ground, peer, vm, guest)
    finally:
        remove_guest(ground.service, vm, peer)


def _measure_floor(ground: Ground, peer: Stillframe, vm: Vm, guest: Guest) -> None:
    """From the same memory file, on the same layer of the disk, when the guest itself has gone."""
    (pid,) = ground.daemon.guest_pids()
    arguments = Path(f"/proc/{pid}/cmdline").read_text(encoding="utf-8").rstrip("\0").split("\0")
    vm.shutoff()
    for _ in range(ground.scale.rollbacks):
        taken_ms = measure_floor(arguments, peer.frozen_layer, peer.memory_file(), ground.scratch)
        ground.note(f"rollback.{guest.memory_mib}.floor", taken_ms)


class _Session:
    """One guest in the hands of one peer, watched."""

    def __init__(self, ground: Ground, peer: Peer, guest: Guest, tail: ConsoleTail) -> None:
        self._ground = ground
        self._peer = peer
        self._mib = guest.memory_mib
        self._tail = tail

    def watch(self) -> None:
        """No longer at a time than an operation is: the longer one looks, the longer is the worst of the gaps."""
        for _ in range(_IDLE_WATCHED):
            begun_s = time.monotonic()
            time.sleep(_REST_S)
            self._ground.note(f"jitter.{self._mib}", self._worst_gap_ms(begun_s))

    def snapshot_disks(self) -> None:
        for number in range(self._ground.scale.disk_snapshots):
            begun_s = time.monotonic()
            call_s = self._peer.snapshot_disks(f"disks-{number}")
            time.sleep(_REST_S)
            self._ground.note(f"stall.disks.{self._peer.key}", self._worst_gap_ms(begun_s))
            self._ground.note(f"call.disks.{self._peer.key}", call_s * 1000)

    def snapshot_memory(self) -> str:
        """Returns the name of the last one; the others have been given up."""
        name = ""
        scale = self._ground.scale
        counts = {Stillframe.key: scale.snapshots, VirshExternal.key: scale.peer_snapshots, VirshInternal.key: 1}
        for number in range(counts[self._peer.key]):
            if name:
                self._peer.forget(name)
                time.sleep(_SETTLE_S)
            name = f"memory-{number}"
            begun_s = time.monotonic()
            taken = self._peer.snapshot_memory(name)
            time.sleep(_REST_S)
            at = f"{self._mib}.{self._peer.key}"
            self._ground.note(f"stall.memory.{at}", self._worst_gap_ms(begun_s))
            if taken.usable_s > taken.call_s:
                returned_s = begun_s + taken.call_s
                self._ground.note(f"stall.moment.{at}", self._tail.worst_gap_ms(begun_s, returned_s))
                self._ground.note(f"call.memory.{at}", taken.call_s * 1000)
            self._ground.note(f"usable.{at}", taken.usable_s * 1000)
            self._ground.note(f"stored.{at}", taken.stored_bytes / (1 << 20), "MiB")
        return name

    def roll_back(self, name: str) -> None:
        rounds = 1 if isinstance(self._peer, VirshInternal) else self._ground.scale.rollbacks
        for _ in range(rounds):
            time.sleep(_RUN_ON_S)
            before = self._tail.last()
            begun_s = time.monotonic()
            self._peer.roll_back(name)
            first = self._tail.await_jump_back(before)
            self._ground.note(f"rollback.{self._mib}.{self._peer.key}", (first.at_s - begun_s) * 1000)
            time.sleep(_SETTLE_S)

    def _worst_gap_ms(self, begun_s: float) -> float:
        return self._tail.worst_gap_ms(begun_s, time.monotonic())
