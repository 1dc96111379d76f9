"""Hostile images and definitions through the whole service, on a real libvirtd: refused by name, nothing made or touched.

Many of them are on the same daemon at once: none keeps the service from serving the others.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from stillframe.domain.errors import ErrorCase
from support.hostile import HEADERS, SOUND, Image
from support.hostile_ward import Ward, open_ward
from support.lab import virsh
from support.ledger import checksums, head_checksums, layer_paths, unchanged
from support.offline import file_disk, image, write
from support.openings import unopened
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, CallFailedError, Vm


@pytest.fixture(scope="module")
def ward() -> Iterator[Ward]:
    with open_ward() as ward:
        yield ward


@pytest.fixture(autouse=True)
def put_away(ward: Ward) -> Iterator[None]:
    yield
    ward.put_away()


# --- headers and names


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header(name: str, ward: Ward) -> None:
    hostile, words = HEADERS[name]
    path = hostile.write(ward.directory(name) / "disk-0.qcow2")
    vm = ward.vm(name, file_disk(path, "vda"))
    ward.refuses(vm, words, str(path))


@pytest.mark.parametrize("levels", [1, 3])
def test_a_backing_file_elsewhere(levels: int, ward: Ward) -> None:
    name = f"elsewhere-{levels}"
    directory = ward.directory(name)
    for level in range(1, levels):
        Image(backing=f"disk-{level}.qcow2").write(directory / f"disk-{level - 1}.qcow2")
    Image(backing=str(ward.secret), backing_format="raw").write(directory / f"disk-{levels - 1}.qcow2")
    vm = ward.vm(name, file_disk(directory / "disk-0.qcow2", "vda"))
    ward.refuses(vm, "outside of the directories")


def test_a_linked_backing_file_elsewhere(ward: Ward) -> None:
    directory = ward.directory("linked")
    Image(backing="base.img", backing_format="raw").write(directory / "disk-0.qcow2")
    (directory / "base.img").symlink_to(ward.secret)
    ward.refuses(ward.vm("linked", file_disk(directory / "disk-0.qcow2", "vda")), "outside of the directories")


def test_the_second_disk_is_named(ward: Ward) -> None:
    directory = ward.directory("second")
    good, bad = image(directory / "disk-0.qcow2"), Image(backing="nbd://127.0.0.1:1/x").write(directory / "bad.qcow2")
    ward.refuses(ward.vm("second", file_disk(good, "vda"), file_disk(bad, "vdb")), "nbd:", target="vdb")


def test_a_loop(ward: Ward) -> None:
    directory = ward.directory("loop")
    Image(backing="b.qcow2").write(directory / "a.qcow2")
    Image(backing="a.qcow2").write(directory / "b.qcow2")
    ward.refuses(ward.vm("loop", file_disk(directory / "a.qcow2", "vda")), "stands on itself")


def test_a_chain_that_is_too_long(ward: Ward) -> None:
    """Within the bounds of what is looked through, the limit of depth speaks; beyond them, the look ends."""
    directory = ward.directory("long")
    SOUND.write(directory / "249.qcow2")
    for number in range(249):
        Image(backing=f"{number + 1}.qcow2").write(directory / f"{number}.qcow2")
    vm = ward.vm("long", file_disk(directory / "0.qcow2", "vda"))
    ward.refuses(vm, "more than 200 files")
    deep = ward.vm("deep", file_disk(directory / "200.qcow2", "vda"))
    with unchanged(deep):
        assert "50 files deep" in must_refuse_post(deep, ErrorCase.CHAIN_TOO_DEEP, f"{SNAPSHOT}/create", name="a")


def make_device(path: Path, kind: int, major: int, minor: int) -> None:
    os.mknod(path, kind | 0o600, os.makedev(major, minor))


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


NO_FILES: dict[str, tuple[Callable[[Path], None], str]] = {
    "fifo": (os.mkfifo, "a FIFO"),
    "zero": (lambda path: make_device(path, stat.S_IFCHR, 1, 5), "a character device"),
    "block": (lambda path: make_device(path, stat.S_IFBLK, 7, 0), "a block device"),
    "directory": (Path.mkdir, "a directory"),
    "socket": (make_socket, "a socket"),
}


@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file(kind: str, ward: Ward) -> None:
    """As a disk and as a backing file. Looking at such a VM does not wait for a FIFO, either."""
    make, words = NO_FILES[kind]
    directory = ward.directory(kind)
    make(directory / "odd")
    ward.refuses(ward.vm(kind, file_disk(directory / "odd", "vda", "raw")), words)
    above = Image(backing=str(directory / "odd"), backing_format="raw").write(directory / "disk-0.qcow2")
    ward.refuses(ward.vm(f"on-{kind}", file_disk(above, "vda")), "its backing file", words)


def test_a_real_device_as_a_backing_file(ward: Ward) -> None:
    disk = Image(backing="/dev/sda", backing_format="raw").write(ward.directory("device") / "disk-0.qcow2")
    ward.refuses(ward.vm("device", file_disk(disk, "vda")), "outside of the directories")


# --- raw disks, and names of disks


def test_a_header_that_a_guest_wrote_into_its_raw_disk(ward: Ward) -> None:
    """It is data, from the first snapshot to the last merge."""
    directory = ward.directory("raw")
    disk = Image(backing=str(ward.secret), backing_format="raw").write(directory / "disk-0.img")
    vm = ward.vm("raw", file_disk(disk, "vda", "raw"))
    before = disk.read_bytes()
    with unopened(ward.secret):
        vm.create("a")
        write(vm.disk_path(), 5, "128k", "64k")
        vm.create("b")
        exact = checksums(vm)
        vm.rollback("a")
        assert head_checksums(vm)["vda"] == exact["a"]["vda"]
        vm.rollback("b")
        vm.delete("a")
        vm.delete("b")
    assert vm.disk_path() == str(disk)
    assert disk.read_bytes() == before[: 2 << 16] + b"\5" * (1 << 16) + before[3 << 16 :]


@pytest.mark.parametrize(
    "name", ["a,b.qcow2", "quo\"te's.qcow2", "per%20cent%s.qcow2", "nbd:127.0.0.1:1.qcow2", "-f.qcow2", "虚拟机.qcow2"]
)
def test_an_odd_path_is_only_a_path(name: str, ward: Ward) -> None:
    vm_name = f"odd-path-{len(ward.lots)}"
    vm = ward.vm(vm_name, file_disk(image(ward.directory(vm_name) / name), "vda"))
    base = vm.disk_path()
    assert base == str(ward.directory(vm_name) / name)
    vm.create("a")
    write(vm.disk_path(), 5)
    vm.create("b")
    exact = checksums(vm)
    vm.rollback("a")
    assert head_checksums(vm)["vda"] == exact["a"]["vda"]
    vm.rollback("b")
    vm.delete("a")
    vm.delete("b")
    assert vm.disk_path() == base


@pytest.mark.parametrize("path", ["-f", "--help", "nbd:127.0.0.1:1", "d.img"])
def test_a_path_that_is_not_absolute(path: str, ward: Ward) -> None:
    """It is libvirt that takes it; which file QEMU would open depends on where it was started."""
    vm = ward.vm("relative", file_disk(Path(path), "vda"))
    for case, call in (
        (ErrorCase.DISK_UNSUPPORTED, f"{SNAPSHOT}/create"),
        (ErrorCase.STORAGE_FAILED, "/v1/compute/start"),
    ):
        body = {"name": "a"} if call.startswith(SNAPSHOT) else {}
        desc = must_refuse_post(vm, case, call, **body)
        assert "absolute" in desc
        assert "disk vda" in desc


def test_a_line_break_in_a_path_is_not_taken_for_a_blank(ward: Ward) -> None:
    """Libvirt writes it into its XML as it is, where a parser makes a blank of it: that would be another VM's file."""
    other = image(ward.directory("broken") / "a b.qcow2")
    before = (other.stat().st_mtime_ns, other.read_bytes())
    path = image(ward.directory("broken") / "a\nb.qcow2")
    vm = ward.vm("broken", file_disk(path, "vda").replace("\n", "&#10;"))
    desc = must_refuse_post(vm, ErrorCase.DISK_UNSUPPORTED, f"{SNAPSHOT}/create", name="a")
    assert "control character" in desc
    assert (other.stat().st_mtime_ns, other.read_bytes()) == before


