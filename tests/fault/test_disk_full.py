"""A file system that is full, while overlays, memory, the database or a merge are written to it."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import Lab, make_vm, open_lab, settle, virsh
from support.ledger import check_census, checksums, head_checksums
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm, eventually
from support.small import SmallFileSystem, small_file_system
from support.struck import At, Striker, StruckService

pytestmark = pytest.mark.guest
_MIB = 1 << 20
_MEMORY_FILE = At("create", "make memory file", "acted")


@dataclass
class Place:
    """The lab, with its memory states and its database on small file systems, and one more for disks."""

    lab: Lab
    disks: SmallFileSystem
    memory: SmallFileSystem
    database: SmallFileSystem

    def check(self, *vms: Vm) -> None:
        """All is over: nothing is left, and the snapshots of the lab and of ``vms`` are what they were."""
        settle(self.lab.service)
        check_census(self.lab.service, self.disks.directory)
        for vm in (self.lab.running, self.lab.off):
            self.lab.check_exact(vm)
        self.runs(self.lab.running)
        for vm in vms:
            self.runs(vm)

    def runs(self, vm: Vm) -> None:
        assert vm.state() == "running"
        vm.await_ticks(3)
        assert vm.witness().torn() == []


@pytest.fixture(scope="module")
def place(striker: Striker) -> Iterator[Place]:
    with ExitStack() as stack:
        disks = stack.enter_context(small_file_system(96 * _MIB))
        memory = stack.enter_context(small_file_system(400 * _MIB))
        database = stack.enter_context(small_file_system(16 * _MIB))

        def prepare(service: StruckService) -> None:
            (memory.directory / "memory").mkdir(0o700)
            (service.state / "memory").symlink_to(memory.directory / "memory")
            (database.directory / "stillframe.db").touch(mode=0o600)
            (service.state / "stillframe.db").symlink_to(database.directory / "stillframe.db")

        yield Place(stack.enter_context(open_lab(striker, prepare)), disks, memory, database)


# --- overlays ---------------------------------------------------------------------------------------------------------


def test_no_space_for_overlays(place: Place) -> None:
    """There is space for the first disk's, not for the second's."""
    vm = make_vm(place.lab.daemon, place.lab.service, "crowded", directory=place.disks.directory / "crowded")
    write(vm.disk_path(), 1)
    vm.create("first")
    write(vm.disk_path(), 2)
    exact, head = checksums(vm), head_checksums(vm)
    with place.disks.full(leave_bytes=300 << 10):
        for call, body in (("create", {"name": "new"}), ("rollback", {"name": "first"})):
            assert "No space" in must_refuse_post(vm, ErrorCase.SPACE_EXHAUSTED, f"{SNAPSHOT}/{call}", **body)
            place.check()
            assert head_checksums(vm) == head
        assert vm.names() == ["first"]
    assert checksums(vm) == exact
    vm.create("new")
    vm.rollback("first")
    assert head_checksums(vm) == exact["first"] != head
    vm.delete("new")
    place.check()
    remove(place, vm)


# --- memory -----------------------------------------------------------------------------------------------------------


def test_too_little_space_for_memory_is_known_before_anything_happens(place: Place) -> None:
    vm = place.lab.running
    with place.memory.full(leave_bytes=100 * _MIB):
        desc = must_refuse_post(vm, ErrorCase.SPACE_EXHAUSTED, f"{SNAPSHOT}/create", name="new", domain_memory=True)
        assert "are free" in desc
        place.check()
    vm.create("new", memory=True)
    vm.delete("new")
    place.check()


def test_no_space_as_soon_as_memory_is_written(place: Place) -> None:
    """QEMU cannot begin: the create is taken back while the guest goes on."""
    vm = place.lab.running
    with ThreadPoolExecutor() as clients, place.lab.service.held(_MEMORY_FILE) as hold:
        asked = clients.submit(create, vm)
        hold.wait()
        with place.memory.full():
            hold.release()
            answer = asked.result()
            assert answer is not None
            # QEMU's own words are "Input/output error" here: it does not say that there is no space
            assert answer["scode"] == ErrorCase.HYPERVISOR_FAILED.code, answer
            assert "memory capture ended early" in answer["desc"]
            place.check()
    assert "new" not in vm.names()
    vm.create("new", memory=True)
    vm.delete("new")
    place.check()


@pytest.mark.parametrize("moment", [_MEMORY_FILE, At("save_memory", "finish the image", "before")], ids=str)
def test_no_space_while_memory_is_saved_leaves_a_snapshot_of_the_disks(place: Place, moment: At) -> None:
    vm = place.lab.running
    with ThreadPoolExecutor() as clients, place.lab.service.held(moment) as hold:
        asked = clients.submit(create, vm)
        hold.wait()
        with place.memory.full(leave_bytes=24 * _MIB if moment is _MEMORY_FILE else 0):
            hold.release()
            answer = asked.result()
            assert answer is not None
            assert answer["scode"] == 0, answer
            vm.await_settled("new")
            attributes = vm.get("new")["attr"]
            assert attributes["status"] == "failed"
            assert "space" in attributes["reason"].lower(), attributes
            place.check()
    must_refuse_post(vm, ErrorCase.SNAPSHOT_WITHOUT_MEMORY, f"{SNAPSHOT}/rollback", name="new", domain_memory=True)
    vm.delete("new")
    vm.create("new", memory=True)
    vm.delete("new")
    place.check()


# --- the database -----------------------------------------------------------------------------------------------------


def test_no_space_for_the_database(place: Place) -> None:
    """Every change is refused, reading goes on."""
    vm = place.lab.off
    before = (vm.tree(), vm.list(), vm.inspect(), head_checksums(vm))
    fill_database(place)
    try:
        for call, body in (
            ("create", {"name": "new"}),
            ("modify", {"name": "base", "description": "other"}),
            ("rollback", {"name": "base"}),
            ("delete", {"name": "base"}),
        ):
            must_refuse_post(vm, ErrorCase.SPACE_EXHAUSTED, f"{SNAPSHOT}/{call}", **body)
        assert (vm.tree(), vm.list(), vm.inspect(), head_checksums(vm)) == before
    finally:
        place.database.spare()
    vm.create("new")
    vm.modify("new", description="other")
    vm.rollback("base")
    vm.rollback("goal")
    vm.delete("new")
    place.check()


def test_the_database_fills_up_in_the_middle_of_a_create(place: Place) -> None:
    vm = place.lab.running
    with (
        ThreadPoolExecutor() as clients,
        place.lab.service.held(At("create", "fix the point in time", "acted")) as hold,
    ):
        asked = clients.submit(create, vm)
        hold.wait()
        fill_database(place)
        try:
            hold.release()
            answer = asked.result()
            assert answer is not None
            assert answer["scode"] == ErrorCase.LEFT_BEHIND.code, answer
            assert "the database" in answer["desc"]
            place.runs(vm)
        finally:
            place.database.spare()
    place.check()
    assert "new" not in vm.names()
    vm.create("new", memory=True)
    vm.delete("new")
    place.check()


def fill_database(place: Place) -> None:
    """Not a page more: what the log of writes had kept for itself is given back first."""
    with closing(sqlite3.connect(place.database.directory / "stillframe.db")) as database:
        assert database.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0
    place.database.fill()


# --- merges -----------------------------------------------------------------------------------------------------------


def test_no_space_for_a_merge_of_a_vm_that_is_off(place: Place) -> None:
    vm = merge_vm(place, "merged")
    exact, head = checksums(vm), head_checksums(vm)
    with place.disks.full():
        desc = must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/delete", name="a")
        assert "No space" in desc
        assert vm.names() == ["b"]
        assert checksums(vm) == {"b": exact["b"]}
        assert head_checksums(vm) == head
    settle(place.lab.service)
    vm.create("new")
    vm.delete("new")
    place.check()
    assert checksums(vm) == {"b": exact["b"]}
    assert head_checksums(vm) == head
    vm.delete("b")
    assert head_checksums(vm) == head
    place.check()
    remove(place, vm)


def test_no_space_for_a_live_merge(place: Place) -> None:
    """First of a layer below the one that the guest writes to, then of that one itself."""
    vm = merge_vm(place, "merged-live")
    exact = checksums(vm)
    vm.start()
    vm.await_ticks(10)
    for name, rest in (("a", {"b": exact["b"]}), ("b", {})):
        with place.disks.full():
            assert "no space" in must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/delete", name=name)
            assert name not in vm.names()
            assert checksums(vm) == rest
            place.runs(vm)
        place.check(vm)
        assert checksums(vm) == rest
    assert vm.disk_path().endswith("disk-0.qcow2")
    vm.shutoff()
    remove(place, vm)


@pytest.mark.parametrize("runs", [False, True], ids=["off", "live"])
def test_no_space_for_what_is_pulled_up(place: Place, *, runs: bool) -> None:
    """The layer stays where it is, and below the one that was to take it in."""
    name = "pulled-live" if runs else "pulled"
    home = place.disks.directory / name
    vm = make_vm(place.lab.daemon, place.lab.service, name, disks=1, size="16M", directory=home)
    vm.create("a")
    write(vm.disk_path(), 5, offset="4M", length="4M")
    vm.create("doomed")
    write(vm.disk_path(), 6, offset="9M", length="6M")
    exact, head, files = checksums(vm), vm.disk_path(), set(home.rglob("*.qcow2"))
    expected = head_checksums(vm)
    if runs:
        vm.start()
        vm.await_ticks(10)
    with place.disks.full():
        assert "No space" in must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/delete", name="doomed")
        assert set(home.rglob("*.qcow2")) == files
        assert vm.names() == ["a"]
        assert runs or head_checksums(vm) == expected
    place.check(*[vm] * runs)
    assert len(set(home.rglob("*.qcow2"))) == len(files) - 1
    assert vm.disk_path() == head
    assert checksums(vm) == {"a": exact["a"]}
    if runs:
        vm.shutoff()
    else:
        assert head_checksums(vm) == expected
    remove(place, vm)


def test_a_guest_that_finds_no_space_itself_runs_again_when_the_merge_is_done(place: Place) -> None:
    """QEMU stops such a guest and never lets it go on by itself; what the merge takes may have been what it lacked."""
    daemon = place.lab.daemon
    vm = make_vm(daemon, place.lab.service, "starved", disks=1, size="16M", directory=place.disks.directory / "starved")
    vm.create("a")
    write(vm.disk_path(), 5, offset="8M", length="4M")
    vm.create("b")
    exact = checksums(vm)
    vm.start()
    vm.await_ticks(10)
    with place.disks.full():
        eventually(lambda: virsh(daemon, "domstate", vm.name) == "paused", "QEMU stops the guest", timeout_s=90)
        assert "no space" in must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/delete", name="a")
    settle(place.lab.service)
    assert virsh(daemon, "domstate", vm.name) == "running"
    place.check(vm)
    assert checksums(vm) == {"b": exact["b"]}
    vm.delete("b")
    vm.shutoff()
    remove(place, vm)


def merge_vm(place: Place, name: str) -> Vm:
    """Off, with snapshots a and b; since a 4 MiB are new, since b every block.

    So a guest that writes to it needs no space: where it did, QEMU would stop it by itself.
    """
    directory = place.disks.directory / name
    vm = make_vm(place.lab.daemon, place.lab.service, name, disks=1, size="16M", directory=directory)
    vm.create("a")
    write(vm.disk_path(), 5, offset="8M", length="4M")
    vm.create("b")
    write(vm.disk_path(), 0, length="16M")
    return vm


def remove(place: Place, vm: Vm) -> None:
    """Its space is the next one's; its rows stay, since nobody has told the service."""
    for name in reversed(vm.names()):
        vm.delete(name)


def create(vm: Vm) -> dict[str, object] | None:
    return vm.service.send(f"{SNAPSHOT}/create", cluster_uuid="", compute_uuid=vm.uuid, name="new", domain_memory=True)
