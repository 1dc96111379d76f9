"""The pause in which disks are switched and memory becomes write-tracked.

QEMU's capture has two parts before the guest may write again: a pass over all of memory, which grows with it, and what has
to be done while the guest stands still: device state and write protection, for which QEMU stops the guest by itself. So the
capture is begun while the guest runs, and the guest is stopped by us just before the pass ends: then its disks are switched
while QEMU does the rest.

Too late is a stop that comes behind QEMU's own: memory is then of an earlier moment than the disks would be. QEMU says
"setup" until after the pass and stops the guest only once it says "active" (migration/migration.c, bg_migration_thread): a
capture that still says "setup" when our stop is confirmed was in time for certain. Any other was too late, before a disk has
been touched: the guest goes on, the capture is cancelled and begun again. After some misses the guest is stopped first, as it
is at once where the pass is short: over huge pages it takes some milliseconds for a GiB (see huge_pages.py).
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import libvirt
from lxml import etree

from stillframe.adapters.libvirt import migration
from stillframe.adapters.libvirt.domain_xml import read_disks
from stillframe.adapters.libvirt.forecast import Forecast
from stillframe.adapters.libvirt.passing import Pass
from stillframe.adapters.libvirt.qmp import Qmp, QmpError
from stillframe.adapters.libvirt.save_image import SAVE_IMAGE_OFFSET
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.domain.snapshot import CaptureMode
from stillframe.ports.hypervisor import DiskSwitch

log = logging.getLogger(__name__)

_SNAPSHOT_FLAGS = (
    libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_ATOMIC
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_REUSE_EXT
    | libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
)
_SWITCHOVER_TIMEOUT_S = 600.0
_MISSES = 3
_FIRST_TICKS_S = 0.01  # of a guest that has just been let go: where processors are few they are its own, and what we have to do waits
_PAGE_KIB = 4

NewPass = Callable[[Qmp, Forecast, str, int], Pass]
"""How QEMU's pass is watched; another one is for tests, which stop the guest at moments of their own."""


@dataclass(frozen=True)
class Fixed:
    """``pause_us``: how long the guest stood still for us, all attempts together; 0: it was not stopped."""

    taken_at_s: float
    pause_us: int
    mode: CaptureMode | None
    fallback_reason: str
    misses: int = 0


def fix_disks(domain: Any, xml: str) -> Fixed:
    """Disks alone: libvirt makes that atomic by itself, and the guest need not stand still around it."""
    domain.snapshotCreateXML(xml, _SNAPSHOT_FLAGS)
    return Fixed(time.time(), 0, None, "")


