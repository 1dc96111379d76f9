"""Files with our names that no row and no unfinished operation owns; and the proof that nobody uses one. Looks only.

The rows are read before and after the files are listed: a file that an operation made or removed meanwhile is no orphan.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from pathlib import PurePosixPath

from stillframe.domain.errors import StillframeError
from stillframe.domain.findings import Finding, FindingKind
from stillframe.domain.layers import Layer
from stillframe.domain.vm import Disk, Vm
from stillframe.operations.images import Images, file_disks
from stillframe.operations.records import Known, read_all
from stillframe.operations.requests import Cluster
from stillframe.operations.wording import describe
from stillframe.operations.world import Sight
from stillframe.ports.memory_store import StoredFile, StoredKind
from stillframe.ports.volumes import ImageInfo, OwnedFile


class Uses:
    """Which files are read by whom, as far as can be seen.

    ``doubts`` are looks that failed: while there is one, no absence is proved.
    """

    def __init__(self, known: Known, images: Images) -> None:
        self.known = known
        self.images = images
        self.doubts: list[str] = []
        self._readers: dict[str, str] = {}

    def reader_of(self, path: str, info: ImageInfo | None = None) -> str:
        """Who reads this file, by this name or by where it lies; "" for nobody that was seen."""
        return self._readers.get(path, "") or (self._readers.get(info.real_path, "") if info is not None else "")

    def add(self, reader: str, *paths: str) -> None:
        for path in paths:
            self._readers.setdefault(path, reader)

    def add_images(self, reader: str, images: Collection[ImageInfo]) -> None:
        for info in images:
            self.add(reader, info.path, info.real_path)


def uses_of_files(world: Sight, known: Known, images: Images) -> Uses:
    """Every file that a VM of libvirt reads, running or at its next start, or that one of our layers stands on.

    Raises:
        StillframeError: the hypervisor could not be asked.
    """
    uses = Uses(known, images)
    for vm in world.inventory.list_vms():
        if vm.unreadable:
            uses.doubts.append(f"which disks {vm.described} has is not known: {vm.unreadable}")
        for disk in file_disks(vm):
            try:
                _add_disk(world, uses, vm, disk)
            except StillframeError as error:
                uses.doubts.append(f"what disk {disk.target} of {vm.described} reads is not known: {describe(error)}")
    for layer, _vm in known.layers.values():
        _add_layer(uses, layer)
    return uses


def _add_disk(world: Sight, uses: Uses, vm: Vm, disk: Disk) -> None:
    uses.add(vm.described, disk.path)
    if disk.path not in uses.known.layers:  # else its rows say what it stands on, and its header below
        uses.add_images(vm.described, uses.images.follow(disk.path, disk.format))
    if vm.state.has_process and disk in vm.disks and not disk.is_removable:
        uses.add(vm.described, *world.inventory.active_chain(vm.uuid, disk.target))


def _add_layer(uses: Uses, layer: Layer) -> None:
    try:
        info = uses.images.probe(layer.path, layer.format)
    except StillframeError:
        return  # nobody reads anything through it, and what it should stand on is in the rows
    if info is None or not info.backing_path:
        return
    uses.add(info.path, info.backing_path)
    try:
        uses.add_images(info.path, uses.images.follow(info.backing_path, info.backing_format or "raw"))
    except StillframeError as error:
        if info.backing_path not in uses.known.layers:
            uses.doubts.append(f"what {info.backing_path} stands on is not known: {describe(error)}")


def find_orphans(world: Sight, cluster: Cluster) -> list[Finding]:
    """Every file of ours that nobody owns; those of layers so that whoever stands on another comes first."""
    before = read_all(world)
    found: list[Finding] = []
    unseen = ""
    try:
        vms = world.inventory.list_vms()
    except StillframeError as error:
        unseen = f"whether a guest lives on it is not known: {describe(error)}"
        vms = []  # their directories are not known then, and nothing that is found in others may be deleted
    listed = list(_owned_files(world, _directories(cluster, before, vms), found))
    lent: Collection[str] = ()
    try:
        stored, lent = world.memory_store.list_owned(), world.memory_store.lent().keys()
    except StillframeError as error:
        stored = []
        found.append(Finding(FindingKind.NOT_LOOKED_AT, desc=f"the memory store: {describe(error)}"))
    after = read_all(world, since=before.newest)
    ownerless = [file for file in listed if not any(_is_layer(file, known) for known in (before, after))]
    found += _orphan_layers(world, after, vms, ownerless)
    unseen = unseen or next(
        (f"{vm.described} cannot be looked at" for vm in vms if vm.unreadable or vm.may_live_on_any), ""
    )
    lived_on = {vm.lives_on: f"the memory of {vm.described} is in it" for vm in vms if vm.lives_on}
    for file in stored:
        if file.uuid not in lent and not any(_is_stored(file, known) for known in (before, after)):
            doubt = lived_on.get(file.uuid, unseen) if file.kind is StoredKind.MEMORY else ""
            found.append(_orphan_file(file, doubt))
    return found


def _directories(cluster: Cluster, known: Known, vms: Collection[Vm]) -> list[str]:
    """Where this cluster's layers lie or could lie: beside every disk that was, or may have been, adopted."""
    name = f"stillframe-{cluster.uuid}"
    candidates = {PurePosixPath(directory) for directory in known.directories}
    parents = {PurePosixPath(path).parent for path in known.layers}
    parents |= {PurePosixPath(disk.path).parent for vm in vms for disk in file_disks(vm)}
    candidates |= {parent if parent.name == name else parent / name for parent in parents}
    return sorted(str(candidate) for candidate in candidates if candidate.name == name)


