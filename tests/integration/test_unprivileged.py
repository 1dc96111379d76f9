"""The service as a user with no right of root's: what it needs is what docs/operating.md says, and what is missing is said."""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import define
from support.ledger import check_census, checksums, head_checksums, unchanged
from support.offline import domain_xml, file_disk, image, lot, write
from support.private_libvirtd import PrivateLibvirtd
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Service, Vm
from support.unprivileged import GID, RIGHTS, UID, allow, prefix

_GUEST_IMAGE = Path(sys.prefix) / "share" / "stillframe" / "guest"


@dataclass
class Ground:
    daemon: PrivateLibvirtd
    service: Service

    def vm(self, name: str, *, allowed: bool = True) -> Vm:
        """A shut-off VM with root's files in a directory of root's; ``allowed``: the service's user may write there."""
        one = lot(self.service, name)
        disks = [image(one.directory / f"disk-{number}.qcow2") for number in range(2)]
        for disk in disks:
            disk.chmod(0o600)
        # libvirt gives a kernel to QEMU's user, too: not the one that all others boot
        for file in ("vmlinuz", "initrd.gz"):
            shutil.copy(_GUEST_IMAGE / file, one.directory)
        if allowed:
            allow(one.directory)
        xml = domain_xml(one, [file_disk(disk, f"vd{'ab'[number]}") for number, disk in enumerate(disks)])
        define(self.daemon, one.directory, xml.replace(str(_GUEST_IMAGE), str(one.directory)))
        return one.vm(self.service)


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    with PrivateLibvirtd(RIGHTS) as daemon:
        service = Service(daemon.uri)
        service.prefix = prefix(service.state / "python")
        try:
            os.chown(service.state, UID, GID)
            service.state.chmod(0o711)
            (service.state / "lot").mkdir(mode=0o755)
            yield Ground(daemon, service.start())
        finally:
            service.destroy()


def rights_of(pid: int) -> dict[str, list[str]]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {line.partition(":")[0]: line.partition(":")[2].split() for line in lines}


def test_it_has_no_right_of_roots(ground: Ground) -> None:
    rights = rights_of(ground.service.pid)
    assert set(rights["Uid"]) == {str(UID)}
    assert set(rights["Gid"]) == {str(GID)}
    for capabilities in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(rights[capabilities][0], 16) == 0


def test_a_shut_off_vm(ground: Ground) -> None:
    """Adopted, snapshotted, rolled back whole and by single disks, deleted; bit for bit, and its files are root's as before."""
    vm = ground.vm("off")
    directory = ground.service.state / "lot" / "off"
    for name in ("a", "b", "c"):
        write(vm.disk_path("vda"), ord(name))
        write(vm.disk_path("vdb"), ord(name), "2M")
        vm.create(name)
    exact = checksums(vm)
    vm.rollback("a")
    assert head_checksums(vm) == exact["a"]
    entry = next(e for e in vm.get("b")["disk_snapshot_list"] if e["DiskDrive"] == "vdb")
    assert vm.post("/v1/compute/volume/snapshot/rollback", disk_snapshot_list=[entry])["success"] == 1
    assert head_checksums(vm) == {"vda": exact["a"]["vda"], "vdb": exact["b"]["vdb"]}
    vm.rollback("c")
    vm.delete("b")
    assert checksums(vm) == {name: exact[name] for name in ("a", "c")}
    vm.delete("a")
    vm.delete("c")
    assert vm.disk_path("vda") == str(directory / "disk-0.qcow2")
    assert (directory / "disk-0.qcow2").stat().st_uid == 0
    check_census(ground.service)


@pytest.mark.guest
def test_a_guest_that_runs(ground: Ground) -> None:
    """With memory, live merges, and again when it is off: QEMU's user and the service's use the same files in turns."""
    vm = ground.vm("guest")
    vm.create("off")
    vm.start()
    vm.await_ticks(5)
    vm.create("a", memory=True)
    vm.await_ticks(3)
    vm.create("b")
    mark = len(vm.witness().lines())
    vm.rollback("a", memory=True)
    vm.await_ticks(5)
    vm.witness().resumption(mark)
    vm.delete("b")
    vm.delete("off")
    vm.await_ticks(3)
    vm.shutoff()
    exact = checksums(vm)
    vm.create("c")
    vm.rollback("a")
    assert head_checksums(vm) == exact["a"]
    vm.delete("a")
    vm.start()
    vm.await_ticks(3)
    vm.delete("c")
    vm.shutoff()
    assert vm.witness().torn() == []
    assert ground.service.get("/v1/stillframe/doctor", deep="true")["findings"] == []
    check_census(ground.service)


def test_what_may_not_be_written_or_read_is_said(ground: Ground) -> None:
    """Which directory, as whom, and where it says what to do; nothing has happened. Allowed, it works."""
    vm = ground.vm("closed", allowed=False)
    directory = ground.service.state / "lot" / "closed"
    disks = sorted(directory.glob("disk-*"))
    words = (f"uid {UID}", "Without root", 'VM "closed"', "disk vda")
    with unchanged(vm):
        told = must_refuse_post(vm, ErrorCase.STORAGE_FAILED, f"{SNAPSHOT}/create", name="a")
    for word in (*words, str(disks[0]), "right to read and write this file"):
        assert word in told
    for disk in disks:
        disk.chmod(0o644)
    with unchanged(vm):
        told = must_refuse_post(vm, ErrorCase.STORAGE_FAILED, f"{SNAPSHOT}/create", name="a")
    for word in (*words, f"{directory}: layers are made here", "may not write here"):
        assert word in told
    allow(directory)
    vm.create("a")
    vm.delete("a")


def test_a_state_directory_that_is_not_its_own_is_said(ground: Ground, tmp_path: Path) -> None:
    other = Service(ground.daemon.uri)
    other.prefix = prefix(tmp_path / "python")
    other.state.chmod(0o755)
    try:
        with pytest.raises(AssertionError) as caught:
            other.start()
        assert f"cannot use {other.state}" in str(caught.value)
        assert f"uid {UID}" in str(caught.value)
    finally:
        other.destroy()