# --- a tree that is tampered with afterwards


@contextmanager
def tampered(path: Path, data: bytes) -> Iterator[None]:
    before = path.read_bytes()
    path.write_bytes(data)
    yield
    assert path.read_bytes() == data, "somebody wrote to it"
    path.write_bytes(before)


def test_no_call_takes_a_tree_that_was_tampered_with(ward: Ward) -> None:
    """Rollback, rollback of one disk and delete look before they act, at layers of ours as well; mended, all goes on."""
    directory = ward.directory("tampered")
    image(directory / "template.qcow2")
    vm = ward.vm("tampered", file_disk(image(directory / "disk-0.qcow2", backing=directory / "template.qcow2"), "vda"))
    for name in ("a", "b", "c"):
        vm.create(name)
        write(vm.disk_path(), ord(name))
    exact = checksums(vm)
    entry = vm.get("b")["disk_snapshot_list"][0]
    calls: list[tuple[str, dict[str, Any]]] = [
        (f"{SNAPSHOT}/create", {"name": "d"}),
        (f"{SNAPSHOT}/rollback", {"name": "b"}),
        (f"{SNAPSHOT}/delete", {"name": "b"}),
        ("/v1/compute/start", {}),
    ]
    head = Path(vm.disk_path())
    layer_of_b = Path(next(path for path in layers_of(vm, "b")))
    hostile = Image({"size": 64 << 20}, backing=str(ward.secret), backing_format="raw").bytes()
    for victim in (directory / "template.qcow2", directory / "disk-0.qcow2", layer_of_b):
        with tampered(victim, hostile), unopened(ward.secret), unchanged(vm):
            for path, body in calls:
                desc = must_refuse_post(vm, ErrorCase.IMAGE_REFUSED, path, **body)
                assert "outside of the directories" in desc
                assert "disk vda of" in desc
            answer = vm.post("/v1/compute/volume/snapshot/rollback", disk_snapshot_list=[entry])
            assert "outside of the directories" in str(answer), answer
    assert Path(vm.disk_path()) == head
    assert checksums(vm) == exact
    vm.rollback("b")
    vm.delete("b")
    vm.create("d")
    for name in ("c", "d", "a"):
        vm.delete(name)
    assert vm.disk_path() == str(directory / "disk-0.qcow2")


