"""What a service has noted, read from its database, against the files that lie there: white-box, read-only."""

from __future__ import annotations

import sqlite3
import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager
from itertools import product
from pathlib import Path
from typing import Any

from stillframe.adapters.libvirt.lazy_image import lives_on
from support.checksums import checksum_image
from support.service import Service, Vm, eventually

_OUR_DIRECTORIES = ("memory", "screenshots")


def rows(service: Service, query: str, *values: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(f"file:{service.state / 'stillframe.db'}?mode=ro", uri=True)) as database:
        return database.execute(query, values).fetchall()


def layer_paths(vm: Vm) -> dict[str, dict[str, tuple[str, str]]]:
    """Snapshot name -> disk target -> (path, format) of the layer that holds the disk's contents of that moment."""
    found: dict[str, dict[str, tuple[str, str]]] = {}
    query = (
        "SELECT s.name, d.target, l.path, l.format FROM snapshots s JOIN disk_snapshots d ON d.snapshot_uuid = s.uuid "
        "JOIN layers l ON l.uuid = d.layer_uuid WHERE s.vm_uuid = ?"
    )
    for name, target, path, image_format in rows(vm.service, query, vm.uuid):
        found.setdefault(name, {})[target] = (path, image_format)
    return found


def checksums(vm: Vm) -> dict[str, dict[str, str]]:
    """Snapshot name -> disk target -> checksum of the disk's contents of that moment."""
    known: dict[tuple[str, str], str] = {}
    return {
        name: {
            target: known.get(layer) or known.setdefault(layer, checksum_image(*layer)) for target, layer in of.items()
        }
        for name, of in layer_paths(vm).items()
    }


class Sights:
    """What a VM's snapshots were when they were first seen. No name is ever given twice."""

    def __init__(self, vm: Vm) -> None:
        self._vm = vm
        self._seen: dict[str, dict[str, str]] = {}
        self.held = 0
        """How many were found to be what they were."""

    def look(self) -> None:
        """See one more, if there is one; also while the VM's operations go on."""
        query = (
            "SELECT l.uuid, l.path, l.parent_uuid FROM layers l JOIN volumes v ON v.uuid = l.volume_uuid "
            "WHERE v.vm_uuid = ?"
        )
        layers = rows(self._vm.service, query, self._vm.uuid)
        paths = layer_paths(self._vm)
        fresh = next((name for name in paths if name not in self._seen), None)
        if fresh is None:
            return
        try:
            seen = {target: checksum_image(*layer) for target, layer in paths[fresh].items()}
        except subprocess.CalledProcessError:
            if rows(self._vm.service, query, self._vm.uuid) == layers:
                raise
            return  # a file of its chain has gone meanwhile, merged into another
        if fresh in layer_paths(self._vm):  # else it was deleted while it was read, and what was read means nothing
            self._seen[fresh] = seen

    def compare(self) -> None:
        """Each that is there is what it was; those of which nothing was seen yet are seen now. Nothing is under way."""
        now = checksums(self._vm)
        known = {name: seen for name, seen in self._seen.items() if name in now}
        changed = [name for name, seen in known.items() if now[name] != seen]
        assert not changed, f"{self._vm.name}: not what they were: {changed}"
        self.held += len(known)
        self._seen = now


def head_checksums(vm: Vm) -> dict[str, str]:
    """Disk target -> checksum of what the VM's disks read now; the VM is shut off."""
    query = (
        "SELECT v.target, l.path, l.format FROM volumes v JOIN volume_heads h ON h.volume_uuid = v.uuid "
        "JOIN layers l ON l.uuid = h.layer_uuid WHERE v.vm_uuid = ?"
    )
    return {target: checksum_image(path, form) for target, path, form in rows(vm.service, query, vm.uuid)}


def check_census(service: Service, *elsewhere: Path) -> None:
    """Every file of ours belongs to a row and every row's file is there; no operation is open.

    ``elsewhere``: directories of disks outside of the service's state.
    """
    unfinished = rows(service, "SELECT kind, state, error FROM operations WHERE lock_key IS NOT NULL OR state = 'left'")
    assert not unfinished, unfinished
    layers = {path for (path,) in rows(service, 'SELECT path FROM layers WHERE NOT "foreign"')}
    found = {str(path) for top in (service.state, *elsewhere) for path in top.rglob("stillframe-*/*")}
    assert found == layers
    memory = {f"{u}.mem" for (u,) in rows(service, "SELECT uuid FROM memory_states WHERE status <> 'failed'")}
    memory |= _lent(service)
    screens = {f"{u}.png" for (u,) in rows(service, "SELECT uuid FROM snapshots WHERE screenshot_checksum <> ''")}
    for directory, wanted in zip(_OUR_DIRECTORIES, (memory, screens), strict=True):
        assert {path.name for path in (service.state / directory).glob("*")} == wanted, directory


def _lent(service: Service) -> set[str]:
    """The files of memory states that are no snapshot's any more: each is a guest's, or goes."""
    directory = service.state / "memory"
    eventually(
        lambda: all(_is_lived_on(service, path.stem) for path in directory.glob("*.lent")),
        "lent files go",
        timeout_s=60,
    )
    return {path.name for lent in directory.glob("*.lent") for path in (lent, lent.with_suffix(".mem"))}


def _is_lived_on(service: Service, memory_uuid: str) -> bool:
    """A guest of this libvirt has its memory in this file, running or saved."""
    if service.connect.startswith("qemu:///embed"):  # nobody else can ask that one: what it notes of running guests
        noted = (service.state / "libvirt" / "run" / "qemu").glob("*.xml")
        return any(f"{memory_uuid}.mem" in path.read_text() for path in noted)
    virsh = ["virsh", "-q", "-c", service.connect]
    listed = subprocess.run([*virsh, "list", "--all", "--uuid"], check=True, capture_output=True, text=True).stdout
    for uuid, words in product(listed.split(), ("dumpxml", "managedsave-dumpxml")):
        told = subprocess.run([*virsh, words, uuid], check=False, capture_output=True, text=True)
        if told.returncode == 0 and lives_on(told.stdout) == memory_uuid:
            return True
    return False


def _files(service: Service) -> dict[str, tuple[int, int]]:
    """Every file below the service's state that a snapshot may touch, with size and time of its last change."""
    found: dict[str, tuple[int, int]] = {}
    for top in ("guests", "lot", "libvirt/etc", *_OUR_DIRECTORIES):
        for path in (service.state / top).rglob("*"):
            if path.is_file() and path.name != "console.log":
                found[str(path)] = (path.stat().st_size, path.stat().st_mtime_ns)
    return found


@contextmanager
def unchanged(*vms: Vm) -> Iterator[None]:
    """Inside nothing changes: no snapshot, no tree, no power state, no file of any VM (its VMs are shut off)."""
    service = vms[0].service
    before = ([(vm.tree(), vm.list(), vm.inspect()) for vm in vms], _files(service))
    yield
    assert ([(vm.tree(), vm.list(), vm.inspect()) for vm in vms], _files(service)) == before
    check_census(service)


def owned_files(directory: Path) -> list[Path]:
    """What the service has put beside a VM's own files."""
    return list(directory.rglob("stillframe-*"))
