"""May this be done? Every rule says yes, or no with its reason."""

from __future__ import annotations

import unicodedata
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.domain import rules
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.snapshot import CaptureMode, MemoryState, MemoryStatus, Snapshot
from stillframe.domain.vm import Disk, PowerState, SourceKind, Vm

DISK = Disk("vda", "virtio", "disk", SourceKind.FILE, "/images/a.qcow2", "qcow2")
CDROM = Disk("sda", "sata", "cdrom", SourceKind.EMPTY, "", "raw")
VM = Vm(
    uuid="uuid-of-vm",
    name="web",
    state=PowerState.RUNNING,
    persistent=True,
    tenant="acme",
    tenant_name="Acme",
    namespace="default",
    memory_bytes=1 << 30,
    has_managed_save=False,
    disks=(DISK, CDROM),
    saved_disks=(DISK, CDROM),
)
MEMORY = MemoryState("uuid-of-memory", "file:///m", MemoryStatus.AVAILABLE, CaptureMode.BACKGROUND, progress=100)
SNAPSHOT = Snapshot(
    uuid="uuid-of-snapshot",
    vm_uuid=VM.uuid,
    seq=1,
    name="before",
    description="",
    parent_uuid=None,
    ctime=0,
    tenant="acme",
    tenant_name="Acme",
    namespace="default",
    vm_detail="{}",
    definition_xml="<domain/>",
    definition_checksum="blake3:00",
    disks=(),
)


def with_memory(status: MemoryStatus, **changes: Any) -> Snapshot:
    return replace(SNAPSHOT, memory=replace(MEMORY, status=status, **changes))


@contextmanager
def refused(case: ErrorCase, *words: str) -> Iterator[None]:
    with pytest.raises(Refused) as caught:
        yield
    assert caught.value.case is case
    for word in words:
        assert word in caught.value.desc


# --- names and descriptions


@pytest.mark.parametrize("name", ["a", "Head", "HEAD", "head ", "快照 一", "x" * 128, "a.b-c:d%e_f", "..", "😀"])
def test_a_name_that_may_be(name: str) -> None:
    assert rules.normalise_name(name) == name


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("", "empty"),
        ("x" * 129, "129"),
        ("head", "head"),
        ("a/b", "/"),
        ("a\nb", "control"),
        ("\0", "control"),
        ("a\x7f", "control"),
        ("a\x85b", "control"),
        ("a\u2028b", "control"),
        ("\ud800", "control"),
    ],
)
def test_a_name_that_may_not_be(name: str, why: str) -> None:
    with refused(ErrorCase.NAME_ILLEGAL, why):
        rules.normalise_name(name)


def test_a_name_is_composed_before_it_is_counted() -> None:
    assert rules.normalise_name("e\u0301" * 128) == "é" * 128


@given(st.text(max_size=140))
def test_a_name_taken_once_is_taken_again_as_it_is(raw: str) -> None:
    try:
        name = rules.normalise_name(raw)
    except Refused:
        return
    assert rules.normalise_name(name) == name
    assert 1 <= len(name) <= rules.NAME_MAX_CHARS
    assert unicodedata.is_normalized("NFC", name)
    name.encode("utf-8")


def test_a_description_is_any_text_that_can_be_stored() -> None:
    text = "第一行\nsecond line\t/ head" + "x" * 4000
    assert rules.check_description(text) == text
    assert rules.check_description("") == ""
    for wrong in ("x" * 4097, "a\0b", "\ud800"):
        with refused(ErrorCase.PARAMETER_MALFORMED):
            rules.check_description(wrong)


def test_a_name_is_free_unless_it_is_there() -> None:
    rules.check_name_free(VM, "After", ["before", "after"])
    with refused(ErrorCase.NAME_TAKEN, "after", "web"):
        rules.check_name_free(VM, "after", ["before", "after"])


# --- disks


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"format": "raw"}, ""),
        ({"source": SourceKind.EMPTY}, "no source"),
        ({"device": "lun"}, "LUN"),
        ({"source": SourceKind.PASSTHROUGH}, "LUN"),
        ({"source": SourceKind.BLOCK}, "block"),
        ({"source": SourceKind.NETWORK}, "network"),
        ({"source": SourceKind.OTHER}, "other"),
        ({"format": "vmdk"}, "vmdk"),
        ({"format": ""}, "unknown"),
        ({"path": "disk.qcow2"}, "not absolute"),
        ({"path": "-f"}, "not absolute"),
        ({"path": "nbd:127.0.0.1:1"}, "not absolute"),
        ({"path": "/images/a\n.qcow2"}, "control character"),
        ({"path": "/images/../a.qcow2"}, "plain form"),
        ({"path": "/images/a,b:\"'%s -f.qcow2"}, ""),
        ({"encrypted": True}, "encrypted"),
        ({"shareable": True}, "shared"),
        ({"transient": True}, "transient"),
        ({"read_only": True}, "read-only"),
    ],
)
def test_why_a_disk_is_not_supported(changes: dict[str, Any], why: str) -> None:
    found = rules.why_disk_unsupported(replace(DISK, **changes))
    assert (found == "") is (why == "")
    assert why in found