class Pauser:
    """Fixes disks together with memory; remembers how long that took, guest by guest."""

    def __init__(self, new_pass: NewPass = Pass) -> None:
        self._forecast = Forecast()
        self._new_pass = new_pass

    def fix(self, domain: Any, xml: str, qmp: Qmp, setup: migration.CaptureSetup, fd: int) -> Fixed:
        """Disks and memory of one moment. A guest that ran runs again when this returns or raises.

        ``xml``: the disks' switch, as libvirt reads it. ``setup``: the prepared capture; it goes on behind this call. ``fd``:
        what QEMU writes the memory to; emptied before another attempt.
        """
        pages = _pages(domain)
        if not _runs(domain):
            return _fix_found_still(domain, xml, qmp, setup, pages)
        paused_us = misses = 0
        for misses in range(_MISSES):
            watched = self._watch(domain, qmp, pages)
            if not watched.is_worth_while:
                break
            found = self._try(domain, xml, qmp, setup, watched)
            paused_us += found.pause_us
            if found.mode is not None:
                return Fixed(found.taken_at_s, paused_us, found.mode, "", misses)
            log.info("the guest %s was stopped too late for its capture (%d)", domain.name(), misses + 1)
            migration.cancel(qmp)
            # a page that is written now and is zero by the next attempt would be taken for its. Not to nothing: what is written to a
            # file that was emptied ext4 puts on the disk as soon as anybody closes it, and the guest's own flushes wait for that
            os.ftruncate(fd, SAVE_IMAGE_OFFSET)
        else:
            misses, watched = _MISSES, self._watch(domain, qmp, pages)
        if _is_paused_by_request(domain):
            return replace(_fix_found_still(domain, xml, qmp, setup, pages), pause_us=paused_us, misses=misses)
        begun_ns = time.monotonic_ns()
        domain.suspend()
        released = False
        try:
            fixed = _fix_still(domain, xml, qmp, setup, pages)
        finally:
            released = release_paused(domain)
        _check_stood_still(domain, released)
        paused_us += _us_since(begun_ns)
        time.sleep(_FIRST_TICKS_S)
        watched.over(migration.setup_s(qmp), in_time=True)
        return Fixed(fixed.taken_at_s, paused_us, fixed.mode, "", misses)

    def _watch(self, domain: Any, qmp: Qmp, pages: int) -> Pass:
        """Libvirt's id of a domain is another one after each start: a new QEMU has new memory."""
        return self._new_pass(qmp, self._forecast, f"{domain.UUIDString()}/{domain.ID()}", pages)

    def _try(self, domain: Any, xml: str, qmp: Qmp, setup: migration.CaptureSetup, watched: Pass) -> Fixed:
        """One attempt; ``mode`` is None for one that was too late: no disk was touched, and the capture is to be cancelled."""
        migration.start(qmp, setup, SAVE_IMAGE_OFFSET)
        watched.begun()
        watched.await_stop_time()
        begun_ns = time.monotonic_ns()
        taken_at_s, in_time, released = 0.0, False, False
        is_ours = not _is_paused_by_request(domain)  # since the attempt began
        try:
            if is_ours:
                domain.suspend()
            in_time = migration.is_preparing(qmp)
            if in_time:
                domain.snapshotCreateXML(xml, _SNAPSHOT_FLAGS)
                taken_at_s = time.time()
                migration.await_tracking(qmp, watched.pages, watched.goes_on)
        finally:
            if is_ours:
                released = release_paused(domain)
        if in_time and is_ours:
            _check_stood_still(domain, released)
        pause_us = _us_since(begun_ns) if is_ours else 0
        if in_time:
            time.sleep(_FIRST_TICKS_S)
        watched.over(migration.setup_s(qmp), in_time=in_time)
        return Fixed(taken_at_s, pause_us, CaptureMode.BACKGROUND if in_time else None, "")


def _fix_found_still(domain: Any, xml: str, qmp: Qmp, setup: migration.CaptureSetup, pages: int) -> Fixed:
    """Of a guest that its owner has paused, and may let run at any time."""
    fixed = _fix_still(domain, xml, qmp, setup, pages)
    if _runs(domain):
        raise _let_run()
    return fixed


def _fix_still(domain: Any, xml: str, qmp: Qmp, setup: migration.CaptureSetup, pages: int) -> Fixed:
    """Of a guest that stands still already, and is not released. Nothing is done here that can wait until it is: QEMU goes over
    the memory while the disks are switched.
    """
    migration.start(qmp, setup, SAVE_IMAGE_OFFSET)
    domain.snapshotCreateXML(xml, _SNAPSHOT_FLAGS)
    taken_at_s = time.time()
    migration.await_tracking(qmp, pages)
    return Fixed(taken_at_s, 0, CaptureMode.BACKGROUND, "")


def fix_behind_live_capture(domain: Any, xml: str, qmp: Qmp, setup: migration.CaptureSetup) -> Fixed:
    """The slower way: memory first while the guest runs; QEMU stops it, disks are switched, the rest is written."""
    return _fix_by_migration(domain, xml, qmp, setup, CaptureMode.LIVE)


def fix_stopped(domain: Any, xml: str, qmp: Qmp, setup: migration.CaptureSetup) -> Fixed:
    """The slowest way: the guest stands still until all of its memory is written."""
    if not _runs(domain):
        return _fix_by_migration(domain, xml, qmp, setup, CaptureMode.STOPPED)
    begun_ns = time.monotonic_ns()
    domain.suspend()
    try:
        fixed = _fix_by_migration(domain, xml, qmp, setup, CaptureMode.STOPPED)
        stood_still = _is_paused_by_request(domain)  # as it was by us: QEMU's own stop has another reason
    finally:
        release_paused(domain)
    if not stood_still:
        raise _let_run()
    return replace(fixed, pause_us=_us_since(begun_ns))


