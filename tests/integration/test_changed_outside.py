"""Somebody changes a domain beside the service: nothing is written into a snapshot, nothing in use is deleted."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from functools import partial
from pathlib import Path

import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from support.ledger import checksums
from support.offline import definition, offline
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm, eventually


def redefine(vm: Vm, **replaced: str) -> None:
    """Change the saved definition while the service is down, as virsh edit would."""
    vm.service.stop()
    xml = definition(vm.service, vm.name)
    for old, new in replaced.items():
        old_text, new_text = json.loads(old), new
        assert old_text in xml
        xml = xml.replace(old_text, new_text)
    offline(vm.service, ("define", xml))
    vm.service.start()


def retarget(vm: Vm, old: str, new: str) -> None:
    redefine(vm, **{json.dumps(f"<target dev='{old}' bus='virtio'/>"): f"<target dev='{new}' bus='virtio'/>"})


def test_a_disk_is_known_by_its_file_not_by_its_target(take: Take) -> None:
    vm = take("two")
    vm.create("before")
    vm.create("between")
    retarget(vm, "vdb", "vdd")
    vm.create("after")
    assert [disk["DiskDrive"] for disk in vm.get("after")["disk_snapshot_list"]] == ["vda", "vdd"]
    known = checksums(vm)
    vm.delete("between")
    vm.delete("after")
    assert checksums(vm)["before"] == known["before"]
    assert Path(vm.disk_path("vdd")).is_file()
    vm.rollback("before")
    assert Path(vm.disk_path("vdb")).is_file()
    assert checksums(vm)["before"] == known["before"]


@pytest.mark.guest
def test_a_pending_change_of_disks_is_refused_before_it_does_harm(take: Take) -> None:
    vm = take("two", boot=True)
    vm.create("base")
    retarget(vm, "vdb", "vdc")
    assert vm.state() == "running"
    desc = must_refuse_post(vm, ErrorCase.DISK_DRIFTED, f"{SNAPSHOT}/create", name="no", domain_memory=False)
    assert "vdb" in desc
    assert "vdc" in desc
    must_refuse_post(vm, ErrorCase.DISK_DRIFTED, f"{SNAPSHOT}/delete", name="base")
    vm.shutoff()
    vm.start()
    vm.await_ticks(10)
    vm.create("now it is true")
    assert vm.witness().torn() == []


def test_a_file_that_a_qemu_has_open_is_never_deleted(take: Take) -> None:
    """The last line of defence, whatever a plan says."""
    vm = take("one")
    vm.create("only")
    head = vm.disk_path()
    holder = subprocess.Popen(
        ["qemu-io", "-f", "qcow2", head], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    try:
        assert holder.stdin is not None
        assert holder.stdout is not None
        holder.stdin.write(b"length\n")
        holder.stdin.flush()
        holder.stdout.readline()
        desc = must_refuse_post(vm, ErrorCase.LEFT_BEHIND, f"{SNAPSHOT}/rollback", name="only", domain_memory=False)
        assert head in desc
        assert Path(head).is_file()
    finally:
        os.kill(holder.pid, signal.SIGKILL)
        holder.communicate()
    # the next operation finishes what was left, or waits for who is at it by himself in this moment
    create = partial(vm.service.raw, "POST", f"{SNAPSHOT}/create")
    body = {"cluster_uuid": "", "compute_uuid": vm.uuid, "name": "next"}
    eventually(lambda: create(json=body)["scode"] != ErrorCase.VM_BUSY.code, "it is left alone")
    assert not Path(head).exists()
    assert vm.tree()["Parents"]["next"] == "only"