def test_every_disk_must_do_and_removable_ones_do_not_count() -> None:
    rules.check_disks(VM)
    shared = replace(DISK, target="vdb", shareable=True)
    network = replace(DISK, target="vdc", source=SourceKind.NETWORK)
    with refused(ErrorCase.DISK_UNSUPPORTED, "vdb", "shared", "vdc", "network"):
        rules.check_disks(replace(VM, disks=(DISK, shared, network, CDROM)))
    with refused(ErrorCase.DISK_UNSUPPORTED, "no disk"):
        rules.check_disks(replace(VM, disks=(CDROM,)))


def test_a_chain_may_be_as_deep_as_its_limit() -> None:
    rules.check_depth(VM, "vda", 63, 64)
    with refused(ErrorCase.CHAIN_TOO_DEEP, "vda", "64"):
        rules.check_depth(VM, "vda", 64, 64)


# --- the VM's state


def test_a_transient_vm_has_nothing_to_come_back_to() -> None:
    rules.check_persistent(VM)
    with refused(ErrorCase.VM_TRANSIENT, "web"):
        rules.check_persistent(replace(VM, persistent=False))


def test_a_managed_save_image_must_not_wait() -> None:
    rules.check_no_managed_save(VM)
    with refused(ErrorCase.POWER_STATE_WRONG, "web", "managed save"):
        rules.check_no_managed_save(replace(VM, has_managed_save=True))


@pytest.mark.parametrize("state", list(PowerState))
def test_memory_needs_a_running_vm(state: PowerState) -> None:
    vm = replace(VM, state=state)
    if state in (PowerState.RUNNING, PowerState.BLOCKED):
        rules.check_memory_capture(vm, space_open=True)
    else:
        with refused(ErrorCase.VM_NOT_RUNNING, state.value):
            rules.check_memory_capture(vm, space_open=True)


def test_memory_needs_open_space() -> None:
    with refused(ErrorCase.MEMORY_SPACE_CLOSED, "acme"):
        rules.check_memory_capture(VM, space_open=False)


# --- memory states and deleting


@pytest.mark.parametrize("status", list(MemoryStatus))
def test_nothing_else_is_saving(status: MemoryStatus) -> None:
    snapshots = [SNAPSHOT, with_memory(status, progress=42)]
    if status in (MemoryStatus.SAVING, MemoryStatus.UPLOADING):
        with refused(ErrorCase.SNAPSHOT_NOT_READY, "before", status.value, "42 %"):
            rules.check_nothing_saving(VM, snapshots)
    else:
        rules.check_nothing_saving(VM, snapshots)


@pytest.mark.parametrize(
    ("snapshot", "case", "words"),
    [
        (SNAPSHOT, ErrorCase.SNAPSHOT_WITHOUT_MEMORY, "before"),
        (with_memory(MemoryStatus.FAILED, reason="disk full"), ErrorCase.SNAPSHOT_WITHOUT_MEMORY, "disk full"),
        (with_memory(MemoryStatus.SAVING, progress=7), ErrorCase.SNAPSHOT_NOT_READY, "7 %"),
        (with_memory(MemoryStatus.UPLOADING, progress=99), ErrorCase.SNAPSHOT_NOT_READY, "99 %"),
    ],
)
def test_memory_that_cannot_be_restored(snapshot: Snapshot, case: ErrorCase, words: str) -> None:
    with refused(case, words):
        rules.check_memory_available(snapshot)


def test_memory_that_can_be_restored() -> None:
    rules.check_memory_available(with_memory(MemoryStatus.AVAILABLE))


def test_a_snapshot_with_at_most_one_child_is_deletable() -> None:
    rules.check_deletable(SNAPSHOT, [])
    rules.check_deletable(SNAPSHOT, ["after"])
    with refused(ErrorCase.SNAPSHOT_HAS_CHILDREN, '"after"', '"other"'):
        rules.check_deletable(SNAPSHOT, ["after", "other"])


def test_a_running_vm_whose_next_start_would_have_other_disks_is_refused() -> None:
    rules.check_no_pending_disks(VM)
    rules.check_no_pending_disks(replace(VM, saved_disks=(DISK,)))
    for saved in ((), (replace(DISK, target="sda"),), (replace(DISK, path="/elsewhere.qcow2"),)):
        with pytest.raises(Refused) as refusal:
            rules.check_no_pending_disks(replace(VM, saved_disks=saved))
        assert refusal.value.case is ErrorCase.DISK_DRIFTED
        assert DISK.target in refusal.value.desc
