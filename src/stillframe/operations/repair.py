"""Doctor's repairs: only what has exactly one right answer, and never on a file that Stillframe did not make.

Whatever belongs to a VM is done while its exclusive slot is held, and looked at once more under it. A busy VM is left
alone, and that is said. Every repair is whole by itself, so a crash between two needs no journal; repeating is safe.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Collection
from dataclasses import replace

from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.domain.findings import Finding, FindingKind
from stillframe.domain.layers import Layer
from stillframe.domain.snapshot import MemoryStatus
from stillframe.operations.doctor import Doctor, Repair, Report
from stillframe.operations.images import Images
from stillframe.operations.orphans import find_orphans, uses_of_files
from stillframe.operations.records import read_all, read_vm
from stillframe.operations.recovery import Recovery
from stillframe.operations.requests import Cluster
from stillframe.operations.rows import About
from stillframe.operations.runner import Runner
from stillframe.operations.wording import describe_in_full
from stillframe.ports.metadata import OperationState, Slot
from stillframe.ports.volumes import ImageInfo

log = logging.getLogger(__name__)
KIND = "doctor"


class Repairs:
    """Looks, repairs, and looks again."""

    def __init__(self, runner: Runner, recovery: Recovery, doctor: Doctor, cluster: Cluster) -> None:
        self._runner = runner
        self._world = runner.world
        self._recovery = recovery
        self._doctor = doctor
        self._cluster = cluster
        self._acts: dict[FindingKind, Callable[[Finding], None]] = {
            FindingKind.OPERATION_LEFT: self._finish,
            FindingKind.WRONG_BACKING: self._repoint,
            FindingKind.LOOSE_LAYER: self._drop_layer,
            FindingKind.STUCK_MEMORY: self._give_up_memory,
            FindingKind.ORPHAN_LAYER: self._delete_layer_file,
            FindingKind.UNFINISHED_LAYER: self._delete_layer_file,
            FindingKind.ORPHAN_MEMORY: lambda finding: self._world.memory_store.ensure_dropped(finding.uuid),
            FindingKind.ORPHAN_SCREENSHOT: lambda finding: self._world.memory_store.drop_screenshot(finding.uuid),
        }

    def repair(self, *, deep: bool, began: Callable[[str], None]) -> Report:
        """Repair what may be repaired; ``findings`` of the report are what is left after it.

        ``began`` hears the uuid of each VM's operation.

        Raises:
            Failed: as ``Doctor.look``.
        """
        wanted: dict[str, list[Finding]] = {}
        for finding in self._doctor.look(deep=False).findings:
            if finding.repairable:
                wanted.setdefault(finding.vm_uuid, []).append(finding)
        repairs: list[Repair] = []
        for vm_uuid, findings in wanted.items():
            repairs += self._on_vm(vm_uuid, findings, began) if vm_uuid else self._delete_files("")
        return replace(self._doctor.look(deep=deep), repairs=tuple(repairs))

    def _on_vm(self, vm_uuid: str, wanted: Collection[Finding], began: Callable[[str], None]) -> list[Repair]:
        about = About(vm_uuid, next(iter(wanted)).vm_name)
        try:
            with self._runner.claim(about, Slot.EXCLUSIVE, KIND) as claim:
                began(claim.row.uuid)
                return self._repair_vm(vm_uuid, claim.row.uuid)
        except StillframeError as error:
            return [Repair(finding, describe_in_full(error)) for finding in wanted]

    def _repair_vm(self, vm_uuid: str, own_operation: str) -> list[Repair]:
        """The VM's slot is the caller's. What was left is finished first: the rest may go with it."""
        repairs = [
            self._attempt(finding)
            for finding in self._look_at(vm_uuid, own_operation)
            if finding.kind is FindingKind.OPERATION_LEFT
        ]
        repairs += [
            self._attempt(finding)
            for finding in self._look_at(vm_uuid, own_operation)
            if finding.kind is not FindingKind.OPERATION_LEFT
        ]
        return repairs + self._delete_files(vm_uuid)

    def _look_at(self, vm_uuid: str, own_operation: str) -> list[Finding]:
        found, _ = self._doctor.look_at(vm_uuid, ask_hypervisor=True, deep=False, own_operation=own_operation)
        return [finding for finding in found if finding.repairable]

    def _delete_files(self, vm_uuid: str) -> list[Repair]:
        """The files that nobody owns, of this VM or (with "") of none that is known.

        Their uuids are in no row and in no plan, and no operation will ever draw them again: nobody can begin to use one.
        """
        repairs: list[Repair] = []
        kept: set[str] = set()
        for finding in find_orphans(self._world, self._cluster):
            if finding.vm_uuid != vm_uuid or not finding.repairable:
                continue
            if finding.path in kept:
                repair = Repair(finding, "a file that stands on it could not be deleted")
            else:
                repair = self._attempt(finding)
            if repair.error:
                kept |= self._backing_of(finding)
            repairs.append(repair)
        return repairs

    def _backing_of(self, finding: Finding) -> set[str]:
        if finding.kind is not FindingKind.ORPHAN_LAYER:
            return set()
        try:
            info = self._world.volumes.probe_image(finding.path, "qcow2")
        except StillframeError:
            return set()
        return {info.backing_path} if info is not None else set()

    def _attempt(self, finding: Finding) -> Repair:
        try:
            self._acts[finding.kind](finding)
        except StillframeError as error:
            log.warning(
                "doctor could not repair %s %s: %s", finding.kind, finding.path or finding.uuid, describe_in_full(error)
            )
            return Repair(finding, describe_in_full(error))
        log.warning("doctor repaired %s %s (VM %s)", finding.kind, finding.path or finding.uuid, finding.vm_uuid or "-")
        return Repair(finding)

    # --- the repairs, each for what was found a moment ago

    def _finish(self, finding: Finding) -> None:
        with self._world.metadata.read() as tx:
            row = tx.journal.get(finding.uuid)
        if row is None or row.state is not OperationState.LEFT:
            return
        try:
            # the exclusive slot is ours
            self._recovery.finish(row, takes_slot=row.slot is not Slot.EXCLUSIVE)
        except StillframeError:
            with self._world.metadata.read() as tx:
                now = tx.journal.get(finding.uuid)
            if now is None or now.state is not OperationState.UNDONE:
                raise

    def _repoint(self, finding: Finding) -> None:
        """qemu-img takes the file's lock: a VM that somebody starts now keeps it from being written."""
        by_uuid = {layer.uuid: layer for layer in read_vm(self._world, finding.vm_uuid).layers}
        layer = by_uuid[finding.uuid]
        if layer.parent_uuid is not None:
            parent = by_uuid[layer.parent_uuid]
            self._world.volumes.ensure_backing(layer.path, parent.path, parent.format)

    def _drop_layer(self, finding: Finding) -> None:
        """File, then row: a row without a file is found again, and is all that is left to remove then."""
        known = read_all(self._world)
        if finding.path not in known.layers:
            return
        layer, _vm = known.layers[finding.path]
        images = Images(self._world.volumes)
        uses = uses_of_files(self._world, known, images)
        reader = uses.reader_of(layer.path, self._readable(layer, images))
        if reader:
            raise Failed(ErrorCase.DISK_DRIFTED, f"{layer.path} is in use by {reader}; it was kept")
        if uses.doubts:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{layer.path} was kept: {uses.doubts[0]}")
        if not layer.foreign:
            self._world.volumes.ensure_dropped(layer.path)
        with self._world.metadata.write() as tx:
            tx.layers.remove_layer(layer.uuid)

    def _readable(self, layer: Layer, images: Images) -> ImageInfo | None:
        try:
            return images.probe(layer.path, layer.format)
        except StillframeError:
            return None  # what cannot be read as an image is read by nobody under another name, either

    def _delete_layer_file(self, finding: Finding) -> None:
        """A QEMU that has it open all the same holds a lock on it: then it stays."""
        self._world.volumes.ensure_dropped(finding.path)

    def _give_up_memory(self, finding: Finding) -> None:
        """As an interrupted saving ends: the snapshot is a disk-only one that says why."""
        records = read_vm(self._world, finding.vm_uuid)
        snapshot = next(s for s in records.snapshots if s.memory is not None and s.memory.uuid == finding.uuid)
        if snapshot.memory is None or not snapshot.memory.status.is_pending or records.saving:
            return
        self._world.keeper.abandon_capture(finding.vm_uuid, self._world.memory_store.capture_path(finding.uuid))
        reason = "nobody was saving it any more; doctor gave it up"
        memory = replace(snapshot.memory, status=MemoryStatus.FAILED, progress=0, reason=reason)
        with self._world.metadata.write() as tx:
            tx.snapshots.set_memory(snapshot.uuid, memory)
        self._world.memory_store.ensure_dropped(finding.uuid)
