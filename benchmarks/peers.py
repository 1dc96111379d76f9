"""What is measured, on one running witness guest: Stillframe over HTTP and its peer ``virsh``, step for step alike."""

from __future__ import annotations

import os
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

from witness_gap import ConsoleTail

from support.offline import domain_xml, file_disk, image, lot
from support.service import Service, Vm

_POLL_S = 0.05
_BLOCK_BYTES = 512  # the unit of st_blocks


class Peer(Protocol):
    """One way of taking snapshots of a running guest. Each call returns when the operation has completely ended."""

    key: str

    def prepare(self, vm: Vm) -> None:
        """Take over a fresh guest."""
        ...

    def snapshot_disks(self) -> None:
        """Take a snapshot without memory."""
        ...

    def snapshot_memory(self) -> MemorySnapshot:
        """Take a snapshot with memory."""
        ...

    def roll_back(self) -> None:
        """Go back to the snapshot with memory."""
        ...

    def clean(self) -> None:
        """Remove what was made beside the guest itself. May be repeated."""
        ...


@dataclass(frozen=True)
class MemorySnapshot:
    """``call_s`` until the call returned, ``usable_s`` until one could go back to it, and what it occupies."""

    call_s: float
    usable_s: float
    stored_bytes: int


class Stillframe:
    """The service, spoken to over HTTP as any client would."""

    key = "stillframe"

    def __init__(self) -> None:
        self.vm: Vm | None = None

    def prepare(self, vm: Vm) -> None:
        self.vm = vm

    def snapshot_disks(self) -> None:
        self._vm.create("disks")

    def snapshot_memory(self) -> MemorySnapshot:
        begun_s = time.monotonic()
        self._vm.create("memory", memory=True, wait=False)
        returned_s = time.monotonic()
        while (attr := self._vm.get("memory")["attr"])["status"] not in ("available", "failed"):
            time.sleep(_POLL_S)
        if attr["status"] != "available" or attr["capture_mode"] != "background-snapshot":
            raise RuntimeError(f"the memory was not captured as it should be: {attr}")
        return MemorySnapshot(returned_s - begun_s, time.monotonic() - begun_s, int(attr["memory_bytes"]))

    def roll_back(self) -> None:
        self._vm.rollback("memory", memory=True)

    def clean(self) -> None:
        if self.vm is not None:
            for name in reversed(self.vm.names()):
                self.vm.delete(name)
        self.vm = None

    def time_rollback_after(self, change_mib: int) -> float:
        """Seconds that a rollback of the disks takes after this much was written; leaves the guest shut off."""
        if self._vm.state() != "shutoff":
            self._vm.rollback("disks")
        head = self._vm.disk_path()
        if change_mib:
            write = f"write -q -P 0x5a 0 {change_mib}M"
            run(["qemu-io", "-f", "qcow2", "-t", "none", "-c", write, "-c", "flush", head])
        os.sync()  # what still waits to be written would be measured along
        begun_s = time.monotonic()
        self._vm.rollback("disks")
        taken_s = time.monotonic() - begun_s
        if self._vm.disk_path() == head:
            raise RuntimeError("the disk was not rolled back")
        return taken_s

    @property
    def _vm(self) -> Vm:
        if self.vm is None:
            raise RuntimeError("no guest was prepared")
        return self.vm