def _owned_files(world: Sight, directories: Collection[str], found: list[Finding]) -> Iterator[OwnedFile]:
    for directory in directories:
        try:
            yield from world.volumes.list_owned(directory)
        except StillframeError as error:
            found.append(Finding(FindingKind.NOT_LOOKED_AT, path=directory, desc=describe(error)))


def _is_layer(file: OwnedFile, known: Known) -> bool:
    return known.named(file.uuid) or (not file.unfinished and file.path in known.layers)


def _is_stored(file: StoredFile, known: Known) -> bool:
    owners = known.memory if file.kind is StoredKind.MEMORY else known.screenshots
    return known.named(file.uuid) or (not file.unfinished and file.uuid in owners)


def _orphan_file(file: StoredFile, doubt: str) -> Finding:
    """``doubt``: why a guest may live on it."""
    kind = FindingKind.ORPHAN_MEMORY if file.kind is StoredKind.MEMORY else FindingKind.ORPHAN_SCREENSHOT
    desc = doubt or ("its writing was cut off" if file.unfinished else "")
    return Finding(kind, path=file.path, uuid=file.uuid, size_bytes=file.size_bytes, desc=desc, repairable=not doubt)


# --- layer files


@dataclass(frozen=True)
class _Orphan:
    """A file without a row. ``info`` is None for one that cannot be read as an image; ``doubt`` says why it must stay."""

    file: OwnedFile
    info: ImageInfo | None
    doubt: str = ""


def _orphan_layers(world: Sight, known: Known, vms: Collection[Vm], files: Collection[OwnedFile]) -> list[Finding]:
    images = Images(world.volumes)
    orphans = [orphan for file in files if (orphan := _judge(known, images, file)) is not None]
    if not orphans:
        return []
    uses = Uses(known, images)
    try:
        uses = uses_of_files(world, known, images)
    except StillframeError as error:
        uses.doubts.append(f"the hypervisor cannot be asked: {describe(error)}")
    owners = _owners(known, vms)
    return [
        Finding(
            FindingKind.UNFINISHED_LAYER if orphan.file.unfinished else FindingKind.ORPHAN_LAYER,
            vm_uuid=(owner := _owner(orphan, images, owners))[0],
            vm_name=owner[1],
            path=orphan.file.path,
            uuid=orphan.file.uuid,
            size_bytes=orphan.file.size_bytes,
            desc=orphan.doubt or (f"it stands on {orphan.info.backing_path}" if orphan.info is not None else ""),
            repairable=not orphan.doubt,
        )
        for orphan in _in_safe_order([_doubted(orphan, uses) for orphan in orphans])
    ]


def _judge(known: Known, images: Images, file: OwnedFile) -> _Orphan | None:
    """Whether Stillframe made it; None when it has gone since it was listed."""
    if file.unfinished:
        return _Orphan(file, None)
    try:
        info = images.probe(file.path, "qcow2")
    except StillframeError as error:
        return _Orphan(file, None, f"it cannot be told whether Stillframe made it: {describe(error)}")
    if info is None:
        return None
    if file.uuid in known.layer_uuids:
        return _Orphan(file, info, "the layer of this name lies elsewhere: somebody copied or moved it")
    directory = PurePosixPath(file.path).parent
    if not info.backing_path or PurePosixPath(info.backing_path).parent not in (directory, directory.parent):
        # a layer of ours always stands on another one, or on the adopted file beside the directory
        backing = f"it stands on {info.backing_path}" if info.backing_path else "it stands on no other file"
        return _Orphan(file, info, f"{backing}, as no layer of Stillframe's does")
    return _Orphan(file, info)


def _doubted(orphan: _Orphan, uses: Uses) -> _Orphan:
    if orphan.doubt:
        return orphan
    reader = uses.reader_of(orphan.file.path, orphan.info)
    if reader:
        return replace(orphan, doubt=f"it is in use by {reader}")
    return replace(orphan, doubt=uses.doubts[0]) if uses.doubts else orphan


def _in_safe_order(orphans: list[_Orphan]) -> list[_Orphan]:
    """Whoever stands on another comes before it; who is stood on by one that must stay must stay, too."""
    waiting, ordered = list(orphans), []
    while waiting:
        stood_on = {o.info.backing_path for o in waiting if o.info is not None and o.info.backing_path != o.file.path}
        free = [o for o in waiting if o.file.path not in stood_on] or waiting  # a ring of files: none is free
        ordered += free
        waiting = [o for o in waiting if o not in free]
    kept_by: dict[str, str] = {}
    found: list[_Orphan] = []
    for orphan in ordered:
        doubt = orphan.doubt or kept_by.get(orphan.file.path, "")
        if doubt and orphan.info is not None and orphan.info.backing_path:
            kept_by[orphan.info.backing_path] = f"it is in use by {orphan.file.path}, which stays"
        found.append(replace(orphan, doubt=doubt))
    return found


def _owners(known: Known, vms: Collection[Vm]) -> dict[str, tuple[str, str]]:
    """Path -> uuid and name of the VM whose disk it is, by rows first."""
    names = {vm.uuid: vm.name for vm in vms}
    found = {path: (vm_uuid, names.get(vm_uuid, "")) for path, (_layer, vm_uuid) in known.layers.items()}
    for vm in vms:
        for disk in file_disks(vm):
            found.setdefault(disk.path, (vm.uuid, vm.name))
    return found


def _owner(orphan: _Orphan, images: Images, owners: dict[str, tuple[str, str]]) -> tuple[str, str]:
    """The VM that the file was made for, by what it stands on; empty when that does not tell."""
    if orphan.info is None:
        return "", ""
    try:
        below = images.follow(orphan.info.backing_path, orphan.info.backing_format or "raw")
    except StillframeError:
        below = ()
    paths = (orphan.info.backing_path, *(info.path for info in below))
    return next((owners[path] for path in paths if path in owners), ("", ""))
