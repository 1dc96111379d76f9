"""QEMU's migration of a running guest into a file: the commands, and what their answers mean.

Capabilities are sticky in QEMU: what is set for a capture is cleared after it, in success and in failure; a leftover
breaks libvirt's own snapshots. Source: QEMU docs/devel/migration/{main,mapped-ram}.rst, qapi/migration.json.
"""

from __future__ import annotations

import contextlib
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stillframe.adapters.libvirt.qmp import Qmp, QmpError
from stillframe.domain.errors import ErrorCase, Failed, Unknown
from stillframe.ports.hypervisor import CaptureProgress

BACKGROUND = "background-snapshot"
MAPPED_RAM = "mapped-ram"
PAUSE_BEFORE_SWITCHOVER = "pause-before-switchover"
_CLEARED = ("multifd", MAPPED_RAM, BACKGROUND, PAUSE_BEFORE_SWITCHOVER)
_DOWNTIMES_MS = (3, 11, 31, 101, 299, 999)  # none that anybody would choose for a migration: they are known as ours
_DEFAULT_DOWNTIME_MS = 300  # QEMU's
_PASSES_A_DOWNTIME = 6
_FIRST_PASS_POLL_S, _LATER_PASS_POLL_S = 0.02, 0.002
_UNLIMITED_BYTES_PER_S = 100 << 30  # the default sleeps with the guest's faults unanswered
_DEFAULT_BYTES_PER_S = 128 << 20  # QEMU's
# limit of QEMU's -> what a capture sets it to, and what it is where nobody has set it
_LIMITS: dict[str, tuple[tuple[int, ...], int]] = {
    "downtime-limit": (_DOWNTIMES_MS, _DEFAULT_DOWNTIME_MS),
    "max-bandwidth": ((_UNLIMITED_BYTES_PER_S,), _DEFAULT_BYTES_PER_S),
}
_ACTIVE = ("setup", "active", "pre-switchover", "device", "wait-unplug", "cancelling")
_ENDED_BADLY = ("failed", "cancelled", "none", None)
_TRACKING_TIMEOUT_S = 20.0
_TRACKING_S_PER_PAGE = (
    1e-6  # ten times what was seen over small pages: a guest of 1 TiB is waited for almost five minutes
)
_CANCEL_TIMEOUT_S = 20.0
_OPAQUE_PREFIX = "stillframe:"
_BEFORE_MARK = "\nbefore="  # behind the path: QEMU's limits as they were before the capture


@dataclass(frozen=True)
class CaptureSetup:
    """A prepared capture: nothing of the guest is touched yet. ``background`` is false for the slower way."""

    fdset_id: int
    background: bool
    fallback_reason: str