def layers_of(vm: Vm, snapshot: str) -> list[str]:
    return [path for path, _format in layer_paths(vm)[snapshot].values()]


def test_a_link_where_our_layers_belong(ward: Ward) -> None:
    directory = ward.directory("place")
    vm = ward.vm("place", file_disk(image(directory / "disk-0.qcow2"), "vda"))
    cluster = vm.inspect()["cluster_uuid"]
    away = ward.service.state / "away"
    away.mkdir()
    place = directory / f"stillframe-{cluster}"
    place.symlink_to(away)
    with unopened(ward.secret):
        desc = must_refuse_post(vm, ErrorCase.IMAGE_REFUSED, f"{SNAPSHOT}/create", name="a")
    assert f"{place}, where layers belong, is a symbolic link" in desc
    assert list(away.iterdir()) == []
    place.unlink()
    vm.create("a")
    place.rename(away / "real")
    place.symlink_to(away / "real")
    before = sorted(away.rglob("*"))
    for path, body in ((f"{SNAPSHOT}/rollback", {"name": "a"}), (f"{SNAPSHOT}/create", {"name": "b"})):
        assert "symbolic link" in must_refuse_post(vm, ErrorCase.IMAGE_REFUSED, path, **body)
    assert sorted(away.rglob("*")) == before
    place.unlink()
    (away / "real").rename(place)
    vm.delete("a")


# --- a guest that runs on what is not allowed


@pytest.mark.guest
def test_a_guest_that_runs_on_a_template_elsewhere(ward: Ward) -> None:
    """Its owner started it; the service leaves it alone and running, until the template's directory is allowed."""
    templates = ward.service.state / "templates"
    template = image(templates / "template.qcow2")
    disk = image(ward.directory("running") / "disk-0.qcow2", backing=template)
    vm = ward.vm("running", file_disk(disk, "vda"))
    virsh(ward.daemon, "start", vm.uuid)
    vm.await_ticks(5)
    desc = must_refuse_post(vm, ErrorCase.IMAGE_REFUSED, f"{SNAPSHOT}/create", name="a", domain_memory=True)
    assert "outside of the directories" in desc
    assert vm.state() == "running"
    vm.await_ticks(3)
    with pytest.raises(CallFailedError):
        vm.get("a")
    ward.service.stop()
    ward.service.configure(image_directories=f"/nowhere:{templates}")
    ward.service.start()
    vm.create("a", memory=True)
    vm.rollback("a", memory=True)
    vm.await_ticks(3)
    vm.delete("a")
    vm.shutoff()
    assert vm.witness().torn() == []
