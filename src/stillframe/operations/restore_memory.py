"""The last part of a rollback with memory: the guest runs from the saved memory, or it is said why not.

Memory belongs to the disks as they were at its moment. So it is restored onto overlays that hold nothing yet, and onto no
others: a guest that ran there has moved on, whoever started it.

Where it can be, it is restored lazily: the guest runs at once, its memory comes from the file as it touches it. That needs a
file which this service has hashed before and which is unchanged since by the file system's word; its contents are read again
behind the guest's back, and it is stopped should they not be right (lending.py). Else the file is read as a whole, twice: to
check it, and to load it.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.domain.vm import Vm
from stillframe.operations.steps import Scratch
from stillframe.operations.world import World
from stillframe.ports.hypervisor import SavedConfiguration

log = logging.getLogger(__name__)
_CHECKED = "checked"
_IMAGE = "image"  # what a lazy restore is ready to start from


@dataclass(frozen=True)
class Restoration:
    """Which memory, and onto which configuration with its fresh overlays."""

    memory_uuid: str
    checksum: str
    configuration: SavedConfiguration

    @property
    def vm_uuid(self) -> str:
        return self.configuration.vm_uuid


def check(world: World, memory_uuid: str, checksum: str, scratch: Scratch) -> None:
    """The memory file is whole, or ``scratch["refusal"]`` says that it was damaged behind the file system's back."""
    try:
        world.memory_store.verify(memory_uuid, checksum)
    except StillframeError as error:
        # past the point of no return the disks go forward without the memory; the caller gets this at the end
        scratch.refuse(error)
    else:
        scratch[_CHECKED] = True


def prepare(world: World, wanted: Restoration, scratch: Scratch) -> None:
    """A lazy restore is ready to begin, where one is possible; ``drop_prepared`` takes that back."""
    store = world.memory_store
    if not world.limits.lazy_restore or not store.is_unchanged(wanted.memory_uuid):
        return
    path, image = store.capture_path(wanted.memory_uuid), store.lazy_path(wanted.memory_uuid)
    try:
        if world.keeper.prepare_lazily(path, image, wanted.configuration):
            scratch[_IMAGE] = image
    except StillframeError as error:
        # it is the quicker way, no more: a full disk has room for a whole restore
        log.warning("the memory of VM %s is going to be loaded as a whole: %s", wanted.vm_uuid, error.desc)


def drop_prepared(world: World, memory_uuid: str) -> None:
    world.memory_store.drop_lazy_file(memory_uuid)


def is_lazy(scratch: Scratch) -> bool:
    return _IMAGE in scratch


def restore(world: World, wanted: Restoration, scratch: Scratch) -> None:
    """The guest runs from this memory. Else ``scratch["refusal"]`` says why, and the VM is off, or it is as it was found:
    started by somebody else.
    """
    try:
        if _has_to_be_restored(world, wanted, scratch) and not _restore_lazily(world, wanted, scratch):
            _restore_whole(world, wanted, scratch)
        if world.inventory.get_vm(wanted.vm_uuid).lives_on == wanted.memory_uuid:  # maybe since before an interruption
            world.guard.watch_over(wanted.vm_uuid, wanted.memory_uuid, wanted.checksum)
    finally:
        drop_prepared(world, wanted.memory_uuid)


def _restore_lazily(world: World, wanted: Restoration, scratch: Scratch) -> bool:
    """False: the VM is off, and its memory has to be loaded as a whole."""
    if "refusal" in scratch:
        return True  # the file is damaged, and it has been said
    if is_lazy(scratch) and not world.memory_store.is_unchanged(wanted.memory_uuid):
        del scratch[_IMAGE]
        log.warning("the memory file %s of VM %s was touched: it is read first", wanted.memory_uuid, wanted.vm_uuid)
        check(world, wanted.memory_uuid, wanted.checksum, scratch)
        if "refusal" in scratch:
            return True
    if not is_lazy(scratch):
        prepare(world, wanted, scratch)  # an interrupted run had
    if not is_lazy(scratch):
        return False
    return _start_lazily(world, wanted, scratch, scratch.pop(_IMAGE))


