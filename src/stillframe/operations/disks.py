"""Which volume and layer each disk of a VM is on: known, new, or moved by somebody else."""

from __future__ import annotations

import re
import uuid
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.domain.image_header import FORMATS
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.vm import Disk, SourceKind, Vm
from stillframe.operations.world import World
from stillframe.ports.volumes import ImageInfo

# names of adopted volumes are derived, so that an unsnapshotted disk already has the uuid that it will keep
_VOLUME_NAMES = uuid.UUID("5d3bd4c0-55c7-4f0e-9a53-2f0f7c2c6d11")
_OUR_DIRECTORY = re.compile(r"stillframe-[0-9a-f]{8}-[0-9a-f-]{27}")


@dataclass(frozen=True)
class PlacedDisk:
    """A disk, its volume and the layer that it writes to. ``known`` is false for one not seen by a snapshot yet."""

    disk: Disk
    volume: Volume
    layer: Layer
    known: bool


def is_our_directory(name: str) -> bool:
    """The name is one that this service gives to the directories of its layers, of whatever cluster."""
    return _OUR_DIRECTORY.fullmatch(name) is not None


def volume_uuid_for(vm_uuid: str, path: str) -> str:
    return str(uuid.uuid5(_VOLUME_NAMES, f"{vm_uuid}:{path}"))


def layer_path(volume: Volume, layer_uuid: str) -> str:
    return str(PurePosixPath(volume.directory) / f"{layer_uuid}.qcow2")


def place_disks(
    vm: Vm, cluster_uuid: str, volumes: Collection[Volume], layers: Collection[Layer]
) -> tuple[PlacedDisk, ...]:
    """Every snapshot disk of the VM with its volume; new volumes are made up here, not stored.

    Raises:
        Refused: DISK_DRIFTED when a disk is on one of our layers that is not its volume's head, or on a file in our
            directories that no row knows.
    """
    volume_of = {volume.uuid: volume for volume in volumes}
    layer_at = {layer.path: layer for layer in layers}
    placed: list[PlacedDisk] = []
    for disk in vm.snapshot_disks:
        layer = layer_at.get(disk.path)
        if layer is None:
            placed.append(_adopt(vm, disk, cluster_uuid))
            continue
        volume = volume_of[layer.volume_uuid]
        if volume.head_layer_uuid != layer.uuid:
            head = next(other.path for other in layers if other.uuid == volume.head_layer_uuid)
            raise Refused(
                ErrorCase.DISK_DRIFTED,
                f"disk {disk.target} of {vm.described} is on {disk.path}, a frozen layer; its head is {head}",
            )
        # a disk may have been given another target since: what counts is where its file is now
        placed.append(PlacedDisk(disk, replace(volume, target=disk.target), layer, known=True))
    return tuple(placed)


def _adopt(vm: Vm, disk: Disk, cluster_uuid: str) -> PlacedDisk:
    path = PurePosixPath(disk.path)
    if is_our_directory(path.parent.name):
        raise Refused(
            ErrorCase.DISK_DRIFTED, f"disk {disk.target} of {vm.described} is on {disk.path}, which no record knows"
        )
    volume_uuid = volume_uuid_for(vm.uuid, disk.path)
    layer = Layer(
        uuid=str(uuid.uuid5(_VOLUME_NAMES, f"{vm.uuid}:{disk.path}:base")),
        volume_uuid=volume_uuid,
        parent_uuid=None,
        path=disk.path,
        format=disk.format,
        foreign=True,
    )
    directory = str(path.parent / f"stillframe-{cluster_uuid}")
    return PlacedDisk(disk, Volume(volume_uuid, vm.uuid, disk.target, layer.uuid, directory), layer, known=False)


def check_no_drift(world: World, vm: Vm, placed: Collection[PlacedDisk], layers: Collection[Layer]) -> None:
    """No disk is on a file of somebody else's that backs on a layer of ours.

    libvirt's own snapshots make such files; dropping or merging what they stand on would destroy them.

    Raises:
        Refused: DISK_DRIFTED, IMAGE_REFUSED.
        Failed: STORAGE_FAILED.
    """
    ours = {layer.path for layer in layers}
    for disk in placed:
        if disk.known:
            continue
        below = ours.intersection(info.path for info in whole_chain(world, vm, disk.disk.target, disk.layer))
        if below:
            raise Refused(
                ErrorCase.DISK_DRIFTED,
                f"disk {disk.disk.target} of {vm.described} is on {disk.disk.path}, which somebody put on "
                f"{min(below)}; merge it back (virsh blockcommit --active --pivot) first",
            )


def whole_chain(world: World, vm: Vm, target: str, layer: Layer) -> tuple[ImageInfo, ...]:
    """A layer's file and all that it stands on, topmost first: they are all there, and each may be opened.

    Raises:
        Refused: IMAGE_REFUSED; DISK_DRIFTED when one does not exist. Both name VM and disk.
        Failed: STORAGE_FAILED when one could not be looked at.
    """
    with naming_the_disk(vm, target):
        found = world.volumes.probe_chain(layer.path, layer.format)
    if not found or found[-1].backing_path:
        missing = f"{layer.path}, which it needs," if not found else f"a file that {layer.path} stands on"
        raise Refused(ErrorCase.DISK_DRIFTED, f"disk {target} of {vm.described}: {missing} does not exist")
    return found


def check_place(world: World, vm: Vm, volume: Volume) -> None:
    """Layers of this volume can be made where they belong.

    Raises:
        Refused: IMAGE_REFUSED: something else is in that place.
        Failed: STORAGE_FAILED: the service may not write there.
    """
    with naming_the_disk(vm, volume.target):
        world.volumes.check_directory(volume.directory)


def check_startable(world: World, vm: Vm) -> None:
    """QEMU may open every image file that the VM's next start would use; asked before it is started on our behalf.

    A file that does not exist is QEMU's to complain of.

    Raises:
        Refused: IMAGE_REFUSED.
        Failed: STORAGE_FAILED when a file could not be looked at.
    """
    for disk in vm.saved_disks:
        if disk.source is SourceKind.FILE and disk.format in FORMATS:
            with naming_the_disk(vm, disk.target):
                world.volumes.probe_chain(disk.path, disk.format)


@contextmanager
def naming_the_disk(vm: Vm, target: str) -> Iterator[None]:
    """What is wrong with an image is said together with whose it is."""
    try:
        yield
    except (Refused, Failed) as error:
        raise type(error)(error.case, f"disk {target} of {vm.described}: {error.desc}") from error


def check_unused(world: World, vm_uuid: str, path: str) -> None:
    """Neither the running VM nor its saved definition is on this file, which is about to go.

    Raises:
        Failed: DISK_DRIFTED.
    """
    vm = world.inventory.get_vm(vm_uuid)
    if any(disk.path == path for disk in (*vm.disks, *vm.saved_disks)):
        raise Failed(ErrorCase.DISK_DRIFTED, f"{vm.described} is on {path} again; it was kept")
