"""A guest that lives on its memory file: whatever becomes of its snapshot, of the service and of the file, it goes on or it
is said why not.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from fault.test_damaged_memory import flip, memory_file
from stillframe.adapters.libvirt.lazy_image import lives_on
from support.lab import Lab, define, settle, virsh
from support.ledger import check_census, rows
from support.service import SNAPSHOT, Vm, eventually
from support.struck import At

pytestmark = pytest.mark.guest
_LONGER_THAN_A_LOOK_S = 12.0
ROUNDS = int(os.environ.get("STILLFRAME_ROUNDS", "6"))


def memory_of(lab: Lab) -> str:
    """The memory state whose file the guest has its memory in, by its XML; "" for none."""
    return lives_on(virsh(lab.daemon, "dumpxml", lab.running.uuid))


def files(lab: Lab) -> set[str]:
    return {path.name for path in (lab.service.state / "memory").iterdir()}


@pytest.fixture
def lazy(lab: Lab) -> Iterator[Vm]:
    """The running guest, restored from "goal": it lives on its file."""
    lab.service.ensure_started()
    vm = lab.running
    if vm.state() == "shutoff":
        vm.start()
        vm.await_ticks(5)
    if "goal" not in vm.names():
        vm.create("goal", memory=True)
    vm.rollback("goal", memory=True)
    assert memory_of(lab) == memory_file(lab).stem
    vm.await_ticks(5)
    yield vm
    assert vm.witness().torn() == []
    settle(lab.service)
    check_census(lab.service)


def test_its_snapshot_is_deleted(lab: Lab, lazy: Vm) -> None:
    """The file stays as long as the guest needs it, also when libvirt saves the guest and starts it again."""
    memory = memory_file(lab)
    lazy.delete("goal")
    assert files(lab) == {memory.name, f"{memory.stem}.lent"}
    lazy.await_ticks(20)
    report = lab.service.get("/v1/stillframe/doctor")
    assert report["findings"] == [], report

    virsh(lab.daemon, "managedsave", lazy.uuid)
    for _ in range(2):  # a service that starts looks, too
        lab.service.stop()
        lab.service.start()
    assert memory.exists()
    virsh(lab.daemon, "start", lazy.uuid)
    before = len(lazy.witness().boots())
    lazy.await_ticks(20)
    assert len(lazy.witness().boots()) == before
    assert memory_of(lab) == memory.stem

    lazy.shutoff()
    eventually(lambda: files(lab) == set(), "the lent file goes", timeout_s=60)


def test_the_service_is_killed_and_started_again(lab: Lab, lazy: Vm) -> None:
    """Wherever the check behind the guest's back was, it is made again; what is deleted meanwhile is lent all the same."""
    memory = memory_file(lab)
    lab.service.kill()
    lazy.await_ticks(5)
    lab.service.start()
    eventually(lambda: f"{memory.stem}: checked" in lab.service.log_path.read_text(), "it is checked", timeout_s=60)
    lazy.create("on it")
    lazy.await_ticks(5)
    lazy.delete("on it")
    lazy.rollback("goal", memory=True)
    lazy.await_ticks(5)
    assert memory_of(lab) == memory.stem


def test_its_file_is_damaged(lab: Lab, lazy: Vm) -> None:
    """It is stopped where it stands, a task says why, and it can be rolled back to any other snapshot."""
    memory = memory_file(lab)
    lab.service.kill()
    flip(memory)
    try:
        lab.service.start()
        eventually(lambda: lazy.state() == "paused", "the guest is paused", timeout_s=60)
        query = "SELECT snapshot, state, error FROM operations WHERE vm_uuid = ? AND kind = 'check_memory'"
        eventually(lambda: rows(lab.service, query, lazy.uuid) != [], "a task says why")
    finally:
        flip(memory)  # whole again, for the tests that follow
    ((snapshot, state, error),) = rows(lab.service, query, lazy.uuid)
    assert (snapshot, state) == ("goal", "undone")
    for word in ('VM "running"', "is paused", memory.stem, "differ", "another snapshot"):
        assert word in error
    (task,) = [t for t in lab.service.get(f"{SNAPSHOT}/task/list")["list"] if t["kind"] == "check_memory"]
    assert task["error"] == error
    lazy.rollback("base")
    lazy.start()
    lazy.await_ticks(5)


def test_its_lent_file_is_damaged(lab: Lab, lazy: Vm) -> None:
    """The snapshot is gone, and with it the row that had the checksum: the guest is stopped all the same."""
    memory = memory_file(lab)
    lazy.delete("goal")
    lab.service.kill()
    flip(memory)
    lab.service.start()
    eventually(lambda: lazy.state() == "paused", "the guest is paused", timeout_s=60)
    lazy.rollback("base")
    eventually(lambda: files(lab) == set(), "the lent file goes", timeout_s=60)


