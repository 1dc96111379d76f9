"""The files that a running QEMU really reads a disk through, asked of QEMU itself; and going back behind libvirt.

libvirt keeps a picture of the chain of its own. When its driver dies in the instant in which QEMU switches a disk or ends
a merge, that picture stays behind until the VM is started anew. Then QEMU tells the truth, and what libvirt does not know
of is taken back through QEMU. Source: QEMU's qapi/block-core.json.
"""

from __future__ import annotations

import json
import time
from typing import Any

from stillframe.adapters.libvirt.domain_xml import find_disk, parse_domain
from stillframe.adapters.libvirt.qmp import Qmp, QmpError
from stillframe.adapters.libvirt.throttle import Throttle
from stillframe.domain.errors import ErrorCase, Failed, Unknown
from stillframe.ports.hypervisor import OnSwitch

# libvirt parses QEMU's answers with json-c, which stops at 32 levels, and a chain of n files nests query-block's answer
# about n + 7 deep: with libvirt 11.3 a VM on 26 files cannot be started, and a running one is killed when libvirt's
# daemon comes back. One file less than the 25 that work.
DEEPEST_CHAIN = 24

_POLL_S = 0.02
_TIMEOUT_S = 300.0
_SETTLE_TIMEOUT_S = 60.0


def real_chain(domain: Any, target: str) -> tuple[str, ...]:
    """The disk's files, topmost first (``query-block``: BlockDeviceInfo, ImageInfo).

    Raises:
        Failed: HYPERVISOR_FAILED when QEMU does not know the disk.
    """
    found: list[str] = []
    current: dict[str, Any] | None = inserted(domain, target)["image"]
    while current is not None:
        found.append(_plain(str(current["filename"])))
        current = current.get("backing-image")
    return tuple(found)


def commit_behind_libvirt(
    domain: Any,
    target: str,
    overlay_path: str,
    base_path: str,
    base_format: str,
    *,
    on_switch: OnSwitch,
    bytes_per_s: int,
) -> None:
    """Merge an overlay that QEMU writes to, and of which libvirt knows nothing, into the file that libvirt names.

    Afterwards both agree. Safe to repeat, also after an interruption: the job is found by its name. ``bytes_per_s``: how
    fast at most, 0: as fast as it goes; it gives way to a guest that would keep the merge from ending (throttle.py).

    Raises:
        Failed: HYPERVISOR_FAILED when QEMU has no such chain, STORAGE_FAILED when the job ended without merging.
        Unknown: HYPERVISOR_FAILED when it does not end.
    """
    qmp = Qmp(domain)
    job_id = f"stillframe-{target}"
    if not _job(qmp, job_id):
        top = inserted(domain, target)["node-name"]
        base = node_of(qmp, base_path, base_format)
        qmp.run("block-commit", job_id=job_id, device=top, base_node=base, speed=bytes_per_s)
    deadline = time.monotonic() + _TIMEOUT_S
    asked = False
    throttle = Throttle(bytes_per_s > 0, lambda: _lift_throttle(qmp, job_id))
    while job := _job(qmp, job_id):
        throttle.saw(int(job["offset"]), int(job["len"]))
        if job.get("ready") and not asked:
            on_switch(target)
            qmp.run("block-job-complete", device=job_id)
            asked = True
        if time.monotonic() > deadline:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, f"disk {target}: the merge of {overlay_path} does not end")
        time.sleep(_POLL_S)
    if overlay_path in real_chain(domain, target):
        raise Failed(ErrorCase.STORAGE_FAILED, f"disk {target}: {overlay_path} could not be merged into {base_path}")


