"""Memory states and screenshots: both ways of capturing, and what happens when an artefact is damaged."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest
from PIL import Image

from integration.conftest import Take
from integration.test_one_moment import roll_back_and_check, snapshot_memory
from stillframe.adapters.libvirt.huge_pages import regions
from stillframe.adapters.libvirt.process import find_qemu
from stillframe.domain.errors import ErrorCase
from stillframe.operations import create, save_memory
from support.refusal import must_refuse_post
from support.scraped import Figures, rise
from support.service import SNAPSHOT, Service, Vm, eventually

pytestmark = pytest.mark.guest
THP = Path("/sys/kernel/mm/transparent_hugepage/enabled")


def memory_file(snapshot: Any) -> Path:
    """``domain_remote_url`` names where the memory state lies."""
    url = urlsplit(snapshot["domain_remote_url"])
    assert url.scheme == "file"
    return Path(unquote(url.path))


def test_where_qemu_refuses_the_background_way_memory_is_captured_live(guest: Callable[..., Vm]) -> None:
    """Memory that is a private file mapping: the guest pauses longer, the moment is as exact, and ``attr`` says so."""
    vm = guest("private", memory_mib=192, fill_mib=48, disks=2, private_file_memory=True)
    before = Figures(vm.service)
    for name in ("first", "second"):
        moment = snapshot_memory(vm, name)
        attributes = vm.get(name)["attr"]
        assert attributes["capture_mode"] == "live"
        assert "ackground-snapshot" in attributes["reason"], attributes
        roll_back_and_check(vm, name, moment)
    assert rise(before, Figures(vm.service), "guest_pause_seconds_count", mode="live") == 2


@pytest.mark.skipif(
    not THP.exists() or "[never]" in THP.read_text(), reason="this kernel gives no huge pages to anybody"
)
def test_a_guest_has_its_huge_pages_back_after_a_snapshot(guest: Callable[..., Vm]) -> None:
    """Tracking has split them: the guest would run slower from then on, and its next snapshot pause it longer."""
    vm = guest("huge", memory_mib=192, fill_mib=96, dirty_pages=5)
    pid = find_qemu(vm.uuid)
    assert pid is not None

    def in_huge_pages() -> int:
        return sum(region.huge_bytes for region in regions(pid))

    before = in_huge_pages()
    assert before >= 64 << 20, "what the guest has filled stands in huge pages"
    for name in ("first", "second"):
        moment = snapshot_memory(vm, name)
        eventually(lambda: in_huge_pages() >= before * 0.9, f"{before} bytes of huge pages are back")
        vm.await_ticks(10)
    assert vm.witness().torn() == []
    roll_back_and_check(vm, "second", moment)


def test_the_screen_of_the_moment_is_served_as_a_png(take: Take) -> None:
    vm = take("one", boot=True)
    before = Figures(vm.service)
    snapshot = vm.create("with screen", memory=True)
    check_figures(vm.service, before, snapshot)
    path = urlsplit(snapshot["screenshot_url"]).path
    first = vm.service.http.get(path)
    assert first.headers["content-type"] == "image/png"
    with Image.open(io.BytesIO(first.content)) as picture:
        assert picture.format == "PNG"
        assert min(picture.size) >= 200
    assert "immutable" in first.headers["cache-control"]
    vm.await_ticks(20)
    assert vm.service.http.get(path).content == first.content
    assert vm.create("without")["screenshot_url"] == ""

    stored = vm.service.state / "screenshots" / f"{snapshot['uuid']}.png"
    stored.chmod(0o600)
    stored.write_bytes(first.content[:-5] + b"?????")
    answer = vm.service.http.get(path)
    assert answer.json()["scode"] == ErrorCase.STORAGE_FAILED.code
    assert snapshot["uuid"] in answer.json()["desc"]
    stored.write_bytes(first.content)


def test_a_deleted_snapshots_screenshot_is_gone(take: Take) -> None:
    vm = take("one", boot=True)
    path = urlsplit(vm.create("short-lived", memory=True)["screenshot_url"]).path
    vm.delete("short-lived")
    assert vm.service.http.get(path).status_code == 404


def check_figures(service: Service, before: Figures, snapshot: Any) -> None:
    """A snapshot with memory is in the figures: its pause, its two operations, each of their steps, its size.

    Other guests are quiet meanwhile.
    """
    saved = {"kind": "save_memory", "outcome": "done"}
    # what saves it ends a moment after the snapshot says that its memory is there
    eventually(lambda: rise(before, Figures(service), "operations_total", **saved) == 1, "its saving has ended")
    after = Figures(service)
    assert rise(before, after, "guest_pause_seconds_count", mode="background-snapshot") == 1
    assert 0 < rise(before, after, "guest_pause_seconds_sum", mode="background-snapshot") < 30
    assert rise(before, after, "operations_total", kind="create", outcome="done") == 1
    for kind, families in (("create", create.FAMILIES), ("save_memory", save_memory.FAMILIES)):
        for step in families:
            assert rise(before, after, "step_duration_seconds_count", kind=kind, step=step) == 1, (kind, step)
    assert rise(before, after, "memory_saved_bytes_total") == int(snapshot["attr"]["memory_bytes"])
    assert rise(before, after, "http_requests_total", call="createSnapshot", code="2xx") == 1
    assert after.of("host_reachable") == after.of("database_reachable") == 1
    assert after.has("tenant_space_used_bytes")


@pytest.mark.parametrize("damage", ["flipped", "truncated", "gone"])
def test_damaged_memory_is_refused_before_anything_is_thrown_away(take: Take, damage: str) -> None:
    vm = take("one", boot=True)
    file = memory_file(vm.create("frozen", memory=True))
    file.chmod(0o600)
    whole = file.stat().st_size
    if damage == "flipped":
        with file.open("r+b") as memory:
            memory.seek(whole // 2)
            byte = memory.read(1)
            memory.seek(whole // 2)
            memory.write(bytes([byte[0] ^ 1]))
    elif damage == "truncated":
        os.truncate(file, whole - 4096)
    else:
        file.rename(file.with_name("elsewhere"))
    vm.await_ticks(20)

    desc = must_refuse_post(vm, ErrorCase.MEMORY_DAMAGED, f"{SNAPSHOT}/rollback", name="frozen", domain_memory=True)
    assert file.stem in desc
    assert vm.state() == "running"
    vm.await_ticks(20)
    assert vm.witness().jumps() == [], "the guest has not noticed"
    assert vm.witness().torn() == []

    vm.rollback("frozen")
    assert vm.state() == "shutoff"
    assert vm.head()["name"] == "frozen"
    if damage == "gone":
        file.with_name("elsewhere").rename(file)


def test_memory_that_is_still_being_saved_is_not_ready(take: Take) -> None:
    vm = take("big", boot=True)
    vm.create("slow", memory=True, wait=False)
    attributes = vm.get("slow")["attr"]
    assert attributes["status"] == "saving"
    assert 0 <= int(attributes["progress"]) < 100
    for call, body in (
        ("rollback", {"name": "slow", "domain_memory": True}),
        ("rollback", {"name": "slow", "domain_memory": False}),
        ("delete", {"name": "slow"}),
        ("create", {"name": "another", "domain_memory": True}),
    ):
        desc = must_refuse_post(vm, ErrorCase.SNAPSHOT_NOT_READY, f"{SNAPSHOT}/{call}", **body)
        assert "slow" in desc
        assert "%" in desc
    must_refuse_post(vm, ErrorCase.SNAPSHOT_NOT_READY, "/v1/compute/shutoff")
    assert vm.inspect()["action"] == "save"
    vm.create("disks meanwhile")
    vm.await_memory("slow")
    assert vm.inspect()["action"] == "noaction"
    vm.rollback("slow", memory=True)
    vm.await_ticks(20)
    assert len(vm.witness().jumps()) == 1
    assert vm.witness().torn() == []


def test_a_guest_that_dies_while_its_memory_is_saved_leaves_a_disk_snapshot(take: Take) -> None:
    vm = take("big", boot=True)
    vm.create("cut short", memory=True, wait=False)
    pid_file = vm.service.state / "libvirt" / "run" / "qemu" / f"{vm.name}.pid"
    os.kill(int(pid_file.read_text()), 9)
    vm.await_settled("cut short")
    snapshot = vm.get("cut short")
    assert snapshot["attr"]["status"] == "failed"
    assert "powered off" in snapshot["attr"]["reason"]
    assert snapshot["domain_remote_url"] == ""
    must_refuse_post(
        vm, ErrorCase.SNAPSHOT_WITHOUT_MEMORY, f"{SNAPSHOT}/rollback", name="cut short", domain_memory=True
    )
    vm.rollback("cut short")
    vm.start()
    vm.await_ticks(10)
    assert vm.witness().torn() == []


def test_an_unknown_screenshot_is_a_404_envelope(take: Take) -> None:
    vm = take("one")
    path = f"{SNAPSHOT}/screenshot/{vm.uuid}.png"
    response = vm.service.http.get(path)
    assert response.status_code == 404
    assert response.json()["scode"] == ErrorCase.SNAPSHOT_UNKNOWN.code
