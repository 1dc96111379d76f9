"""Saving memory behind a published snapshot: QEMU writes, we wait, repair, verify and publish.

It occupies the VM's memory slot, so that other operations know. QEMU goes on writing when the service dies: at the next
start the operation is taken up where it was.

Point of no return: the transaction that says ``available``. When saving fails before it the snapshot stays as a
disk-only one: ``status: failed``, with the reason; the half-written file goes.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace

from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.domain.snapshot import MemoryState, MemoryStatus
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import World
from stillframe.ports.metadata import Slot, Transaction

log = logging.getLogger(__name__)
KIND = "save_memory"
_POLL_S = 0.05


@dataclass(frozen=True)
class SaveMemoryPlan:
    """``memory`` as it was published, in state saving."""

    vm_uuid: str
    snapshot_uuid: str
    memory: MemoryState
    memory_path: str
    runtime_xml: str = field(repr=False)
    runtime_cookie: str = field(repr=False)


def _await_capture(world: World, plan: SaveMemoryPlan, scratch: Scratch) -> None:
    with _flushing_meanwhile(world, plan):
        _await_end(world, plan, scratch)


@contextmanager
def _flushing_meanwhile(world: World, plan: SaveMemoryPlan) -> Iterator[None]:
    """What QEMU has written goes to the disk at once, gently: a large file would reach the amount at which the kernel writes
    it out with all its might, in front of the guest's own writes.
    """
    ended = threading.Event()

    def flush() -> None:
        try:
            while not ended.wait(_POLL_S):
                world.memory_store.flush(plan.memory.uuid)
        except StillframeError as error:
            log.info(
                "memory state %s is not flushed before its end: %s", plan.memory.uuid, error
            )  # it is then, or fails

    flusher = threading.Thread(target=flush, name=f"flush-{plan.memory.uuid[:8]}", daemon=True)
    flusher.start()
    try:
        yield
    finally:
        ended.set()  # and not waited for: what it is at does no harm, and nobody who cancels waits for a disk


def _await_end(world: World, plan: SaveMemoryPlan, scratch: Scratch) -> None:
    while True:
        scratch.work.check()
        now = world.keeper.probe_capture(plan.vm_uuid)
        if now.state == "completed":
            return
        if now.state != "active":
            raise Failed(ErrorCase.HYPERVISOR_FAILED, f"memory of VM {plan.vm_uuid} was not saved: {now.reason}")
        if scratch.work.note(now.bytes_done, now.bytes_total):
            percent = 99 * now.bytes_done // max(1, now.bytes_total)
            _show(world, plan, replace(plan.memory, progress=percent))
        time.sleep(_POLL_S)


def _note(world: World, plan: SaveMemoryPlan, memory: MemoryState) -> None:
    with world.metadata.write() as tx:
        tx.snapshots.set_memory(plan.snapshot_uuid, memory)


def _show(world: World, plan: SaveMemoryPlan, memory: MemoryState) -> None:
    """For those who look; what is being saved is not given up because the database does not take it now."""
    try:
        _note(world, plan, memory)
    except StillframeError as error:
        log.warning("progress of memory state %s could not be noted: %s", memory.uuid, error)


def _release(world: World, plan: SaveMemoryPlan, _scratch: Scratch) -> None:
    world.keeper.release_capture(plan.vm_uuid, plan.memory_path)


def _flush(world: World, plan: SaveMemoryPlan, _scratch: Scratch) -> None:
    """What follows needs the file on disk; pushed there at once it would hold up the guest's own writes."""
    _show(world, plan, replace(plan.memory, status=MemoryStatus.UPLOADING, progress=99))
    world.memory_store.flush(plan.memory.uuid)


def _finish_image(world: World, plan: SaveMemoryPlan, _scratch: Scratch) -> None:
    world.keeper.finish_image(plan.memory_path, plan.runtime_xml, plan.runtime_cookie)


def _seal(world: World, plan: SaveMemoryPlan, scratch: Scratch) -> None:
    scratch["sealed"] = world.memory_store.seal(plan.memory.uuid)


def _resealed(world: World, plan: SaveMemoryPlan, scratch: Scratch) -> None:
    """After an interruption the checksum is not at hand: sealing again gives the same one."""
    if "sealed" not in scratch:
        _seal(world, plan, scratch)
    world.instruments.memory_saved(scratch["sealed"][1])
    world.sharing.share_soon(plan.vm_uuid, plan.snapshot_uuid)


def _record(tx: Transaction, plan: SaveMemoryPlan, scratch: Scratch) -> None:
    checksum, size_bytes = scratch["sealed"]
    tx.snapshots.set_memory(
        plan.snapshot_uuid,
        replace(plan.memory, status=MemoryStatus.AVAILABLE, progress=100, checksum=checksum, size_bytes=size_bytes),
    )
    for row in tx.journal.active([plan.vm_uuid]):
        if row.slot is Slot.MEMORY:  # this one: what was reserved is in the memory's own row now
            tx.quotas.release(row.uuid)


def _give_up(world: World, plan: SaveMemoryPlan) -> None:
    """The capture is over, the guest unburdened, the snapshot a disk-only one that says why."""
    world.keeper.abandon_capture(plan.vm_uuid, plan.memory_path)
    with world.metadata.read() as tx:
        # the runner notes the cause in the journal before it undoes
        causes = [row.error for row in tx.journal.active([plan.vm_uuid]) if row.slot is Slot.MEMORY]
    reason = next((cause for cause in causes if cause), "saving was interrupted")
    _note(world, plan, replace(plan.memory, status=MemoryStatus.FAILED, progress=0, reason=reason))
    world.memory_store.ensure_dropped(plan.memory.uuid)


def steps(_plan: SaveMemoryPlan) -> tuple[Step[SaveMemoryPlan], ...]:
    return (
        Step("await the capture", _await_capture, _give_up, weight=20),
        Step("release the capture", _release),
        Step("flush", _flush),
        Step("finish the image", _finish_image),
        Step("seal", _seal),
        Step("publish", _resealed, record=_record, commits=True),
    )


FAMILIES = (
    "await the capture",
    "release the capture",
    "flush",
    "finish the image",
    "seal",
    "publish",
)
OPERATION = Operation(KIND, Slot.MEMORY, SaveMemoryPlan, steps, FAMILIES, "publish", resumes=True, needs_vm=False)
