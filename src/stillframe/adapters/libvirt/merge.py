"""Live merges downwards: libvirt's block commit, with pivot where the top layer is the active one."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import libvirt

from stillframe.adapters.libvirt.block_nodes import (
    await_settled,
    others_job,
    real_chain,
    remove_loose_nodes,
    resume_from_full_disk,
)
from stillframe.adapters.libvirt.domain_xml import find_disk, parse_domain, read_chain
from stillframe.adapters.libvirt.pacer import Pacer, Speed, looks
from stillframe.adapters.libvirt.pull import end_job, pull_job
from stillframe.adapters.libvirt.qmp import Qmp
from stillframe.adapters.libvirt.throttle import Throttle
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.ports.hypervisor import MergeProgress, OnMerge, OnSwitch

_FULL_BYTES = 2 << 20  # QEMU's largest write of a job is 1 MiB; less than its clusters and tables may fit


def commit_live(
    domain: Any,
    target: str,
    top_path: str,
    base_path: str,
    on_progress: OnMerge,
    *,
    on_switch: OnSwitch,
    speed: Speed,
) -> None:
    """Merge ``top_path`` into ``base_path`` of a running domain's disk; see ``PointInTimeFixer.commit_live``.

    ``speed``: how fast (pacer.py); where it does not give way, a job that is found keeps the speed that it was given. What
    holds it back goes when a guest would keep the merge from ending (throttle.py).

    A job that an interrupted call left is waited for and pivoted, not started again; another's is left alone. Whether top
    is merged is asked of QEMU, because libvirt's picture of the chain may be behind after a crash (block_nodes.py).

    A guest that QEMU has stopped because a write of its own found no space runs again: until the merged layer is dropped
    a merge takes space, and the guest's next write may have been what found none.

    Raises:
        Failed: SPACE_EXHAUSTED or STORAGE_FAILED when the job ended without merging, HYPERVISOR_FAILED when somebody else's
            job is on the disk, base is not below top, neither is in the chain, or libvirt believes the disk on a file that
            QEMU has left; the files read the same as before.
        Unknown: HYPERVISOR_FAILED when the end of the job does not show in time.
    """
    resume_from_full_disk(domain)
    pacer: Pacer | None = None
    job_seen = False
    while True:
        job = domain.blockJobInfo(target, 0)
        if job:
            _check_ours(domain, target, job, base_path)
        if not job and top_path not in (chain := real_chain(domain, target)):
            _check_merged(target, top_path, base_path, chain)
            _check_left(domain, target, top_path)
            remove_loose_nodes(domain, top_path)
            resume_from_full_disk(domain)
            return
        if not job and job_seen:
            raise _ended_early(target, top_path, base_path)
        pacer = pacer or Pacer(domain, target, top_path, speed)
        if job:
            pacer.take_over(lambda bytes_per_s: _set_speed(domain, target, bytes_per_s))
        else:
            _start(domain, target, top_path, base_path, pacer.bytes_per_s)
        job_seen = True
        _wait(domain, target, on_progress, pacer)
        if _is_ready(domain, target):
            on_switch(target)
            domain.blockJobAbort(target, libvirt.VIR_DOMAIN_BLOCK_JOB_ABORT_PIVOT)
        await_settled(domain, target, top_path)


def _check_ours(domain: Any, target: str, job: dict[str, Any], base_path: str) -> None:
    """A copy that the guest's owner makes would take the guest with it, were it pivoted."""
    if job["type"] == libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COMMIT:
        return  # it ends by itself, and it is looked at then what was merged
    source = find_disk(parse_domain(domain.XMLDesc(0)), target).find("mirror/source")
    goal = source.get("file", "") if source is not None else base_path
    if job["type"] != libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT or goal != base_path:
        raise others_job(target)


def _ended_early(target: str, top_path: str, base_path: str) -> Failed:
    """Libvirt does not hand QEMU's reason on: that the file system is full is looked at."""
    words = f"disk {target}: the merge of {top_path} into {base_path} ended early; nothing is lost"
    figures = os.statvfs(Path(base_path).parent)
    free = figures.f_bavail * figures.f_frsize
    if free < _FULL_BYTES:
        return Failed(ErrorCase.SPACE_EXHAUSTED, f"{words}: no space, {free} bytes are free")
    return Failed(ErrorCase.STORAGE_FAILED, f"{words}; see QEMU's log")


def _check_merged(target: str, top_path: str, base_path: str, chain: Sequence[str]) -> None:
    """A top that has gone was merged where its base is in the chain; else QEMU never had the two."""
    if base_path not in chain:
        raise Failed(
            ErrorCase.HYPERVISOR_FAILED,
            f"disk {target}: neither {top_path} nor {base_path} is in the running chain; nothing was merged",
        )


def _check_left(domain: Any, target: str, top_path: str) -> None:
    """The next start would be on the file that libvirt names: it must not be the one that is about to go."""
    if read_chain(domain.XMLDesc(0), target)[0] == top_path:
        raise Failed(
            ErrorCase.HYPERVISOR_FAILED,
            f"disk {target}: QEMU has left {top_path}, but libvirt still names it; restart the virtual machine",
        )


def _start(domain: Any, target: str, top_path: str, base_path: str, bytes_per_s: int) -> None:
    chain = read_chain(domain.XMLDesc(0), target)
    if base_path not in chain[chain.index(top_path) + 1 :]:
        raise Failed(
            ErrorCase.HYPERVISOR_FAILED, f"disk {target}: {base_path} is not below {top_path} in the running chain"
        )
    end_job(Qmp(domain), pull_job(target))  # of a pull that was given up for this
    active = chain[0] == top_path
    flags = libvirt.VIR_DOMAIN_BLOCK_COMMIT_BANDWIDTH_BYTES
    if active:
        flags |= libvirt.VIR_DOMAIN_BLOCK_COMMIT_ACTIVE
    domain.blockCommit(target, base_path, top_path, bytes_per_s, flags)


def _wait(domain: Any, target: str, on_progress: OnMerge, pacer: Pacer) -> None:
    """Until the job is gone, or has copied everything and mirrors."""

    def let_go() -> None:
        pacer.release()
        _set_speed(domain, target, pacer.bytes_per_s)

    throttle = Throttle(pacer.holds_back, let_go)
    for _ in looks():
        job = domain.blockJobInfo(target, 0)
        if not job:
            return
        done, total = int(job["cur"]), int(job["end"])
        on_progress(MergeProgress(done, total))
        throttle.saw(done, total)
        pacer.saw(done, lambda bytes_per_s: _set_speed(domain, target, bytes_per_s))
        if total > 0 and done >= total and _is_ready(domain, target):
            return


def _set_speed(domain: Any, target: str, bytes_per_s: int) -> None:
    try:
        domain.blockJobSetSpeed(target, bytes_per_s, libvirt.VIR_DOMAIN_BLOCK_JOB_SPEED_BANDWIDTH_BYTES)
    except libvirt.libvirtError:
        # a job that has just ended has no speed
        if domain.blockJobInfo(target, 0):
            raise


def _is_ready(domain: Any, target: str) -> bool:
    """True when an active commit mirrors, so that it can pivot."""
    mirror = find_disk(parse_domain(domain.XMLDesc(0)), target).find("mirror")
    return mirror is not None and mirror.get("ready") == "yes"
