"""Live merges upwards: what a layer adds is copied into the active one, and then the layer is left.

libvirt's block pull does both in one job of QEMU's. That job names the new backing file in the header while tables that
lead to what was copied may still be in QEMU's memory alone (10.0: block/stream.c), and nothing writes them until the guest
flushes next: a QEMU that is killed then has lost what was pulled. So the copy is a job of ours that stops before its end,
where nothing has been switched; QEMU then writes all that it holds, and whoever calls looks whether it did. libvirt's own
job, which comes after that, finds nothing to copy, and switches QEMU, the header and its own picture of the chain.

Sources: QEMU's qapi/job.json and qapi/block-core.json; tried with QEMU 10.0.2 and libvirt 11.3.
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import libvirt

from stillframe.adapters.libvirt.block_nodes import (
    await_settled,
    node_of,
    others_job,
    real_chain,
    remove_loose_nodes,
    resume_from_full_disk,
)
from stillframe.adapters.libvirt.domain_xml import read_chain
from stillframe.adapters.libvirt.pacer import Pacer, Speed, looks
from stillframe.adapters.libvirt.qmp import Qmp, QmpError
from stillframe.domain.errors import ErrorCase, Failed, Unknown
from stillframe.ports.hypervisor import MergeProgress, OnMerge, PullRequest

_POLL_S = 0.02
_AT_ITS_END = ("waiting", "pending", "aborting", "concluded")
# they end when somebody ends them
_MIRRORING = (libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_COPY, libvirt.VIR_DOMAIN_BLOCK_JOB_TYPE_ACTIVE_COMMIT)
_JOB_TIMEOUT_S = 60.0
_NO_SPACE = os.strerror(28)


def pull_job(target: str) -> str:
    """The name of the job that copies into a disk's active file."""
    return f"stillframe-pull-{target}"


def pull_live(domain: Any, request: PullRequest, on_progress: OnMerge, *, speed: Speed) -> None:
    """See ``PointInTimeFixer.pull_live``. ``speed``: how fast (pacer.py).

    A job that an interrupted call left is taken up. Nothing happens when base has left the chain.

    Raises:
        Failed: SPACE_EXHAUSTED or STORAGE_FAILED when the job ended early, HYPERVISOR_FAILED when somebody else's job
            is on the disk, or top is not the active file on base; the files read the same as before.
    """
    target, base_path = request.target, request.base_path
    resume_from_full_disk(domain)
    if domain.blockJobInfo(target, 0).get("type") in _MIRRORING:
        raise others_job(target)
    await_settled(domain, target, base_path)  # libvirt's own, of an interrupted ``leave_live``
    chain = real_chain(domain, target)
    if base_path not in chain:
        return
    if chain[:3] != (request.top_path, base_path, request.parent_path):
        raise Failed(
            ErrorCase.HYPERVISOR_FAILED,
            f"disk {target}: the running chain does not begin with {request.top_path}, {base_path}, {request.parent_path}",
        )
    qmp = Qmp(domain)
    node = node_of(qmp, request.top_path, "qcow2")
    pacer = Pacer(domain, target, base_path, speed)
    if _job(qmp, pull_job(target)).get("status") in (None, "concluded"):
        end_job(qmp, pull_job(target))
        qmp.run(
            "block-stream",
            job_id=pull_job(target),
            device=node,
            base_node=node_of(qmp, request.parent_path, request.parent_format),
            speed=pacer.bytes_per_s,
            on_error="report",
            auto_finalize=False,
            auto_dismiss=False,
        )
    else:
        pacer.take_over(lambda bytes_per_s: _set_speed(qmp, target, bytes_per_s))
    _await_copied(qmp, target, base_path, on_progress, pacer)
    qmp.run("human-monitor-command", command_line=f'qemu-io {node} "flush"')
    end_job(qmp, pull_job(target))
    resume_from_full_disk(domain)


def _await_copied(qmp: Qmp, target: str, base_path: str, on_progress: OnMerge, pacer: Pacer) -> None:
    """The job has copied everything and waits to be let go on."""
    occupied_bytes = Path(base_path).stat().st_blocks * 512
    for _ in looks():
        job = _job(qmp, pull_job(target))
        if job.get("status") in (None, "concluded"):
            end_job(qmp, pull_job(target))
            raise _ended_early(target, base_path, str(job.get("error", "it was cancelled by somebody else")))
        # it counts what it has looked at, of the whole disk
        share = int(job["current-progress"]) / max(1, int(job["total-progress"]))
        copied_bytes = int(occupied_bytes * min(share, 1.0))
        on_progress(MergeProgress(copied_bytes, occupied_bytes))
        if job["status"] == "pending":
            return
        pacer.saw(copied_bytes, lambda bytes_per_s: _set_speed(qmp, target, bytes_per_s))


def _set_speed(qmp: Qmp, target: str, bytes_per_s: int) -> None:
    try:
        qmp.run("block-job-set-speed", device=pull_job(target), speed=bytes_per_s)
    except QmpError:
        # a job that has just ended has no speed
        if _job(qmp, pull_job(target)).get("status") not in (*_AT_ITS_END, None):
            raise


def _ended_early(target: str, base_path: str, words: str) -> Failed:
    case = ErrorCase.SPACE_EXHAUSTED if _NO_SPACE in words else ErrorCase.STORAGE_FAILED
    return Failed(
        case, f"disk {target}: pulling {base_path} into what stands on it ended early: {words}; nothing is lost"
    )


def leave_live(domain: Any, request: PullRequest) -> None:
    """See ``PointInTimeFixer.leave_live``.

    Raises:
        Failed: HYPERVISOR_FAILED when QEMU has left base, but libvirt still names it; STORAGE_FAILED when libvirt's job
            ended without leaving it.
        Unknown: HYPERVISOR_FAILED when its end does not show in time.
    """
    target, base_path = request.target, request.base_path
    await_settled(domain, target, base_path)
    if base_path in real_chain(domain, target):
        domain.blockRebase(target, request.parent_path, 0, libvirt.VIR_DOMAIN_BLOCK_REBASE_BANDWIDTH_BYTES)
        await_settled(domain, target, base_path)
        if base_path in real_chain(domain, target):
            raise Failed(
                ErrorCase.STORAGE_FAILED,
                f"disk {target}: {request.top_path} could not leave {base_path}; see QEMU's log",
            )
    if base_path in read_chain(domain.XMLDesc(0), target):
        raise Failed(
            ErrorCase.HYPERVISOR_FAILED,
            f"disk {target}: QEMU has left {base_path}, but libvirt still names it; restart the virtual machine",
        )
    remove_loose_nodes(domain, base_path)
    resume_from_full_disk(domain)


def end_job(qmp: Qmp, job_id: str) -> None:
    """There is no such job any more. One that has not switched anything is cancelled; what it copied stays.

    Raises:
        Unknown: HYPERVISOR_FAILED when it does not end.
    """
    deadline = time.monotonic() + _JOB_TIMEOUT_S
    asked = False
    while job := _job(qmp, job_id):
        if job["status"] == "concluded":
            qmp.run("job-dismiss", id=job_id)
        elif not asked:
            qmp.run("job-cancel", id=job_id)
            asked = True
        if time.monotonic() > deadline:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, f"QEMU's job {job_id} does not end")
        time.sleep(_POLL_S)


def _job(qmp: Qmp, job_id: str) -> dict[str, Any]:
    """Empty when there is none."""
    jobs: list[dict[str, Any]] = qmp.run("query-jobs")
    return next((job for job in jobs if job["id"] == job_id), {})
