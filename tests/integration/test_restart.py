"""The service dies by SIGKILL and comes back: guests go on, nothing is lost, nothing is left behind."""

from __future__ import annotations

import contextlib
import random
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import pytest

from integration.conftest import Take
from support.ledger import check_census, checksums
from support.service import SNAPSHOT, Vm

pytestmark = pytest.mark.guest

KILLS = 2


def send_and_kill(vm: Vm, delay_s: float, path: str, **body: object) -> None:
    """Send the call, kill the service after ``delay_s``, start it again."""

    def send() -> None:
        with contextlib.suppress(httpx.HTTPError):
            vm.service.response("POST", path, json={"cluster_uuid": "", "compute_uuid": vm.uuid, **body})

    client = threading.Thread(target=send)
    client.start()
    time.sleep(delay_s)
    vm.service.kill()
    client.join()
    vm.service.start()


def settle(vm: Vm, name: str) -> bool:
    """True when the snapshot exists; its memory, if it has any, is saved or given up."""
    if name not in vm.names():
        return False
    if "status" in vm.get(name)["attr"]:
        vm.await_settled(name)
    return True


# told to end between its own hearing of signals and the HTTP server's
TOLD_EARLY = """import gc, os, signal, sys
gc.freeze = lambda: os.kill(os.getpid(), signal.SIGTERM)
from stillframe.cli.main import main
sys.exit(main())
"""


@pytest.mark.timeout(120)
def test_a_service_that_is_told_to_end_before_it_listens_ends(tmp_path: Path) -> None:
    state = tmp_path / "state"
    words = ["serve", "--listen", "127.0.0.1:0", "--state", str(state), "--connect", "test:///default"]
    done = subprocess.run(
        [sys.executable, "-c", TOLD_EARLY, *words], capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert not (state / "service.json").exists()
    assert (state / "stillframe.db").exists()


def test_guests_outlive_the_service_and_are_found_again(take: Take) -> None:
    vm = take("one", boot=True)
    vm.create("before")
    vm.service.kill()
    vm.await_ticks(20)
    vm.service.start()
    assert vm.state() == "running"
    vm.create("after", memory=True)
    vm.await_ticks(10)
    vm.rollback("after", memory=True)
    vm.await_ticks(10)
    assert len(vm.witness().jumps()) == 1
    assert vm.witness().torn() == []


def test_a_memory_capture_outlives_the_service(take: Take) -> None:
    vm = take("big", boot=True)
    vm.create("orphaned", memory=True, wait=False)
    assert vm.get("orphaned")["attr"]["status"] == "saving"
    vm.service.kill()
    vm.await_ticks(10)
    vm.service.start()
    vm.await_memory("orphaned")
    vm.rollback("orphaned", memory=True)
    vm.await_ticks(10)
    assert len(vm.witness().jumps()) == 1
    assert vm.witness().torn() == []


@pytest.mark.parametrize("memory", [False, True], ids=["disks", "memory"])
def test_create_killed_at_any_instant_is_complete_or_gone(take: Take, memory: bool) -> None:
    """And the guest runs, older snapshots are bit-exact, and the same request can be made again."""
    vm = take("two", boot=True)
    vm.create("base")
    base = checksums(vm)["base"]
    dice = random.Random(20261123)
    for number in range(KILLS):
        name = f"killed {number}"
        send_and_kill(vm, dice.uniform(0, 0.4), f"{SNAPSHOT}/create", name=name, domain_memory=memory)
        assert vm.state() == "running"
        vm.await_ticks(10)
        if not settle(vm, name):
            vm.create(name, memory=memory)
        check_census(vm.service)
        assert checksums(vm)["base"] == base
    assert vm.witness().jumps() == [], "no guest has noticed anything"
    assert vm.witness().torn() == []


def test_rollback_killed_at_any_instant_is_complete_or_never_was(take: Take) -> None:
    vm = take("two", boot=True)
    vm.create("goal", memory=True)
    vm.create("newer")
    known = checksums(vm)
    dice = random.Random(20261124)
    for _number in range(KILLS):
        send_and_kill(vm, dice.uniform(0, 1.0), f"{SNAPSHOT}/rollback", name="goal", domain_memory=True)
        assert vm.state() == "running", "before its point of no return it goes on, after it it is resumed"
        vm.await_ticks(10)
        check_census(vm.service)
        assert checksums(vm) == known
        assert vm.head()["name"] in ("goal", "newer")
    assert vm.witness().torn() == []
    assert len({boot for boot, _n in vm.witness().ticks()}) == 1, "it was never rebooted"
    vm.rollback("goal", memory=True)
    vm.await_ticks(10)


def test_delete_killed_at_any_instant_is_complete(take: Take) -> None:
    vm = take("two", boot=True)
    vm.create("keep")
    dice = random.Random(20261125)
    for number in range(KILLS):
        name = f"doomed {number}"
        vm.create(name)
        vm.await_ticks(10)
        vm.create("tip")
        known = {snapshot: of for snapshot, of in checksums(vm).items() if snapshot != name}
        send_and_kill(vm, dice.uniform(0, 0.6), f"{SNAPSHOT}/delete", name=name)
        vm.await_ticks(10)
        if name in vm.names():
            vm.delete(name)
        check_census(vm.service)
        assert {snapshot: of for snapshot, of in checksums(vm).items() if snapshot != name} == known
        vm.delete("tip")
    assert vm.witness().jumps() == []
    assert vm.witness().torn() == []
