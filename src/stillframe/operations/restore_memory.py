"""The last part of a rollback with memory: the guest runs from the saved memory, or it is said why not.

Memory belongs to the disks as they were at its moment. So it is restored onto overlays that hold nothing yet, and onto no
others: a guest that ran there has moved on, whoever started it.
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


def restore(world: World, wanted: Restoration, scratch: Scratch) -> None:
    """The guest runs from this memory. Else ``scratch["refusal"]`` says why, and the VM is off, or it is as it was found:
    started by somebody else.
    """
    if not _has_to_be_restored(world, wanted, scratch):
        return
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
            if last or _is_written(world, wanted):
                # past the point of no return the disks go forward without the memory; the caller gets this at the end
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