def test_what_a_restore_left_behind_goes_at_the_next_start(lab: Lab, lazy: Vm) -> None:
    memory = memory_file(lab)
    lazy.shutoff()
    lab.service.kill()
    memory.with_suffix(".lazy").write_bytes(b"of a restore that was cut off")
    lab.service.start()
    assert files(lab) == {memory.name}
    assert lab.service.get("/v1/stillframe/doctor")["findings"] == []
    lazy.rollback("goal", memory=True)
    lazy.await_ticks(5)


def test_a_saved_state_that_cannot_be_read(lab: Lab, lazy: Vm) -> None:
    """Libvirt was cut off while it saved the guest. The VM is well, and nothing that was lent goes on a guess."""
    memory = memory_file(lab)
    lazy.delete("goal")
    virsh(lab.daemon, "managedsave", lazy.uuid)
    (saved,) = (lab.daemon.directory / "lib").rglob("*.save")
    with saved.open("r+b") as file:
        file.write(b"LibvirtQemudPart")
    assert lazy.state() == "shutoff"
    time.sleep(_LONGER_THAN_A_LOOK_S)
    assert memory.exists()
    lazy.rollback("base")  # throws the saved state away
    eventually(lambda: files(lab) == set(), "the lent file goes", timeout_s=60)
    lazy.start()


def test_a_running_xml_that_somebody_defines(lab: Lab, lazy: Vm) -> None:
    """What people do: dump, edit, define. The file stays as long as the definition needs it, and no snapshot has a word of it."""
    memory = memory_file(lab)
    good = virsh(lab.daemon, "dumpxml", "--inactive", "--security-info", lazy.uuid)
    define(lab.daemon, lab.service.state, virsh(lab.daemon, "dumpxml", "--security-info", lazy.uuid))
    lazy.create("defined")
    lazy.delete("goal")
    lazy.shutoff()
    time.sleep(_LONGER_THAN_A_LOOK_S)
    assert memory.exists()
    lazy.rollback("defined")
    assert lives_on(virsh(lab.daemon, "dumpxml", "--inactive", lazy.uuid)) == ""
    assert lives_on(good) == ""
    eventually(lambda: files(lab) == set(), "the lent file goes", timeout_s=60)
    lazy.start()
    lazy.await_ticks(5)
    lazy.delete("defined")


@contextmanager
def rollback_held(lab: Lab, at: At) -> Iterator[None]:
    """A rollback to "goal" with memory stands still at this moment inside the block, and then goes well."""
    body = {"cluster_uuid": "", "compute_uuid": lab.running.uuid, "name": "goal", "domain_memory": True}
    with ThreadPoolExecutor() as clients, lab.service.held(at) as hold:
        asked = clients.submit(lab.service.send, f"{SNAPSHOT}/rollback", **body)
        hold.wait()
        yield
        hold.release()
        answer = asked.result()
    assert answer is not None
    assert answer["scode"] == 0, answer


def test_a_file_that_is_touched_meanwhile_is_read_first(lab: Lab, lazy: Vm) -> None:
    """By the file system's word somebody had the file: nothing runs on it before it was hashed."""
    memory = memory_file(lab)
    before = len(lab.service.log_path.read_text())
    with rollback_held(lab, At("rollback", "power off", "before")):
        assert f"{memory.stem}.lazy" in files(lab)
        memory.chmod(0o600)
        memory.chmod(0o400)
    lazy.await_ticks(5)
    assert "was touched" in lab.service.log_path.read_text()[before:]
    assert memory_of(lab) == memory.stem


def test_snapshots_and_rollbacks_go_on(lab: Lab, lazy: Vm) -> None:
    """Round after round: a snapshot of a guest that lives on the file of the one before, and back to it."""
    boot = lazy.witness().ticks()[-1][0]
    previous = ""
    for number in range(ROUNDS):
        name = f"round {number}"
        lazy.create(name, memory=True)
        lazy.await_ticks(5)
        mark = len(lazy.witness().lines())
        lazy.rollback(name, memory=True)
        lazy.await_ticks(10)
        assert lazy.witness().resumption(mark).boot == boot
        if previous:
            lazy.delete(previous)
        previous = name
    assert lazy.witness().torn() == []
    lazy.delete(previous)
    assert f"{memory_of(lab)}.lent" in files(lab)
    lazy.rollback("goal", memory=True)
    eventually(lambda: files(lab) == {memory_file(lab).name}, "what nobody lives on any more goes", timeout_s=60)


def test_where_it_cannot_be_done_the_whole_memory_is_loaded(lab: Lab, lazy: Vm) -> None:
    memory = memory_file(lab)
    with (
        rollback_held(lab, At("rollback", "restore memory", "before")),
        memory.with_suffix(".lazy").open("r+b") as image,
    ):
        image.seek(1 << 20)
        image.write(b"no stream")  # libvirt takes it, QEMU does not
    lazy.await_ticks(10)
    assert memory_of(lab) == ""
    assert "could not be restored lazily" in lab.service.log_path.read_text()