def _start_lazily(world: World, wanted: Restoration, scratch: Scratch, image: str) -> bool:
    """As ``_restore_lazily``, from what was prepared."""
    path = world.memory_store.capture_path(wanted.memory_uuid)
    for last in (False, True):
        try:
            world.keeper.restore(path, wanted.configuration, image)
        except StillframeError as error:
            if _runs_restored(world, wanted, world.inventory.get_vm(wanted.vm_uuid)):
                return True  # only the reply was lost
            world.power.ensure_off(wanted.vm_uuid)
            # what it had begun to write it wrote on from that memory: onto such disks it may not come back
            if _is_refused_as_written(world, wanted, error, scratch):
                return True
            # the adapter asks more of the second start of a VM than of its first
            then = "its memory is loaded" if last else "once more"
            log.warning("VM %s could not be restored lazily, %s: %s", wanted.vm_uuid, then, error.desc)
        else:
            return True
    return False


def _is_refused_as_written(world: World, wanted: Restoration, error: StillframeError, scratch: Scratch) -> bool:
    written = _is_written(world, wanted)
    if written:
        scratch.refuse(Failed(ErrorCase.MEMORY_RESTORE_FAILED, error.desc))
    return written


def _restore_whole(world: World, wanted: Restoration, scratch: Scratch) -> None:
    if _CHECKED not in scratch and "refusal" not in scratch:  # an interrupted run had switched off already
        check(world, wanted.memory_uuid, wanted.checksum, scratch)
    if "refusal" in scratch:
        return
    path = world.memory_store.capture_path(wanted.memory_uuid)
    for last in (False, True):
        try:
            world.keeper.restore(path, wanted.configuration)
        except StillframeError as error:
            if _runs_restored(world, wanted, world.inventory.get_vm(wanted.vm_uuid)):
                return  # only the reply was lost
            world.power.ensure_off(wanted.vm_uuid)
            # past the point of no return the disks go forward without the memory; the caller gets this at the end
            if _is_refused_as_written(world, wanted, error, scratch):
                return
            if last:
                scratch.refuse(Failed(ErrorCase.MEMORY_RESTORE_FAILED, error.desc))
                return
            # what fails here once is often a port that another program took a moment before
            log.warning("restoring VM %s failed, once more: %s", wanted.vm_uuid, error.desc)
        else:
            return


def _has_to_be_restored(world: World, wanted: Restoration, scratch: Scratch) -> bool:
    """The VM is off on untouched disks. Else the memory is there already, or may not be restored any more."""
    vm = world.inventory.get_vm(wanted.vm_uuid)
    if not vm.state.has_process and not _is_written(world, wanted):
        return True
    if _runs_restored(world, wanted, vm):
        return False
    if vm.state.has_process and _was_restored(world, wanted):
        world.power.ensure_off(wanted.vm_uuid)  # an interrupted restore: it never ran
        return True
    if vm.state.has_process:
        why = f"{vm.described} was started from outside before; it is {vm.state.value}, and goes on as it is"
    else:
        why = f"{vm.described} has run on the rolled-back disks before, and is off again; what it wrote is kept"
    scratch.refuse(Failed(ErrorCase.MEMORY_NOT_RESTORED, f"the saved memory was not restored: {why}"))
    return False


def _runs_restored(world: World, wanted: Restoration, vm: Vm) -> bool:
    """A guest that runs from this memory, or has and stands still now because its owner paused it."""
    return vm.state.has_process and _was_restored(world, wanted) and (vm.state.is_running or _is_written(world, wanted))


def _was_restored(world: World, wanted: Restoration) -> bool:
    return world.keeper.was_restored(wanted.vm_uuid, world.memory_store.capture_path(wanted.memory_uuid))


def _is_written(world: World, wanted: Restoration) -> bool:
    return any(world.volumes.probe_written(path) for path, _format in wanted.configuration.disk_paths.values())
