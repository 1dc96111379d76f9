"""What is left is finished before anything new begins on the VM, by itself while the service runs, and at the next start."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import Lab, make_vm, open_lab, settle
from support.ledger import check_census, checksums, head_checksums, rows
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm, eventually
from support.struck import At, Striker

pytestmark = pytest.mark.guest
INTERRUPTED = 20


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    striker = Striker()
    try:
        with open_lab(striker) as opened:
            yield opened
    finally:
        striker.close()


def test_a_vm_does_not_start_on_disks_that_a_rollback_is_leaving(lab: Lab) -> None:
    """Its old head is about to go: what it wrote there would be lost without a word."""
    vm = lab.off
    write(vm.disk_path(), 9, length="64k")
    lab.service.strike(always=(At("rollback", "power off", "before"),))
    must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/rollback", name="base")
    eventually(lambda: bool(left(lab)), "it is left")
    # the mender may be trying at this very moment: then the VM is busy, which is as good a refusal
    answer = vm.service.raw("POST", "/v1/compute/start", json={"compute_uuid": vm.uuid})
    assert answer["scode"] in (ErrorCase.LEFT_BEHIND.code, ErrorCase.VM_BUSY.code), answer
    assert vm.state() == "shutoff"
    lab.service.spare()
    settle(lab.service)
    assert vm.head()["name"] == "base"
    assert head_checksums(vm) == lab.exact[vm.uuid]["base"]
    check_census(lab.service)
    vm.start()
    vm.shutoff()
    vm.rollback("goal")


def left(lab: Lab) -> list[tuple[str]]:
    return rows(lab.service, "SELECT uuid FROM operations WHERE state = 'left'")


def test_a_start_with_many_interrupted_operations_is_ready_at_once_and_finishes_them(lab: Lab) -> None:
    """Their VMs are busy until they are finished; all others, and reading, are there from the first moment."""
    service = lab.service
    vms = [make_vm(lab.daemon, service, f"crowd-{number:02}", disks=1, size="1M") for number in range(INTERRUPTED)]
    for vm in vms:
        vm.create("base")
        write(vm.disk_path(), 3, length="64k")
    exact = [(checksums(vm), head_checksums(vm)) for vm in vms]
    moments = (At("create", "make durable", "acted"),)
    with ThreadPoolExecutor(INTERRUPTED) as clients, service.held(*moments, every=True):
        sent = [clients.submit(create, vm) for vm in vms]
        eventually(lambda: len(under_way(lab)) == INTERRUPTED, "all of them stand still", timeout_s=60)
        service.kill()
        assert [answer.result() for answer in sent] == [None] * INTERRUPTED
    service.start()
    settle(service)
    assert [(checksums(vm), head_checksums(vm)) for vm in vms] == exact
    check_census(service)
    for vm in vms:
        vm.create("new")


def create(vm: Vm) -> object:
    return vm.service.send(f"{SNAPSHOT}/create", cluster_uuid="", compute_uuid=vm.uuid, name="new", domain_memory=False)


def under_way(lab: Lab) -> list[tuple[str]]:
    query = "SELECT o.uuid FROM operations o JOIN operation_steps s ON s.operation_uuid = o.uuid WHERE s.step = ?"
    return rows(lab.service, f"{query} AND o.lock_key IS NOT NULL", "fix the point in time")