def set_capabilities(qmp: Qmp, *wanted: str) -> None:
    """Exactly these of the capabilities that captures use, and none of the others."""
    states = [{"capability": name, "state": False} for name in _CLEARED if name not in wanted]
    qmp.run("migrate-set-capabilities", capabilities=states)
    if wanted:
        qmp.run("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in wanted])


def prepare(qmp: Qmp, fd: int, memory_path: str) -> CaptureSetup:
    """Hand QEMU the descriptor and choose the way; refused when a migration is under way already.

    Raises:
        QmpError: QEMU can do neither way.
    """
    if qmp.run("query-migrate").get("status") in _ACTIVE:
        raise QmpError("query-migrate", {"desc": "another migration or capture is under way"})
    limits = json.dumps({name: value for name, value in qmp.run("query-migrate-parameters").items() if name in _LIMITS})
    # first of all: whoever cleans up after a crash knows by this descriptor that the capabilities are ours, and what was before
    opaque = f"{_OPAQUE_PREFIX}{memory_path}{_BEFORE_MARK}{limits}"
    answer = qmp.run_with_fd("add-fd", fd, opaque=opaque)
    reason = ""
    background = True
    try:
        set_capabilities(qmp, BACKGROUND, MAPPED_RAM)
    except QmpError as refused:
        reason, background = str(refused), False
        set_capabilities(qmp, MAPPED_RAM, PAUSE_BEFORE_SWITCHOVER)
    qmp.run("migrate-set-parameters", max_bandwidth=_UNLIMITED_BYTES_PER_S)
    if not background:
        qmp.run("migrate-set-parameters", downtime_limit=_DOWNTIMES_MS[0])
    return CaptureSetup(fdset_id=answer["fdset-id"], background=background, fallback_reason=reason)


def start(qmp: Qmp, setup: CaptureSetup, offset: int) -> None:
    qmp.run("migrate", uri=f"file:/dev/fdset/{setup.fdset_id},offset={offset}")


def is_preparing(qmp: Qmp) -> bool:
    """QEMU has not stopped the guest yet, and has not begun to track its writes: it goes over its memory first.

    Raises:
        Failed: SPACE_EXHAUSTED or HYPERVISOR_FAILED when the capture has ended badly.
    """
    answer = qmp.run("query-migrate")
    if answer.get("status") in _ENDED_BADLY:
        raise _failed("memory capture ended early", answer)
    return bool(answer.get("status") == "setup")


def setup_s(qmp: Qmp) -> float:
    """How long QEMU prepared itself, the pass over memory among it."""
    return float(qmp.run("query-migrate").get("setup-time", 0)) / 1000


def await_tracking(qmp: Qmp, pages: int, prepares: Callable[[], None] = lambda: None) -> None:
    """Return as soon as writes to memory are tracked, so that the guest may run. ``pages``: of the guest, over which QEMU goes first.

    That is exactly when the first page was counted; "active" or bytes transferred come too early.

    ``prepares`` is told whenever QEMU has said that it is not through its memory yet.

    Raises:
        Failed: SPACE_EXHAUSTED or HYPERVISOR_FAILED when the capture ended badly before.
        Unknown: HYPERVISOR_FAILED when tracking does not begin.
    """
    deadline = time.monotonic() + _TRACKING_TIMEOUT_S + pages * _TRACKING_S_PER_PAGE
    while True:
        answer = qmp.run("query-migrate")
        ram = answer.get("ram", {})
        if ram.get("normal", 0) + ram.get("duplicate", 0) > 0 or answer.get("status") == "completed":
            return
        if answer.get("status") in _ENDED_BADLY:
            raise _failed("memory capture ended early", answer)
        if answer.get("status") == "setup":
            prepares()
        if time.monotonic() > deadline:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, "memory write tracking did not begin in time")


def await_switchover(qmp: Qmp, timeout_s: float) -> int:
    """The slower way: return when QEMU has stopped the guest, with only the last of its state to be written.

    QEMU goes over the memory again and again until what is left can be written in the longest downtime that it is allowed.
    That is short at first, and longer after every few passes: a guest that writes faster than it is saved must end, too.

    Returns the last moment at which the guest is known to have run, in ns of the monotonic clock.
    """
    deadline = time.monotonic() + timeout_s
    asked_ns = time.monotonic_ns()
    allowed = 0
    while True:
        ran_ns, asked_ns = asked_ns, time.monotonic_ns()
        answer = qmp.run("query-migrate")
        if answer.get("status") == "pre-switchover":
            return ran_ns
        if answer.get("status") not in _ACTIVE:
            raise _failed("memory capture ended early", answer)
        if time.monotonic() > deadline:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, "the live memory capture did not converge in time")
        passes = int(answer.get("ram", {}).get("dirty-sync-count", 0))
        if (step := min(passes // _PASSES_A_DOWNTIME, len(_DOWNTIMES_MS) - 1)) > allowed:
            allowed = step
            qmp.run("migrate-set-parameters", downtime_limit=_DOWNTIMES_MS[allowed])
        time.sleep(_FIRST_PASS_POLL_S if passes <= 1 else _LATER_PASS_POLL_S)


def finish_switchover(qmp: Qmp, timeout_s: float) -> None:
    """Let QEMU write the rest; return when it has ended well."""
    qmp.run("migrate-continue", state="pre-switchover")
    deadline = time.monotonic() + timeout_s
    while (answer := qmp.run("query-migrate")).get("status") in _ACTIVE:
        if time.monotonic() > deadline:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, "the live memory capture did not end in time")
        time.sleep(0.002)
    if answer.get("status") != "completed":
        raise _failed("memory capture failed", answer)
    # said a moment before QEMU may be told to go on
    while qmp.run("query-status").get("status") == "finish-migrate":
        if time.monotonic() > deadline:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, "the live memory capture was not finalized in time")
        time.sleep(0.001)


