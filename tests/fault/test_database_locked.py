"""The database is locked by another process: clear words, readers that go on, and nothing half-done when it is over."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import Lab, settle
from support.ledger import check_census, head_checksums
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm, eventually
from support.struck import At

pytestmark = pytest.mark.guest
_LOCKER = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], timeout=30, isolation_level=None)
database.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
database.execute("ROLLBACK")
"""


@pytest.fixture(scope="module")
def lab_settings() -> dict[str, str]:
    return {"database_timeout_s": "0.5"}


@contextmanager
def locked(lab: Lab) -> Iterator[None]:
    """Another process holds the database's lock inside."""
    command = [sys.executable, "-c", _LOCKER, str(lab.service.state / "stillframe.db")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as locker:
        assert locker.stdin is not None
        assert locker.stdout is not None
        try:
            assert locker.stdout.readline() == "locked\n"
            yield
        finally:
            locker.stdin.close()


def test_who_wants_to_change_something_is_told_and_readers_go_on(lab: Lab) -> None:
    calls: tuple[tuple[str, dict[str, Any]], ...] = (
        (f"{SNAPSHOT}/create", {"name": "new"}),
        (f"{SNAPSHOT}/modify", {"name": "base", "description": "other"}),
        (f"{SNAPSHOT}/rollback", {"name": "base"}),
        (f"{SNAPSHOT}/delete", {"name": "base"}),
        ("/v1/compute/start", {}),
    )
    before = seen(lab.off)
    with locked(lab):
        for path, body in calls:
            assert "locked" in must_refuse_post(lab.off, ErrorCase.STORAGE_FAILED, path, **body)
        assert "locked" in must_refuse_post(
            lab.running, ErrorCase.STORAGE_FAILED, f"{SNAPSHOT}/create", name="new", domain_memory=True
        )
        assert sorted(lab.off.names()) == ["base", "goal"]
        assert lab.off.head()["name"] == "goal"
        assert lab.off.tree()
        assert lab.running.state() == "running"
        lab.running.await_ticks(3)
    settle(lab.service)
    assert seen(lab.off) == before
    check_whole(lab)
    lab.off.create("new")
    lab.off.modify("base", description="other")
    lab.off.rollback("base")
    lab.off.rollback("goal")
    lab.off.delete("new")
    check_whole(lab)


def test_a_lock_before_the_point_of_no_return_is_undone_when_it_is_gone(lab: Lab) -> None:
    """Create with memory: the guest was paused and switched already, and runs on; a create shut off beside it."""
    boots = lab.running.witness().boots()
    with ThreadPoolExecutor() as clients:
        with lab.service.held(At("create", "fix the point in time", "acted")) as hold:
            first = ask(clients, lab.running, "create", name="new", domain_memory=True)
            hold.wait()
            with locked(lab):
                hold.release()
                refused(first, "create failed", "undone as soon as the database takes it", "locked")
                lab.running.await_ticks(3)
                assert "new" not in lab.running.names()
        settle(lab.service)
        check_whole(lab)
        with lab.service.held(At("create", "make durable", "noted")) as hold:
            second = ask(clients, lab.off, "create", name="new", domain_memory=False)
            hold.wait()
            with locked(lab):
                hold.release()
                refused(second, "create failed", "locked")
        settle(lab.service)
        lab.off.create("new")
        lab.off.delete("new")
    settle(lab.service)
    check_whole(lab)
    assert lab.running.witness().boots() == boots
    lab.running.create("new", memory=True)
    lab.running.delete("new")
    check_whole(lab)


def test_a_lock_after_the_point_of_no_return_is_waited_for(lab: Lab) -> None:
    """A rollback with memory, and one of a VM that is off: both are carried forward."""
    write(lab.off.disk_path(), 7, length="64k")
    moments = (At("rollback", "restore memory", "acted"), At("rollback", "power off", "acted"))
    with ThreadPoolExecutor() as clients, lab.service.held(moments[0]) as hold:
        first = ask(clients, lab.running, "rollback", name="goal", domain_memory=True)
        hold.wait()
        with locked(lab):
            hold.release()
            refused(first, "rollback is past its point of no return", "locked")
            lab.running.await_ticks(3)
        with lab.service.held(moments[1]) as other:
            second = ask(clients, lab.off, "rollback", name="base", domain_memory=False)
            other.wait()
            with locked(lab):
                other.release()
                refused(second, "rollback is past its point of no return", "locked")
    settle(lab.service)
    assert lab.off.head()["name"] == "base"
    assert head_checksums(lab.off) == lab.exact[lab.off.uuid]["base"]
    assert lab.running.head()["name"] == "goal"
    check_whole(lab)
    lab.off.rollback("goal")
    lab.running.rollback("goal", memory=True)
    check_whole(lab)


def test_a_lock_in_the_middle_of_a_live_merge(lab: Lab) -> None:
    lab.running.create("new")
    lab.running.await_ticks(3)
    # in whichever direction there is less to copy
    moments = (At("delete", "merge *: commit", "acted"), At("delete", "merge *: pull", "acted"))
    with ThreadPoolExecutor() as clients, lab.service.held(*moments) as hold:
        asked = ask(clients, lab.running, "delete", name="new")
        eventually(lambda: any(flag.exists() for flag in hold.flags.values()), "it has copied")
        with locked(lab):
            hold.release()
            refused(asked, "delete is past its point of no return", "locked")
            lab.running.await_ticks(3)
            assert "new" not in lab.running.names()
    settle(lab.service)
    check_whole(lab)


def test_memory_that_is_being_saved_is_not_given_up_for_a_lock(lab: Lab) -> None:
    with lab.service.held(At("save_memory", "flush", "before")) as hold:
        lab.running.create("new", memory=True, wait=False)
        hold.wait()
        with locked(lab):
            hold.release()
            said = "save_memory: flush: tried again until it works"
            eventually(lambda: said in lab.service.log_path.read_text("utf-8"), "it waits for the database")
            assert lab.running.get("new")["attr"]["status"] in ("saving", "uploading")
    lab.running.await_memory("new")
    lab.running.rollback("new", memory=True)
    lab.running.delete("new")
    check_whole(lab)


def seen(vm: Vm) -> tuple[Any, ...]:
    return vm.tree(), vm.list(), vm.inspect(), head_checksums(vm)


def ask(clients: ThreadPoolExecutor, vm: Vm, call: str, **body: Any) -> Future[dict[str, Any] | None]:
    return clients.submit(vm.service.send, f"{SNAPSHOT}/{call}", cluster_uuid="", compute_uuid=vm.uuid, **body)


def refused(asked: Future[dict[str, Any] | None], *words: str) -> None:
    answer = asked.result()
    assert answer is not None
    assert answer["scode"] == ErrorCase.LEFT_BEHIND.code, answer
    assert all(word in answer["desc"] for word in words), answer


def check_whole(lab: Lab) -> None:
    """Every snapshot is what it was, nothing is left over, and the guest runs and was never torn."""
    settle(lab.service)
    for vm in (lab.off, lab.running):
        assert sorted(vm.names()) == ["base", "goal"]
        lab.check_exact(vm)
    check_census(lab.service)
    assert lab.running.state() == "running"
    lab.running.await_ticks(3)
    assert lab.running.witness().torn() == []