def _fix_by_migration(domain: Any, xml: str, qmp: Qmp, setup: migration.CaptureSetup, mode: CaptureMode) -> Fixed:
    """A guest that runs is stopped by QEMU and runs again; one that stands still goes on standing still."""
    ran = _runs(domain)
    migration.start(qmp, setup, SAVE_IMAGE_OFFSET)
    try:
        # nobody tells when QEMU stops the guest: the pause is counted from when it was last seen running
        begun_ns = migration.await_switchover(qmp, _SWITCHOVER_TIMEOUT_S)
        domain.snapshotCreateXML(xml, _SNAPSHOT_FLAGS)
        taken_at_s = time.time()
        migration.finish_switchover(qmp, _SWITCHOVER_TIMEOUT_S)
    except (StillframeError, QmpError, libvirt.libvirtError):
        # before the end QEMU lets a guest run again by itself when its migration is cancelled
        migration.cancel(qmp)
        raise
    finally:
        if ran and is_paused(domain):
            domain.resume()
    return Fixed(taken_at_s, _us_since(begun_ns) if ran else 0, mode, setup.fallback_reason)


def _runs(domain: Any) -> bool:
    return domain.state()[0] in (libvirt.VIR_DOMAIN_RUNNING, libvirt.VIR_DOMAIN_BLOCKED)


def is_paused(domain: Any) -> bool:
    return bool(domain.state()[0] == libvirt.VIR_DOMAIN_PAUSED)


def _is_paused_by_request(domain: Any) -> bool:
    """By its owner's, or by ours; not by QEMU for an instant of its capture."""
    return list(domain.state()) == [libvirt.VIR_DOMAIN_PAUSED, libvirt.VIR_DOMAIN_PAUSED_USER]


def release_paused(domain: Any) -> bool:
    """A guest that we stopped runs again; false when it needed no word of ours."""
    try:
        domain.resume()
    except libvirt.libvirtError:
        # QEMU itself stops the guest for an instant of a capture, and lets it run again behind libvirt's back
        if is_paused(domain):
            raise
        return False
    return True


def _check_stood_still(domain: Any, released: bool) -> None:
    """While a guest that we stopped stands still QEMU does not let it go: then somebody else has.

    Raises:
        Failed: HYPERVISOR_FAILED: memory and disks may be of different moments.
    """
    if not released and _runs(domain):
        raise _let_run()


def _let_run() -> Failed:
    return Failed(ErrorCase.HYPERVISOR_FAILED, "somebody let the guest run in the pause of its capture")


def snapshot_xml(live_xml: str, switches: tuple[DiskSwitch, ...]) -> str:
    """Every disk of the running domain is named: those that are switched, and the others as left alone.

    Raises:
        Failed: DISK_DRIFTED: a disk is not where it was when this was planned.
    """
    root = etree.Element("domainsnapshot")
    disks = etree.SubElement(root, "disks")
    by_target = {switch.target: switch for switch in switches}
    for found in read_disks(live_xml):
        switch = by_target.pop(found.target, None)
        if switch is not None and found.path != switch.frozen_path:
            raise Failed(ErrorCase.DISK_DRIFTED, f"disk {found.target} is on {found.path}, not on {switch.frozen_path}")
        disk = etree.SubElement(disks, "disk", name=found.target, snapshot="external" if switch else "no")
        if switch:
            etree.SubElement(disk, "source", file=switch.overlay_path)
            etree.SubElement(disk, "driver", type="qcow2")
    if by_target:
        raise Failed(ErrorCase.DISK_DRIFTED, f"the virtual machine has no disk {', '.join(sorted(by_target))}")
    return etree.tostring(root, encoding="unicode")


def _pages(domain: Any) -> int:
    return int(domain.info()[1]) // _PAGE_KIB


def _us_since(begun_ns: int) -> int:
    return (time.monotonic_ns() - begun_ns) // 1000
