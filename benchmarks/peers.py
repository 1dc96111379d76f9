"""What is measured, on one running witness guest: Stillframe over HTTP and its peer ``virsh``, step for step alike."""

from __future__ import annotations

import shutil
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from virsh import Virsh

from support.service import Service, Vm

_POLL_S = 0.05
BLOCK_BYTES = 512  # the unit of st_blocks


@dataclass(frozen=True)
class MemorySnapshot:
    """``call_s`` until the call returned, ``usable_s`` until one could go back to it, and what it occupies."""

    call_s: float
    usable_s: float
    stored_bytes: int


class Peer(Protocol):
    """One way of taking snapshots of a running guest. Each call returns when the operation has completely ended."""

    key: str

    def prepare(self, vm: Vm) -> None:
        """Take over a fresh guest."""
        ...

    def snapshot_disks(self, name: str) -> float:
        """Take a snapshot without memory; returns the seconds until the answer."""
        ...

    def snapshot_memory(self, name: str) -> MemorySnapshot:
        """Take a snapshot with memory."""
        ...

    def forget(self, name: str) -> None:
        """Give up a snapshot with memory, so that its memory no longer takes room."""
        ...

    def roll_back(self, name: str) -> None:
        """Go back to a snapshot with memory."""
        ...

    def clean(self) -> None:
        """Remove what was made beside the guest itself. May be repeated."""
        ...


class Stillframe:
    """The service, spoken to over HTTP as any client would."""

    key = "stillframe"

    def __init__(self) -> None:
        self.vm: Vm | None = None
        self.frozen_layer = Path()
        """The file that holds the disk as it was at the last snapshot with memory."""

    def prepare(self, vm: Vm) -> None:
        self.vm = vm

    def snapshot_disks(self, name: str) -> float:
        vm = self._vm
        begun_s = time.monotonic()
        vm.post("/v1/compute/vsd/snapshot/create", name=name, description="", domain_memory=False)
        return time.monotonic() - begun_s

    def snapshot_memory(self, name: str) -> MemorySnapshot:
        vm = self._vm
        self.frozen_layer = Path(vm.disk_path())
        begun_s = time.monotonic()
        vm.post("/v1/compute/vsd/snapshot/create", name=name, description="", domain_memory=True)
        returned_s = time.monotonic()
        while (attr := vm.get(name)["attr"])["status"] not in ("available", "failed"):
            time.sleep(_POLL_S)
        if attr["status"] != "available" or attr["capture_mode"] != "background-snapshot":
            raise RuntimeError(f"the memory was not captured as it should be: {attr}")
        ended_s = time.monotonic()
        return MemorySnapshot(
            returned_s - begun_s, ended_s - begun_s, self.memory_file().stat().st_blocks * BLOCK_BYTES
        )

    def memory_file(self) -> Path:
        """Where the newest memory lies."""
        files = (self._vm.service.state / "memory").glob("*.mem")
        return max(files, key=lambda file: file.stat().st_mtime)

    def forget(self, name: str) -> None:
        self._vm.delete(name)

    def roll_back(self, name: str) -> None:
        self._vm.rollback(name, memory=True)

    def clean(self) -> None:
        if self.vm is not None:
            names: Sequence[str] = self.vm.names()
            for name in reversed(names):
                self.vm.delete(name)
        self.vm = None

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

    def snapshot_disks(self, name: str) -> float:
        disk = ["--diskspec", f"vda,snapshot=external,file={self._scratch / name}.qcow2"]
        return self._virsh("snapshot-create-as", self._uuid, name, "--disk-only", *disk, "--atomic")

    def snapshot_memory(self, name: str) -> MemorySnapshot:
        memory = self._memory(name)
        where = ["--memspec", f"file={memory},snapshot=external"]
        where += ["--diskspec", f"vda,snapshot=external,file={self._scratch / name}.qcow2"]
        taken_s = self._virsh("snapshot-create-as", self._uuid, name, *where, "--live", "--atomic")
        return MemorySnapshot(taken_s, taken_s, memory.stat().st_blocks * BLOCK_BYTES)

    def forget(self, name: str) -> None:
        self._virsh("snapshot-delete", self._uuid, name, "--metadata")
        self._memory(name).unlink()

    def roll_back(self, name: str) -> None:
        self._virsh("snapshot-revert", self._uuid, name)

    def clean(self) -> None:
        _forget_snapshots(self._virsh, self._uuid)
        shutil.rmtree(self._scratch, ignore_errors=True)
        self._uuid = ""

    def _memory(self, name: str) -> Path:
        return self._scratch / f"{name}.save"


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

    def snapshot_disks(self, name: str) -> float:
        raise NotImplementedError("libvirt takes no internal snapshot of a running guest's disks alone")

    def snapshot_memory(self, name: str) -> MemorySnapshot:
        if self._disk is None:
            raise RuntimeError("no guest was prepared")
        before = self._disk.stat().st_blocks
        taken_s = self._virsh("snapshot-create-as", self._uuid, name)
        return MemorySnapshot(taken_s, taken_s, (self._disk.stat().st_blocks - before) * BLOCK_BYTES)

    def forget(self, name: str) -> None:
        self._virsh("snapshot-delete", self._uuid, name)

    def roll_back(self, name: str) -> None:
        self._virsh("snapshot-revert", self._uuid, name)

    def clean(self) -> None:
        _forget_snapshots(self._virsh, self._uuid)
        self._uuid = ""


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
