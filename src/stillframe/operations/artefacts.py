"""What belongs to a VM's snapshots beside their disks: configuration, screenshot, memory state. Looks only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from stillframe.domain.errors import ErrorCase, StillframeError
from stillframe.domain.findings import Finding, FindingKind
from stillframe.domain.snapshot import MemoryState, MemoryStatus, Snapshot
from stillframe.operations.checksum import text_checksum
from stillframe.operations.records import VmRecords
from stillframe.operations.wording import describe
from stillframe.operations.world import Sight


def examine_artefacts(world: Sight, records: VmRecords, *, may_give_up: bool, deep: bool) -> Iterator[Finding]:
    """Those of every snapshot. ``may_give_up``: a memory state that nobody saves could be ended now.

    ``deep`` reads the memory files; else their lengths must do.
    """
    for snapshot in records.snapshots:
        if text_checksum(snapshot.definition_xml) != snapshot.definition_checksum:
            yield Finding(
                FindingKind.DAMAGED_CONFIGURATION,
                uuid=snapshot.uuid,
                snapshots=(snapshot.name,),
                size_bytes=len(snapshot.definition_xml.encode()),
                desc="its checksum does not match",
            )
        if snapshot.screenshot_checksum:
            yield from _screenshot(world, snapshot)
        if snapshot.memory is None:
            continue
        if snapshot.memory.status is MemoryStatus.AVAILABLE:
            yield from _available(world, snapshot, snapshot.memory, deep=deep)
        elif snapshot.memory.status.is_pending:
            about = _about_memory(world, snapshot, snapshot.memory)
            size_bytes = _stored(world, snapshot.memory.uuid)[1]
            desc = f"it is {snapshot.memory.status.value}"
            yield replace(about, size_bytes=size_bytes, desc=desc, repairable=may_give_up)


def _screenshot(world: Sight, snapshot: Snapshot) -> Iterator[Finding]:
    try:
        png = world.memory_store.get_screenshot(snapshot.uuid, snapshot.screenshot_checksum)
    except StillframeError as error:
        kind, desc = FindingKind.DAMAGED_SCREENSHOT, describe(error)
    else:
        if png is not None:
            return
        kind, desc = FindingKind.MISSING_SCREENSHOT, ""
    path, size_bytes = _stored(world, snapshot.uuid)
    yield Finding(kind, uuid=snapshot.uuid, snapshots=(snapshot.name,), path=path, size_bytes=size_bytes, desc=desc)


def _available(world: Sight, snapshot: Snapshot, memory: MemoryState, *, deep: bool) -> Iterator[Finding]:
    about = _about_memory(world, snapshot, memory)
    try:
        world.memory_store.check_length(memory.uuid, memory.checksum)
        if deep:
            world.memory_store.verify(memory.uuid, memory.checksum)
    except StillframeError as error:
        if error.case is not ErrorCase.MEMORY_DAMAGED:
            yield replace(about, kind=FindingKind.NOT_LOOKED_AT, desc=describe(error))
            return
        path, size_bytes = _stored(world, memory.uuid)
        kind = FindingKind.DAMAGED_MEMORY if path else FindingKind.MISSING_MEMORY
        yield replace(about, kind=kind, size_bytes=size_bytes if path else memory.size_bytes, desc=describe(error))


def _about_memory(world: Sight, snapshot: Snapshot, memory: MemoryState) -> Finding:
    path = world.memory_store.capture_path(memory.uuid)
    return Finding(FindingKind.STUCK_MEMORY, uuid=memory.uuid, snapshots=(snapshot.name,), path=path)


def _stored(world: Sight, uuid: str) -> tuple[str, int]:
    """Path and size of a finished file of the store; nothing of one that is not there. Asked about damage only."""
    try:
        files = world.memory_store.list_owned()
    except StillframeError:
        return "", 0
    return next(((file.path, file.size_bytes) for file in files if file.uuid == uuid and not file.unfinished), ("", 0))