class VirshExternal:
    """``virsh`` with external snapshots: the memory in a file (live), an overlay on the disk."""

    key = "virsh_external"

    def __init__(self, virsh: Virsh, scratch: Path) -> None:
        self._virsh = virsh
        self._scratch = scratch
        self._uuid = ""

    def prepare(self, vm: Vm) -> None:
        self._uuid = vm.uuid
        self._scratch.mkdir(mode=0o711)

    def snapshot_disks(self) -> None:
        overlay = self._scratch / "disks.qcow2"
        disk = ["--diskspec", f"vda,snapshot=external,file={overlay}"]
        self._virsh("snapshot-create-as", self._uuid, "disks", "--disk-only", *disk, "--atomic")

    def snapshot_memory(self) -> MemorySnapshot:
        memory = self._scratch / "memory.save"
        where = ["--memspec", f"file={memory},snapshot=external"]
        where += ["--diskspec", f"vda,snapshot=external,file={self._scratch / 'memory.qcow2'}"]
        taken_s = self._virsh("snapshot-create-as", self._uuid, "memory", *where, "--live", "--atomic")
        return MemorySnapshot(taken_s, taken_s, memory.stat().st_blocks * _BLOCK_BYTES)

    def roll_back(self) -> None:
        self._virsh("snapshot-revert", self._uuid, "memory")

    def clean(self) -> None:
        _forget_snapshots(self._virsh, self._uuid)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._uuid = ""


class VirshInternal:
    """``virsh`` with internal snapshots: memory and disk inside the qcow2 file."""

    key = "virsh_internal"

    def __init__(self, virsh: Virsh) -> None:
        self._virsh = virsh
        self._uuid = ""
        self._disk: Path | None = None

    def prepare(self, vm: Vm) -> None:
        self._uuid = vm.uuid
        self._disk = Path(vm.disk_path())

    def snapshot_disks(self) -> None:
        raise NotImplementedError("libvirt takes no internal snapshot of a running guest's disks alone")

    def snapshot_memory(self) -> MemorySnapshot:
        if self._disk is None:
            raise RuntimeError("no guest was prepared")
        before = self._disk.stat().st_blocks
        taken_s = self._virsh("snapshot-create-as", self._uuid, "memory")
        return MemorySnapshot(taken_s, taken_s, (self._disk.stat().st_blocks - before) * _BLOCK_BYTES)

    def roll_back(self) -> None:
        self._virsh("snapshot-revert", self._uuid, "memory")

    def clean(self) -> None:
        _forget_snapshots(self._virsh, self._uuid)
        self._uuid = ""


class Virsh:
    """``virsh`` on one libvirtd; a call answers how long it took, its own start included."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __call__(self, *arguments: str) -> float:
        begun_s = time.monotonic()
        self.output(*arguments)
        return time.monotonic() - begun_s

    def output(self, *arguments: str) -> str:
        return run(["virsh", "-q", "-c", self.uri, *arguments])


def define_machine(service: Service, uri: str, name: str) -> Vm:
    """A machine that is shut off, with one small disk."""
    one = lot(service, name)
    disk = image(one.directory / "disk.qcow2", size="1M")
    with NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(domain_xml(one, [file_disk(disk, "vda")]))
        file.flush()
        Virsh(uri)("define", file.name)
    return one.vm(service)


def run(command: list[str]) -> str:
    """Standard output of a program that succeeded.

    Raises:
        RuntimeError: it failed; its words are in the message.
    """
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout


def measure_gap(tail: ConsoleTail, act: Callable[[], object], rest_s: float = 1.0) -> float:
    """The worst gap in milliseconds from the request until a second after its complete end."""
    begun_s = time.monotonic()
    act()
    time.sleep(rest_s)
    return tail.worst_gap_ms(begun_s, time.monotonic())


def measure_rollback(tail: ConsoleTail, peer: Peer) -> float:
    """Milliseconds from the request to the first tick of the guest that came back."""
    before = tail.last()
    begun_s = time.monotonic()
    peer.roll_back()
    return (tail.await_jump_back(before).at_s - begun_s) * 1000


def remove_guest(service: Service, vm: Vm, peer: Peer) -> None:
    """The guest and everything that the peer made for it are gone."""
    peer.clean()
    service.post("/v1/stillframe/guest/delete", name=vm.name)


def _forget_snapshots(virsh: Virsh, uuid: str) -> None:
    """Libvirt's records only: the guest and its files are removed as a whole."""
    if not uuid:
        return
    for name in virsh.output("snapshot-list", uuid, "--name").split():
        virsh("snapshot-delete", uuid, name, "--metadata")
