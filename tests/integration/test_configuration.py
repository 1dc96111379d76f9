"""A rollback brings the configuration back too: memory size, disks removed since; disks added since are detached.

The embedded driver has one owner, so the VM is changed while the service is stopped.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from stillframe.operations.checksum import text_checksum
from support.checksums import checksum_image
from support.ledger import checksums, head_checksums
from support.offline import definition, file_disk, image, offline, write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm

pytestmark = pytest.mark.guest  # those that boot nothing restart the service, which takes a while


def directory_of(vm: Vm) -> Path:
    assert vm.console is not None
    return vm.console.parent


def redefine(vm: Vm, change: Callable[[str], str], *, name: str = "") -> None:
    """Stop the service, change the VM's definition (and its name), start the service again."""
    vm.service.stop()
    acts = [("define", change(definition(vm.service, vm.name)))]
    if name:
        acts.append(("rename", vm.uuid, name))
    offline(vm.service, *acts)
    vm.name = name or vm.name
    vm.service.start()


def with_memory(xml: str, mib: int) -> str:
    xml = re.sub(r"<memory unit='KiB'>\d+<", f"<memory unit='KiB'>{mib << 10}<", xml)
    return re.sub(r"<currentMemory unit='KiB'>\d+<", f"<currentMemory unit='KiB'>{mib << 10}<", xml)


def without_disk(xml: str, target: str) -> str:
    disks = re.findall(r"<disk .*?</disk>", xml, re.DOTALL)
    (found,) = [disk for disk in disks if f"dev='{target}'" in disk]
    return xml.replace(found, "")


def with_disk(xml: str, path: Path, target: str) -> str:
    return xml.replace("<disk ", file_disk(path, target) + "<disk ", 1)


def targets(detail: dict[str, Any]) -> set[str]:
    return {disk["disk_target_device"] for disk in detail["disks"]}


def test_memory_size_and_removed_disks_come_back_and_added_disks_are_detached(take: Take) -> None:
    vm = take("two")
    for target, pattern in (("vda", 1), ("vdb", 2)):
        write(vm.disk_path(target), pattern)
    vm.create("before")
    exact = checksums(vm)["before"]
    write(vm.disk_path("vda"), 3)
    write(vm.disk_path("vdb"), 4)
    removed = vm.disk_path("vdb")
    added = image(directory_of(vm) / "added.qcow2")
    write(added, 5)
    contents = checksum_image(str(added))

    redefine(
        vm,
        lambda xml: with_disk(without_disk(with_memory(xml, 192), "vdb"), added, "vdc").replace(
            "<vcpu placement='static'>1<", "<vcpu placement='static'>2<"
        ),
    )
    now = vm.inspect()
    assert (now["mem_size"], now["cpu_max_count"], targets(now)) == (192 << 20, 2, {"vda", "vdc"})
    vm.create("after")
    later = checksums(vm)["after"]
    assert set(later) == {"vda", "vdc"}
    assert later["vdc"] == contents
    assert checksums(vm)["before"] == exact

    vm.rollback("before")
    back = vm.inspect()
    assert (back["mem_size"], back["cpu_max_count"], targets(back)) == (128 << 20, 1, {"vda", "vdb"})
    assert {target: checksum_image(vm.disk_path(target)) for target in ("vda", "vdb")} == exact
    assert back == {**vm.get("before")["vm_detail"], "disks": back["disks"], "vnc_port": back["vnc_port"]}
    # what was detached is not deleted, and what was removed is thrown away as every un-snapshotted head
    assert checksum_image(str(added)) == contents
    assert not Path(removed).exists()
    assert checksums(vm) == {"before": exact, "after": later}

    vm.rollback("after")
    assert targets(vm.inspect()) == {"vda", "vdc"}
    assert vm.inspect()["mem_size"] == 192 << 20
    assert checksum_image(vm.disk_path("vdc")) == contents
    assert checksums(vm) == {"before": exact, "after": later}


def test_a_disk_added_later_without_a_snapshot_is_detached_untouched(take: Take) -> None:
    vm = take("one")
    vm.create("before")
    added = image(directory_of(vm) / "added.qcow2")
    write(added, 5)
    as_it_was = (added.read_bytes(), added.stat().st_mtime_ns)
    redefine(vm, lambda xml: with_disk(xml, added, "vdb"))
    assert targets(vm.inspect()) == {"vda", "vdb"}
    vm.rollback("before")
    assert targets(vm.inspect()) == {"vda"}
    assert (added.read_bytes(), added.stat().st_mtime_ns) == as_it_was


