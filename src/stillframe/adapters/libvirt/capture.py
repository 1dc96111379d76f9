"""One point in time for disks and memory, and taking it back.

The order, measured and argued in docs/design.md: everything that can be prepared is prepared while the guest runs; the
pause itself is in pause.py. Nothing of ours touches a disk, a database or the network in it.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import libvirt

from stillframe.adapters.libvirt import lazy_image, migration, pause, rewrite
from stillframe.adapters.libvirt.block_nodes import commit_behind_libvirt, real_chain, remove_loose_nodes
from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.death import has_died, unless_it_dies
from stillframe.adapters.libvirt.domain_xml import cpu_cookie, read_chain
from stillframe.adapters.libvirt.huge_pages import HugePages
from stillframe.adapters.libvirt.merge import commit_live
from stillframe.adapters.libvirt.merger import Merger
from stillframe.adapters.libvirt.pacer import AS_FAST_AS_IT_GOES, Speed
from stillframe.adapters.libvirt.qmp import Qmp
from stillframe.adapters.libvirt.screenshot import take_screenshot
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.ports.hypervisor import (
    CaptureProgress,
    DiskSwitch,
    OnMerge,
    OnSwitch,
    PointInTime,
    PointRequest,
    PullRequest,
)

log = logging.getLogger(__name__)

# a plain live capture has to converge on a busy guest; a background one returns as soon as QEMU is through its memory
_FIX_TIMEOUT_S = 900.0
_STEP_TIMEOUT_S = 600.0


class LibvirtPointInTime:
    """``PointInTimeFixer`` and the capture half of ``CaptureKeeper`` (ports/hypervisor.py)."""

    def __init__(
        self,
        connection: Connection,
        *,
        merge_timeout_s: float,
        merge_speed: Speed = AS_FAST_AS_IT_GOES,
        pauser: pause.Pauser | None = None,
        huge_pages: HugePages | None = None,
    ) -> None:
        """``merge_speed``: how fast a merge in a running QEMU may be. ``huge_pages``: who gives them back to guests; nobody."""
        self._pauser = pauser or pause.Pauser()
        self._huge_pages = huge_pages
        self._connection = connection
        self._merger = Merger(connection, timeout_s=merge_timeout_s, speed=merge_speed)
        self._merge_bytes_per_s = merge_speed.bytes_per_s
        # our duplicates of the descriptors that QEMU writes: held past the end of the capture, because QEMU's own
        # close would otherwise flush the file under its big lock and stall the guest
        self._held: dict[str, int] = {}
        self._held_lock = threading.Lock()

    def fix_point(self, request: PointRequest) -> PointInTime:
        def act(conn: Any) -> PointInTime:
            domain = conn.lookupByUUIDString(request.vm_uuid)
            # somebody may have defined the running XML of a guest that lived on a file: a snapshot has nothing of that
            definition_xml = lazy_image.without_words(
                domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE)
            )
            if not domain.isActive():
                return self._fix_shut_off(conn, request, definition_xml)
            png, note = take_screenshot(conn, domain) if request.want_screenshot else (b"", "")
            if request.memory_path is None:
                fixed = pause.fix_disks(domain, pause.snapshot_xml(domain.XMLDesc(0), request.switches))
                return PointInTime(fixed.taken_at_s, 0, definition_xml, "", "", None, "", png, note)
            runtime_xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_MIGRATABLE)
            live_xml = domain.XMLDesc(0)
            cookie = cpu_cookie(live_xml)
            fixed = self._fix_with_memory(domain, live_xml, request, request.memory_path)
            return PointInTime(
                taken_at_s=fixed.taken_at_s,
                pause_us=fixed.pause_us,
                definition_xml=definition_xml,
                runtime_xml=lazy_image.without_words(runtime_xml),
                runtime_cookie=cookie,
                capture_mode=fixed.mode,
                fallback_reason=fixed.fallback_reason,
                screenshot_png=png,
                screenshot_note=note,
            )

        return self._connection.call("fix a point in time", act, vm_uuid=request.vm_uuid, timeout_s=_FIX_TIMEOUT_S)

    def _fix_shut_off(self, conn: Any, request: PointRequest, definition_xml: str) -> PointInTime:
        if request.memory_path is not None:
            raise Refused(ErrorCase.VM_NOT_RUNNING, f"VM {request.vm_uuid} was shut off meanwhile")
        paths = {s.target: (s.overlay_path, "qcow2") for s in request.switches}
        conn.defineXML(rewrite.with_disk_paths(definition_xml, paths))
        return PointInTime(time.time(), 0, definition_xml, "", "", None, "", b"")

    def _fix_with_memory(self, domain: Any, live_xml: str, request: PointRequest, memory_path: str) -> pause.Fixed:
        snapshot_xml = pause.snapshot_xml(live_xml, request.switches)
        qmp = Qmp(domain)
        fd = self._hold(memory_path)
        setup = migration.prepare(qmp, fd, memory_path)
        if setup.background:
            return self._pauser.fix(domain, snapshot_xml, qmp, setup, fd)
        # where QEMU cannot track the guest's writes, it may not run until its memory is written
        stopped = lazy_image.loses_writes(live_xml)
        fix = pause.fix_stopped if stopped else pause.fix_behind_live_capture
        return fix(domain, snapshot_xml, qmp, setup)

    def abandon_point(self, request: PointRequest, on_switch: OnSwitch) -> None:
        def act(conn: Any) -> None:
            with self._letting_go(request.memory_path):
                domain = conn.lookupByUUIDString(request.vm_uuid)
                unless_it_dies(domain, lambda: self._take_back(domain, request, on_switch))

        self._connection.call("take a point in time back", act, vm_uuid=request.vm_uuid, timeout_s=_STEP_TIMEOUT_S)
        if request.memory_path is not None:
            self._restore_huge_pages(request.vm_uuid)

    def _take_back(self, domain: Any, request: PointRequest, on_switch: OnSwitch) -> None:
        # first of all the guest runs again; all else can wait
        if request.vm_was_running and pause.is_paused(domain):
            _let_run(domain, request.memory_path)
        if request.memory_path is not None:
            _cancel_capture(domain, request.memory_path)
        for switch in request.switches:
            _take_disk_back(domain, switch, on_switch, self._merge_bytes_per_s)

    def switch_definition(self, vm_uuid: str, disk_paths: dict[str, tuple[str, str]]) -> None:
        def act(conn: Any) -> None:
            domain = conn.lookupByUUIDString(vm_uuid)
            if domain.isActive():
                raise Refused(ErrorCase.VM_NOT_SHUTOFF, f"VM {vm_uuid} was started meanwhile")
            xml = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE)
            conn.defineXML(rewrite.with_disk_paths(xml, disk_paths))

        self._connection.call("switch disks of the definition", act, vm_uuid=vm_uuid)

    def commit_live(
        self, vm_uuid: str, target: str, top_path: str, base_path: str, on_progress: OnMerge, *, on_switch: OnSwitch
    ) -> None:
        self._merger.commit(vm_uuid, target, top_path, base_path, on_progress, on_switch=on_switch)

    def pull_live(self, vm_uuid: str, request: PullRequest, on_progress: OnMerge) -> None:
        self._merger.pull(vm_uuid, request, on_progress)

    def leave_live(self, vm_uuid: str, request: PullRequest) -> None:
        self._merger.leave(vm_uuid, request)

    def probe_capture(self, vm_uuid: str) -> CaptureProgress:
        def act(domain: Any) -> CaptureProgress:
            try:
                if domain.isActive():
                    return migration.progress(Qmp(domain))
            except libvirt.libvirtError:
                if not has_died(domain):
                    raise
            return CaptureProgress("failed", 0, 0, "the virtual machine was powered off while its memory was saved")

        return self._connection.domain_call("look at the memory capture", vm_uuid, act)

    def release_capture(self, vm_uuid: str, memory_path: str) -> None:
        def act(conn: Any) -> None:
            with self._letting_go(memory_path):
                domain = conn.lookupByUUIDString(vm_uuid)
                unless_it_dies(domain, lambda: migration.release(Qmp(domain), memory_path))

        with _gone_is_clear():
            self._connection.call("release the memory capture", act, vm_uuid=vm_uuid)
        self._restore_huge_pages(vm_uuid)

    def abandon_capture(self, vm_uuid: str, memory_path: str) -> None:
        def act(conn: Any) -> None:
            with self._letting_go(memory_path):
                domain = conn.lookupByUUIDString(vm_uuid)
                unless_it_dies(domain, lambda: _cancel_capture(domain, memory_path))

        with _gone_is_clear():
            self._connection.call("abandon the memory capture", act, vm_uuid=vm_uuid)
        self._restore_huge_pages(vm_uuid)

    def _restore_huge_pages(self, vm_uuid: str) -> None:
        if self._huge_pages is not None:
            self._huge_pages.restore_soon(vm_uuid)

    def _hold(self, memory_path: str) -> int:
        # O_RDWR is refused by QEMU: it asks the set for a descriptor that is only for writing
        fd = os.open(memory_path, os.O_WRONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        with self._held_lock:
            self._held[memory_path] = fd
        return fd

    @contextmanager
    def _letting_go(self, memory_path: str | None) -> Iterator[None]:
        """Our descriptor is closed at the end; inside an act, so that no earlier one about the VM still hands it on."""
        try:
            yield
        finally:
            with self._held_lock:
                fd = self._held.pop(memory_path, None) if memory_path is not None else None
            if fd is not None:
                os.close(fd)


@contextmanager
def _gone_is_clear() -> Iterator[None]:
    """A VM that is proved gone has no QEMU that could hold on to anything."""
    try:
        yield
    except Refused as error:
        if error.case is not ErrorCase.VM_UNKNOWN:
            raise


def _take_disk_back(domain: Any, switch: DiskSwitch, on_switch: OnSwitch, speed: int) -> None:
    """The disk is on its frozen file with all that was written since, for QEMU and for libvirt."""
    overlay, frozen = switch.overlay_path, switch.frozen_path
    if overlay in real_chain(domain, switch.target):
        if read_chain(domain.XMLDesc(0), switch.target)[0] == overlay:
            # somebody waits for the undo: it does not give way
            whole = Speed(speed)
            commit_live(domain, switch.target, overlay, frozen, lambda _now: None, on_switch=on_switch, speed=whole)
        else:
            # libvirt's driver died between QEMU's switch and its own note of it
            image_format = switch.frozen_format
            commit_behind_libvirt(
                domain, switch.target, overlay, frozen, image_format, on_switch=on_switch, bytes_per_s=speed
            )
    remove_loose_nodes(domain, overlay)


def _let_run(domain: Any, memory_path: str | None) -> None:
    try:
        pause.release_paused(domain)
    except libvirt.libvirtError:
        if memory_path is None:
            raise
        # a live capture that has come to its switch-over keeps the guest until it has gone on, or is cancelled
        _cancel_capture(domain, memory_path)
        if pause.is_paused(domain):
            pause.release_paused(domain)


def _cancel_capture(domain: Any, memory_path: str) -> None:
    qmp = Qmp(domain)
    # another's migration is not ours to cancel: ours is known by the descriptor that it writes to
    if migration.our_fdsets(qmp, memory_path):
        migration.cancel(qmp)
        migration.release(qmp, memory_path)
