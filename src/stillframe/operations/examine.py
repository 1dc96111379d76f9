"""One VM's rows against its files and against what the hypervisor says of it. Looks only.

The caller has read the rows, and reads the journal again afterwards: what an operation did meanwhile is not damage.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.domain.findings import Finding, FindingKind
from stillframe.domain.layers import Drop, Layer, chain, plan_collection
from stillframe.domain.vm import Disk, Vm
from stillframe.operations.artefacts import examine_artefacts
from stillframe.operations.disks import is_our_directory
from stillframe.operations.images import Images, file_disks
from stillframe.operations.records import VmRecords
from stillframe.operations.recovery import OPERATIONS
from stillframe.operations.wording import describe
from stillframe.operations.world import Sight

# an unfinished operation may leave its objects in any state, but never these
_NEVER_EXPLAINED = (
    FindingKind.OPERATION_LEFT,
    FindingKind.VM_UNKNOWN,
    FindingKind.FOREIGN_OVERLAY,
    FindingKind.DAMAGED_CONFIGURATION,
)


@dataclass(frozen=True)
class Look:
    """What one look at a VM works with. ``vm`` is None when libvirt answered that it does not exist.

    ``asked`` is false when the hypervisor cannot be reached: then nothing is said about it.
    """

    world: Sight
    records: VmRecords
    images: Images
    vm: Vm | None
    asked: bool
    deep: bool


def examine(world: Sight, records: VmRecords, *, ask_hypervisor: bool, deep: bool) -> list[Finding]:
    """Everything about this VM that is not as it should be and that no unfinished operation explains."""
    vm: Vm | None = None
    found: list[Finding] = []
    asked = ask_hypervisor
    if ask_hypervisor:
        try:
            vm = world.inventory.get_vm(records.vm_uuid)
        except StillframeError as error:
            if not (isinstance(error, Refused) and error.case is ErrorCase.VM_UNKNOWN):
                asked = False
                found.append(_unseen(records.vm_uuid, "libvirt", error))
    look = Look(world, records, Images(world.volumes), vm, asked, deep)
    found += [
        *_operations(look),
        *_layers(look),
        *_disks(look),
        *examine_artefacts(world, records, may_give_up=asked and not records.saving, deep=deep),
    ]
    name = vm.name if vm is not None else ""
    return [
        replace(finding, vm_uuid=records.vm_uuid, vm_name=name)
        for finding in found
        if finding.kind in _NEVER_EXPLAINED or not finding.uuid or not records.explained(finding.uuid)
    ]


def _unseen(uuid: str, what: str, error: BaseException, path: str = "") -> Finding:
    return Finding(FindingKind.NOT_LOOKED_AT, uuid=uuid, path=path, desc=f"{what}: {describe(error)}")


# --- the journal, and whether the VM exists


def _operations(look: Look) -> Iterator[Finding]:
    is_away = look.asked and look.vm is None
    waiting = [row for row in look.records.left if is_away and row.kind in OPERATIONS and OPERATIONS[row.kind].needs_vm]
    if waiting or (is_away and (look.records.volumes or look.records.snapshots)):
        names = tuple(snapshot.name for snapshot in look.records.snapshots)
        left = "".join(f'; {row.kind} on VM "{row.vm_name}" waits for it (operation {row.uuid})' for row in waiting)
        yield Finding(
            FindingKind.VM_UNKNOWN, uuid=look.records.vm_uuid, snapshots=names, desc=look.records.vm_uuid + left
        )
    for row in look.records.left:
        if row in waiting:
            continue  # the VM's absence is what is the matter, and is said above
        state = f"; the guest is {look.vm.state.value}" if look.vm is not None else ""
        yield Finding(
            FindingKind.OPERATION_LEFT,
            uuid=row.uuid,
            snapshots=(row.snapshot,) if row.snapshot else (),
            desc=f"{row.kind}: {row.error}{state}",
            repairable=True,
        )


# --- layers


def loose_leaves(records: VmRecords) -> list[Layer]:
    """Layers that nothing refers to and nothing backs on, children before parents."""
    acts = plan_collection(records.layers, records.referenced)
    return [act.layer for act in acts if isinstance(act, Drop)]


def _layers(look: Look) -> Iterator[Finding]:
    by_uuid = {layer.uuid: layer for layer in look.records.layers}
    loose = loose_leaves(look.records)
    for layer in loose:
        # its file may have gone already, or may be in any state: nobody reads it
        yield _of(look, FindingKind.LOOSE_LAYER, layer, "", repairable=look.asked and look.vm is not None)
    for layer in look.records.layers:
        if layer in loose:
            continue
        parent = by_uuid[layer.parent_uuid] if layer.parent_uuid is not None else None
        try:
            info = look.images.probe(layer.path, layer.format)
        except StillframeError as error:
            yield _of(look, FindingKind.UNREADABLE_LAYER, layer, describe(error))
            continue
        if info is None:
            yield _of(look, FindingKind.MISSING_LAYER, layer, "")
            continue
        if parent is not None and (info.backing_path, info.backing_format) != (parent.path, parent.format):
            named = f"{info.backing_path or 'nothing'} ({info.backing_format or 'no format'})"
            desc = f"it names {named} instead of {parent.path} ({parent.format})"
            yield _of(look, FindingKind.WRONG_BACKING, layer, desc, repairable=may_repoint(look, parent))
        if look.deep and not _is_written(look, layer):
            yield from _inside(look, layer)


def may_repoint(look: Look, parent: Layer) -> bool:
    """The VM is there and off, and the file that its layer should stand on can be read."""
    if not look.asked or look.vm is None or look.vm.state.has_process:
        return False
    try:
        return look.images.probe(parent.path, parent.format) is not None
    except StillframeError:
        return False


def _inside(look: Look, layer: Layer) -> Iterator[Finding]:
    try:
        words = look.world.volumes.probe_damage(layer.path, layer.format)
    except StillframeError as error:
        yield _of(look, FindingKind.NOT_LOOKED_AT, layer, describe(error))
        return
    if words:
        yield _of(look, FindingKind.DAMAGED_LAYER, layer, words)


def _is_written(look: Look, layer: Layer) -> bool:
    """A running QEMU writes to it: its structure is only whole together with what QEMU has in memory."""
    if look.vm is None or not look.vm.state.has_process:
        return not look.asked
    return any(disk.path == layer.path for disk in look.vm.disks)


def _of(look: Look, kind: FindingKind, layer: Layer, desc: str, *, repairable: bool = False) -> Finding:
    heads = [volume.target for volume in look.records.volumes if volume.head_layer_uuid == layer.uuid]
    needed = "; ".join(
        f"the VM's disk {volume.target} stands on it"
        for volume in look.records.volumes
        if layer in chain(look.records.layers, volume.head_layer_uuid)
    )
    if kind is FindingKind.LOOSE_LAYER or heads:
        needed = ""
    try:
        size_bytes = look.world.volumes.probe_size(layer.path) or 0
    except StillframeError:
        size_bytes = 0  # what is the matter is said by the finding itself
    whose = f"the head of disk {heads[0]}" if heads else needed
    return Finding(
        kind,
        snapshots=look.records.needing(layer.uuid),
        path=layer.path,
        uuid=layer.uuid,
        size_bytes=size_bytes,
        desc="; ".join(part for part in (desc, whose) if part),
        repairable=repairable,
    )


# --- disks


def _disks(look: Look) -> Iterator[Finding]:
    if look.vm is None:
        return
    layer_at = {layer.path: layer for layer in look.records.layers}
    for disk in file_disks(look.vm):
        if disk.is_removable:
            continue
        layer = layer_at.get(disk.path)
        if layer is not None:
            yield from _on_its_head(look, look.vm, disk, layer)
        elif is_our_directory(PurePosixPath(disk.path).parent.name):
            desc = f"disk {disk.target} is on {disk.path}, which no row of this VM knows"
            yield replace(_drifted(look, disk, desc), uuid=PurePosixPath(disk.path).stem)
        elif look.records.layers:
            yield from _on_foreign(look, disk)


def _on_its_head(look: Look, vm: Vm, disk: Disk, layer: Layer) -> Iterator[Finding]:
    volume = next(volume for volume in look.records.volumes if volume.uuid == layer.volume_uuid)
    if volume.head_layer_uuid != layer.uuid:
        head = next(other.path for other in look.records.layers if other.uuid == volume.head_layer_uuid)
        desc = f"disk {disk.target} is on {disk.path}, a frozen layer; its head is {head}"
        yield replace(_drifted(look, disk, desc), uuid=layer.uuid)
        return
    if not vm.state.has_process or disk not in vm.disks:
        return
    wanted = tuple(one.path for one in chain(look.records.layers, layer.uuid))
    try:
        real = look.world.inventory.active_chain(vm.uuid, disk.target)
    except StillframeError as error:
        yield _unseen(layer.uuid, f"the files that QEMU reads disk {disk.target} through", error, disk.path)
        return
    if real and real[: len(wanted)] != wanted:  # empty: it was switched off meanwhile
        desc = f"QEMU reads disk {disk.target} through {', '.join(real)} instead of {', '.join(wanted)}"
        yield replace(_drifted(look, disk, desc), uuid=layer.uuid)


def _on_foreign(look: Look, disk: Disk) -> Iterator[Finding]:
    layer_at = {layer.path: layer for layer in look.records.layers}
    try:
        stands_on = look.images.follow(disk.path, disk.format)
        below = [layer_at[name] for info in stands_on for name in (info.path, info.real_path) if name in layer_at]
    except StillframeError as error:
        yield _unseen("", f"what disk {disk.target} stands on", error, disk.path)
        return
    if below:
        desc = f"disk {disk.target} is on {disk.path}, which stands on {below[0].path}"
        yield replace(_drifted(look, disk, desc), kind=FindingKind.FOREIGN_OVERLAY, uuid=below[0].uuid)


def _drifted(look: Look, disk: Disk, desc: str) -> Finding:
    try:
        size_bytes = look.world.volumes.probe_size(disk.path) or 0
    except StillframeError:
        size_bytes = 0
    return Finding(FindingKind.DISK_DRIFTED, path=disk.path, size_bytes=size_bytes, desc=desc)