def remove_loose_nodes(domain: Any, path: str) -> None:
    """QEMU has no node left for a file that no disk uses; libvirt would stumble over the nodes' names.

    Raises:
        QmpError: a node is in use.
    """
    qmp = Qmp(domain)
    nodes = [node for node in _nodes(qmp) if _plain(str(node["image"]["filename"])) == path]
    # the format's node stands on the protocol's: it goes first
    for node in sorted(nodes, key=lambda node: node["drv"] == "file"):
        try:
            qmp.run("blockdev-del", node_name=node["node-name"])
        except QmpError:
            # libvirt removes its own at the end of a job: gone is as good as removed by us
            if any(left["node-name"] == node["node-name"] for left in _nodes(qmp)):
                raise


def resume_from_full_disk(domain: Any) -> None:
    """Undo QEMU's stop for want of space.

    A guest's write that finds no space stops the guest (werror=enospc, QEMU's default); QEMU keeps the write and never
    goes on by itself. Resumed, it repeats the write: as long as there is no space the guest stops again, and sees no error.
    A merge's own write that finds none ends the job alone.
    """
    # asked of QEMU, because libvirt 11.3 gives the reason of such a stop as unknown
    if Qmp(domain).run("query-status")["status"] == "io-error":
        domain.resume()


def await_settled(domain: Any, target: str, top_path: str) -> None:
    """Libvirt ends the job a moment after the request; the XML tells when."""
    deadline = time.monotonic() + _SETTLE_TIMEOUT_S
    while domain.blockJobInfo(target, 0):
        if time.monotonic() > deadline:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, f"disk {target}: the merge of {top_path} does not end")
        time.sleep(_POLL_S)


def others_job(target: str) -> Failed:
    """A block job was found on the disk that no merge of ours begins there."""
    return Failed(
        ErrorCase.HYPERVISOR_FAILED,
        f"disk {target}: another job of somebody else's is under way on it (virsh blockjob); nothing was merged",
    )


def inserted(domain: Any, target: str) -> dict[str, Any]:
    """What QEMU says of the disk's medium (``BlockDeviceInfo``); ``node-name`` is that of its active file."""
    alias = find_disk(parse_domain(domain.XMLDesc(0)), target).find("alias")
    name = alias.get("name", "") if alias is not None else ""
    for device in Qmp(domain).run("query-block"):
        if name and name in str(device.get("qdev", "")).split("/") and "inserted" in device:
            found: dict[str, Any] = device["inserted"]
            return found
    raise Failed(ErrorCase.HYPERVISOR_FAILED, f"disk {target}: QEMU knows no device {name}")


def _nodes(qmp: Qmp) -> list[dict[str, Any]]:
    nodes: list[dict[str, Any]] = qmp.run("query-named-block-nodes", flat=True)
    return nodes


def node_of(qmp: Qmp, path: str, image_format: str) -> str:
    """The node of an image in its format; libvirt gives a raw image no node beside the protocol's."""
    found = {node["drv"]: str(node["node-name"]) for node in _nodes(qmp) if _plain(node["image"]["filename"]) == path}
    for driver in (image_format, "file"):
        if driver in found:
            return found[driver]
    raise Failed(ErrorCase.HYPERVISOR_FAILED, f"QEMU has no node for {path}")


def _lift_throttle(qmp: Qmp, job_id: str) -> None:
    try:
        qmp.run("block-job-set-speed", device=job_id, speed=0)
    except QmpError:
        # a job that has just ended has no speed
        if _job(qmp, job_id):
            raise


def _job(qmp: Qmp, job_id: str) -> dict[str, Any] | None:
    jobs: list[dict[str, Any]] = qmp.run("query-block-jobs")
    return next((job for job in jobs if job["device"] == job_id), None)


def _plain(filename: str) -> str:
    """QEMU names a node ``json:{…}`` where its options cannot be said by a path alone; the path is inside."""
    if not filename.startswith("json:"):
        return filename
    options: Any = json.loads(filename.removeprefix("json:"))
    while isinstance(options, dict) and "filename" not in options:
        options = options.get("file")
    return str(options["filename"]) if isinstance(options, dict) else filename
