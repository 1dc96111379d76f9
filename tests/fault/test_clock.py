"""The wall clock is set back by a day, between operations, during one, and before a recovery."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import Lab, settle
from support.ledger import check_census, rows
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm
from support.struck import At

pytestmark = pytest.mark.guest
_DAY_S = 24 * 3600


@pytest.fixture(autouse=True)
def true_clock(lab: Lab) -> Iterator[None]:
    yield
    lab.service.step_clock(0)


def test_between_operations(lab: Lab) -> None:
    """The tree follows what was done, the list what the clock said: newest ``ctime`` first, as it is documented."""
    vm = lab.off
    vm.create("today")
    lab.service.step_clock(-_DAY_S)
    vm.create("yesterday")
    assert parents(vm) == {"base": None, "goal": "base", "today": "goal", "yesterday": "today"}
    assert vm.head()["name"] == "yesterday"
    assert vm.names()[-1] == "yesterday"
    order = rows(lab.service, "SELECT name FROM snapshots WHERE vm_uuid = ? ORDER BY seq", vm.uuid)
    assert [name for (name,) in order] == ["base", "goal", "today", "yesterday"]
    vm.rollback("goal")
    vm.delete("yesterday")
    vm.delete("today")
    check_whole(lab)


def test_during_a_create_with_memory(lab: Lab) -> None:
    vm = lab.running
    with ThreadPoolExecutor() as clients, lab.service.held(At("create", "make durable", "before")) as hold:
        asked = clients.submit(create, vm)
        hold.wait()
        lab.service.step_clock(-_DAY_S)
        busy = must_refuse_post(vm, ErrorCase.VM_BUSY, f"{SNAPSHOT}/create", name="other")
        assert "create" in busy
        assert f"since {time.strftime('%Y-%m-%dT', time.gmtime())}" in busy
        hold.release()
        answer = asked.result()
    assert answer is not None
    assert answer["scode"] == 0, answer
    vm.await_memory("new")
    assert parents(vm) == {"base": None, "goal": "base", "new": "goal"}
    assert vm.head()["name"] == "new"
    vm.rollback("new", memory=True)
    vm.delete("new")
    check_whole(lab)


def test_before_a_recovery(lab: Lab) -> None:
    """Interrupted today, taken up yesterday."""
    for vm, at in ((lab.running, At("create", "make durable", "acted")), (lab.off, At("delete", "unpublish", "noted"))):
        if vm is lab.off:
            vm.create("new")
        lab.service.strike(kill=at)
        call = "delete" if vm is lab.off else "create"
        assert vm.service.send(f"{SNAPSHOT}/{call}", cluster_uuid="", compute_uuid=vm.uuid, name="new") is None
        lab.service.await_death()
        lab.service.spare()
        lab.service.step_clock(-_DAY_S)
        lab.service.start()
        check_whole(lab)
        lab.service.step_clock(0)
    lab.off.create("new")
    lab.off.delete("new")
    check_whole(lab)


def parents(vm: Vm) -> dict[str, str | None]:
    query = "SELECT s.name, p.name FROM snapshots s LEFT JOIN snapshots p ON p.uuid = s.parent_uuid WHERE s.vm_uuid = ?"
    return dict(rows(vm.service, query, vm.uuid))


def create(vm: Vm) -> dict[str, object] | None:
    return vm.service.send(f"{SNAPSHOT}/create", cluster_uuid="", compute_uuid=vm.uuid, name="new", domain_memory=True)


def check_whole(lab: Lab) -> None:
    settle(lab.service)
    for vm in (lab.off, lab.running):
        assert sorted(vm.names()) == ["base", "goal"]
        lab.check_exact(vm)
    check_census(lab.service)
    assert lab.running.state() == "running"
    lab.running.await_ticks(3)
    assert lab.running.witness().torn() == []
