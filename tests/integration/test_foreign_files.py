"""Files that the service did not make: raw disks, templates, CD-ROMs and disks that cannot be snapshotted."""

from __future__ import annotations

from pathlib import Path

import pytest

from integration.conftest import Take
from integration.unsupported import UNSUPPORTED
from stillframe.domain.errors import ErrorCase
from support.checksums import checksum_image, sparse_checksum
from support.ledger import checksums, head_checksums, owned_files, unchanged
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm


def directory_of(vm: Vm) -> Path:
    assert vm.console is not None
    return vm.console.parent


def test_a_raw_disk_becomes_the_base_layer_and_raw_again(take: Take) -> None:
    vm = take("raw")
    raw = directory_of(vm) / "disk-0.img"
    write(raw, 3, "5M", image_format="raw")
    before = sparse_checksum(str(raw))
    vm.create("a")
    assert sparse_checksum(str(raw)) == before
    assert vm.disk_path("vda") != str(raw)
    write(vm.disk_path("vda"), 4, "6M")
    write(vm.disk_path("vdb"), 5, "6M")
    vm.create("b")
    write(vm.disk_path("vda"), 6, "5M")
    exact = checksums(vm)
    assert exact["a"]["vda"] == before

    vm.rollback("a")
    assert head_checksums(vm) == exact["a"]
    assert sparse_checksum(str(raw)) == before
    vm.rollback("b")
    assert checksums(vm) == exact
    vm.delete("a")
    assert checksums(vm)["b"] == exact["b"]
    vm.delete("b")
    assert vm.disk_path("vda") == str(raw)
    assert vm.disk_path("vdb") == str(directory_of(vm) / "disk-1.qcow2")
    assert sparse_checksum(str(raw)) == exact["b"]["vda"]
    assert owned_files(directory_of(vm)) == []
    assert raw.stat().st_size == 64 << 20


@pytest.mark.guest
def test_a_guest_on_a_raw_disk(take: Take) -> None:
    """Live snapshot with memory, rollback, and a live delete that ends on the raw file itself."""
    vm = take("raw", boot=True)
    vm.create("a", memory=True)
    vm.create("b")
    vm.await_ticks(10)
    mark = len(vm.witness().lines())
    vm.rollback("a", memory=True)
    vm.await_ticks(20)
    vm.witness().resumption(mark)
    vm.delete("b")
    vm.delete("a")
    assert vm.disk_path("vda") == str(directory_of(vm) / "disk-0.img")
    vm.await_ticks(20)
    assert vm.witness().torn() == []
    assert len(vm.witness().boots()) == 1
    vm.shutoff()
    boot = vm.witness().ticks()[-1][0]
    vm.start()
    vm.await_ticks(5)
    assert vm.witness().boots()[-1].count(boot) == 2
    assert vm.witness().torn() == []


def test_a_template_below_the_disk_never_changes(take: Take) -> None:
    vm = take("templated")
    template = directory_of(vm) / "template.qcow2"
    write(template, 9, "3M")
    raw_bytes, changed_at = template.read_bytes(), template.stat().st_mtime_ns
    write(vm.disk_path(), 1, "1M")
    vm.create("a")
    write(vm.disk_path(), 2, "3M")  # over what the template has there
    vm.create("b")
    exact = checksums(vm)
    vm.rollback("a")
    assert head_checksums(vm) == exact["a"]
    vm.rollback("b")
    vm.delete("a")
    assert checksums(vm)["b"] == exact["b"]
    vm.delete("b")
    assert vm.disk_path() == str(directory_of(vm) / "disk-0.qcow2")
    assert checksum_image(vm.disk_path()) == exact["b"]["vda"]
    assert template.read_bytes() == raw_bytes
    assert template.stat().st_mtime_ns == changed_at
    assert owned_files(directory_of(vm)) == []


def test_cd_roms_are_left_alone(take: Take) -> None:
    vm = take("cdrom")
    medium = directory_of(vm) / "medium.iso"
    before = (medium.read_bytes(), medium.stat().st_mtime_ns)
    drives = vm.inspect()["cdrom"]
    assert drives["sda"]["path"] == str(medium)
    snapshot = vm.create("a")
    assert [entry["DiskDrive"] for entry in snapshot["disk_snapshot_list"]] == ["vda"]
    assert snapshot["vm_detail"]["cdrom"] == drives
    vm.rollback("a")
    vm.delete("a")
    assert vm.inspect()["cdrom"] == drives
    assert (medium.read_bytes(), medium.stat().st_mtime_ns) == before
    assert vm.disk_path() == str(directory_of(vm) / "disk-0.qcow2")


@pytest.mark.guest
def test_cd_roms_are_left_alone_while_the_guest_runs(take: Take) -> None:
    vm = take("cdrom", boot=True)
    drives = vm.inspect()["cdrom"]
    snapshot = vm.create("a", memory=True)
    assert [entry["DiskDrive"] for entry in snapshot["disk_snapshot_list"]] == ["vda"]
    vm.create("b")
    mark = len(vm.witness().lines())
    vm.await_ticks(10)
    vm.rollback("a", memory=True)
    vm.await_ticks(20)
    vm.witness().resumption(mark)
    vm.delete("b")
    vm.delete("a")
    assert vm.inspect()["cdrom"] == drives
    assert vm.witness().torn() == []


@pytest.mark.parametrize("kind", list(UNSUPPORTED))
def test_unsupported_disks_are_refused_before_anything_happens(take: Take, kind: str) -> None:
    vm = take(f"bad-{kind}")
    with unchanged(vm):
        desc = must_refuse_post(vm, ErrorCase.DISK_UNSUPPORTED, f"{SNAPSHOT}/create", name="a")
    assert UNSUPPORTED[kind][1] in desc
    assert "sdb" in desc if kind == "lun" else "vdb" in desc
    assert "vda" not in desc
    assert vm.list() == {"list": [], "total_count": 0}


def test_a_vm_without_a_disk_is_refused(take: Take) -> None:
    vm = take("diskless")
    with unchanged(vm):
        must_refuse_post(vm, ErrorCase.DISK_UNSUPPORTED, f"{SNAPSHOT}/create", name="a")
