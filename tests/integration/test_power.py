"""Power states: shut off, running, paused by its owner; and the power calls."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Shop, Take, put_away
from stillframe.domain.errors import ErrorCase
from support.ledger import check_census, checksums
from support.offline import domain_xml, file_disk, image, lot, offline, write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, eventually


def monitor(path: Path, command: str) -> Any:
    """One QMP command through a monitor beside libvirt's own, as a VM's owner might pause it."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(30)
        connection.connect(str(path))
        stream = connection.makefile("rwb")
        stream.readline()  # the greeting
        answer: dict[str, Any] = {}
        for words in ("qmp_capabilities", command):
            stream.write(json.dumps({"execute": words}).encode() + b"\n")
            stream.flush()
            while "return" not in (answer := json.loads(stream.readline())):
                assert "error" not in answer, answer
        return answer["return"]


@pytest.mark.guest
def test_a_paused_vm_is_snapshotted_and_stays_paused(shop: Shop) -> None:
    """Disks alone; memory is refused; what was paused by its owner is not let go by us."""
    service = shop.service
    service.stop()
    one = lot(service, "paused")
    qmp = service.state / "paused.qmp"
    offline(
        service,
        ("define", domain_xml(one, [file_disk(image(one.directory / "disk-0.qcow2"), "vda")], monitor=str(qmp))),
    )
    service.start()
    vm = one.vm(service)
    try:
        vm.start()
        vm.await_ticks(20)
        vm.create("running", memory=True)
        monitor(qmp, "stop")
        eventually(lambda: vm.state() == "paused", "libvirt has heard of it")
        last = vm.witness().ticks()[-1]
        vm.create("paused")
        must_refuse_post(vm, ErrorCase.VM_NOT_RUNNING, f"{SNAPSHOT}/create", name="paused memory", domain_memory=True)
        exact = checksums(vm)
        vm.delete("running")
        assert vm.state() == "paused"
        assert monitor(qmp, "query-status")["status"] == "paused"
        assert vm.witness().ticks()[-1] == last
        assert checksums(vm)["paused"] == exact["paused"]
        monitor(qmp, "cont")
        vm.await_ticks(20)
        assert vm.witness().jumps() == []
        monitor(qmp, "stop")
        eventually(lambda: vm.state() == "paused", "libvirt has heard of it")
        vm.rollback("paused")
        assert vm.state() == "shutoff"
        vm.start()
        vm.await_ticks(10)
        assert vm.witness().torn() == []
    finally:
        service.ensure_started()
        put_away(vm)
        check_census(service)


def test_a_shut_off_vm_is_snapshotted(take: Take) -> None:
    vm = take("two")
    write(vm.disk_path("vda"), 1)
    files = {target: vm.disk_path(target) for target in ("vda", "vdb")}
    snapshot = vm.create("off")
    assert snapshot["vm_detail"]["state"] == "shutoff"
    assert list(snapshot["attr"]) == ["operation_uuid"]
    assert vm.state() == "shutoff"
    assert {target: path for target, path in files.items() if vm.disk_path(target) == path} == {}


@pytest.mark.guest
def test_the_power_calls(take: Take) -> None:
    vm = take("one", boot=True)
    must_refuse_post(vm, ErrorCase.VM_STARTED_ALREADY, "/v1/compute/start")
    vm.post("/v1/compute/shutdown")
    eventually(lambda: vm.state() == "shutoff", "the guest has shut itself down", timeout_s=60)
    assert any(line.startswith("P ") for line in vm.witness().lines())
    vm.start()
    vm.await_ticks(10)
    vm.shutoff()
    assert vm.state() == "shutoff"
    must_refuse_post(vm, ErrorCase.VM_NOT_RUNNING, "/v1/compute/shutoff")
    assert vm.witness().torn() == []