def test_name_and_tenant_stay_as_they_are_now(take: Take) -> None:
    vm = take("one")
    vm.create("old times")
    redefine(vm, lambda xml: with_memory(xml, 160), name="renamed-since")
    vm.post("/v1/stillframe/vm/assign", tenant="t-new", tenant_name="新租户", namespace_uuid="n-new")
    assert vm.inspect()["name"] == "renamed-since"
    snapshot = vm.rollback("old times")
    now = vm.inspect()
    assert (now["name"], now["mem_size"]) == ("renamed-since", 128 << 20)
    assert (now["tenant"], now["tenant_name"], now["namespace"]) == ("t-new", "新租户", "n-new")
    # whose it is is today's; what it holds goes on telling what was
    assert snapshot["tenant"] == "t-new"
    assert (snapshot["vm_detail"]["name"] != "renamed-since", snapshot["vm_detail"]["tenant"]) == (True, "default")
    vm.create("new times")
    assert vm.get("new times")["tenant"] == "t-new"


def test_memory_resumes_in_the_configuration_of_its_moment(take: Take) -> None:
    """The guest comes back with the memory size and the disks that it had, resumed exactly, nothing torn."""
    vm = take("two", boot=True)
    vm.create("running", memory=True)
    exact = checksums(vm)["running"]
    vm.await_ticks(20)
    vm.shutoff()
    added = image(directory_of(vm) / "added.qcow2")
    redefine(vm, lambda xml: with_disk(without_disk(with_memory(xml, 192), "vdb"), added, "vdc"))
    vm.start()
    vm.await_ticks(20)
    assert "mem 192 cpus 1" in vm.witness().boots()[-1]
    assert targets(vm.inspect()) == {"vda", "vdc"}
    first = vm.witness().ticks()[0][0]
    mark = len(vm.witness().lines())

    vm.rollback("running", memory=True)
    vm.await_ticks(30)
    assert vm.witness().resumption(mark).boot == first
    assert vm.state() == "running"
    assert vm.inspect()["mem_size"] == 128 << 20
    assert targets(vm.inspect()) == {"vda", "vdb"}
    assert vm.witness().torn() == []
    assert checksums(vm)["running"] == exact
    assert added.exists()
    # the saved definition came back too, not only the running one
    vm.shutoff()
    assert vm.inspect()["mem_size"] == 128 << 20
    assert targets(vm.inspect()) == {"vda", "vdb"}
    vm.start()
    vm.await_ticks(10)
    assert "mem 128 cpus 1" in vm.witness().boots()[-1]
    assert vm.witness().torn() == []


def test_the_memory_of_a_renamed_vm_is_refused_and_its_disks_come_back(take: Take) -> None:
    """Libvirt cannot restore it under another name: that is said before anything is thrown away."""
    vm = take("one", boot=True)
    vm.create("running", memory=True)
    vm.await_ticks(10)
    vm.shutoff()
    redefine(vm, lambda xml: xml, name="renamed-running")
    heads = head_checksums(vm)
    must_refuse_post(vm, ErrorCase.VM_RENAMED, f"{SNAPSHOT}/rollback", name="running", domain_memory=True)
    assert head_checksums(vm) == heads
    vm.rollback("running")
    assert head_checksums(vm) == checksums(vm)["running"]
    vm.start()
    vm.await_ticks(10)
    assert vm.witness().torn() == []


def test_a_configuration_that_libvirt_refuses_is_refused_before_anything_is_lost(take: Take) -> None:
    """As after an upgrade of QEMU that no longer knows the snapshot's machine type."""
    vm = take("one", boot=True)
    vm.create("before")
    change_saved_definition(vm, "before", lambda xml: re.sub(r"machine='[^']*'", "machine='pc-q35-99.0'", xml))
    now = definition(vm.service, vm.name)
    desc = must_refuse_post(vm, ErrorCase.HYPERVISOR_FAILED, f"{SNAPSHOT}/rollback", name="before")
    assert "pc-q35-99.0" in desc
    vm.await_ticks(20)
    assert vm.witness().jumps() == [], "it goes on"
    assert definition(vm.service, vm.name) == now
    vm.delete("before")


def change_saved_definition(vm: Vm, name: str, change: Callable[[str], str]) -> None:
    """As if the snapshot had been taken so: the checksum fits."""
    with closing(sqlite3.connect(vm.service.state / "stillframe.db")) as database, database:
        mine = (vm.uuid, name)
        (xml,) = database.execute(
            "SELECT definition_xml FROM snapshots WHERE vm_uuid = ? AND name = ?", mine
        ).fetchone()
        changed = change(xml)
        assert changed != xml
        database.execute(
            "UPDATE snapshots SET definition_xml = ?, definition_checksum = ? WHERE vm_uuid = ? AND name = ?",
            (changed, text_checksum(changed), *mine),
        )