def progress(qmp: Qmp) -> CaptureProgress:
    """Of the capture that was begun last, until it is released.

    QEMU tells of its last migration alone. Libvirt switches off the capabilities that it does not use for a migration of its
    own: one that ended well without ours was not ours.
    """
    answer = qmp.run("query-migrate")
    status = answer.get("status", "none")
    ram = answer.get("ram", {})
    total = int(ram.get("total", 0))
    done = max(0, total - int(ram.get("remaining", total)))
    if status in _ACTIVE:
        return CaptureProgress("active", done, total)
    if status == "completed":
        if not _is_set(qmp, MAPPED_RAM):
            return CaptureProgress(
                "failed", 0, total, "how it ended is not known: another migration of the guest came after it"
            )
        return CaptureProgress("completed", total, total)
    if status in ("failed", "cancelled"):
        return CaptureProgress("failed", done, total, _reason(answer))
    return CaptureProgress("none", 0, 0, "QEMU knows of no capture")


def _is_set(qmp: Qmp, capability: str) -> bool:
    found = {one["capability"]: one["state"] for one in qmp.run("query-migrate-capabilities")}
    return bool(found.get(capability))


def cancel(qmp: Qmp) -> None:
    """No capture is under way when this returns.

    Raises:
        Unknown: HYPERVISOR_FAILED when QEMU does not end it.
    """
    deadline = time.monotonic() + _CANCEL_TIMEOUT_S
    if qmp.run("query-migrate").get("status") in _ACTIVE:
        qmp.run("migrate_cancel")
    while qmp.run("query-migrate").get("status") in _ACTIVE:
        if time.monotonic() > deadline:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, "the memory capture could not be cancelled")
        time.sleep(0.01)


def our_fdsets(qmp: Qmp, memory_path: str) -> list[int]:
    """The descriptor sets that a capture into this file has left in QEMU."""
    return list(_limits_before(qmp, memory_path))


def _limits_before(qmp: Qmp, memory_path: str) -> dict[int, dict[str, int]]:
    """Our descriptor sets, and QEMU's limits before each came; empty where an older version did not note them."""
    found: dict[int, dict[str, int]] = {}
    for fdset in qmp.run("query-fdsets"):
        for fd in fdset.get("fds", []):
            path, _mark, limits = str(fd.get("opaque", "")).partition(_BEFORE_MARK)
            if path == _OPAQUE_PREFIX + memory_path:
                found[int(fdset["fdset-id"])] = json.loads(limits) if limits else {}
    return found


def release(qmp: Qmp, memory_path: str) -> None:
    """Capabilities cleared, limits as they were, and our descriptors removed; safe to repeat."""
    set_capabilities(qmp)
    ours = _limits_before(qmp, memory_path)
    before = next(iter(ours.values()), {})
    # sticky as well: the next migration of the guest to another host would hardly end, or take all of the network
    now = qmp.run("query-migrate-parameters")
    for name, (set_by_us, default) in _LIMITS.items():
        if now.get(name) in set_by_us:
            qmp.run("migrate-set-parameters", **{name: before.get(name, default)})
    for fdset_id in ours:
        # gone meanwhile is as good as removed by us
        with contextlib.suppress(QmpError):
            qmp.run("remove-fd", fdset_id=fdset_id)


def _reason(answer: dict[str, Any]) -> str:
    return str(answer.get("error-desc") or f"status {answer.get('status', 'none')}")


def _failed(what: str, answer: dict[str, Any]) -> Failed:
    """Some of QEMU's words for a full file system are "Input/output error" alone: those stay the hypervisor's."""
    words = f"{what}: {_reason(answer)}"
    return Failed(ErrorCase.SPACE_EXHAUSTED if "No space left" in words else ErrorCase.HYPERVISOR_FAILED, words)
