"""Guests that live on a memory file (``Vm.lives_on``): the file is read behind their back, and stays as long as they need it.

They run before their memory was checked. So it is checked then, a little at a time, which warms it too; a guest whose file
turns out to be damaged is stopped where it stands, and a task that failed says why. A service that ends meanwhile begins
again at its next start.

What is deleted while a guest lives on it is lent: it goes when the guest is off, and no saved state of it is left.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.domain.snapshot import MemoryStatus
from stillframe.domain.vm import Vm
from stillframe.operations.rows import About, ended_row
from stillframe.operations.wording import describe
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationState

log = logging.getLogger(__name__)
KIND = "check_memory"
_ASKED_EVERY_S = 5.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


def drop_or_lend(world: World, vm_uuid: str, memory_uuid: str) -> None:
    """Of a memory state that nothing refers to any more: its file is gone, or lent to the guest that lives on it. Repeatable.

    Raises:
        StillframeError: whether one does cannot be told now; the file is as it was.
    """
    try:
        is_lived_on = world.inventory.get_vm(vm_uuid).lives_on == memory_uuid
    except Refused as error:
        if error.case is not ErrorCase.VM_UNKNOWN:
            raise
        is_lived_on = False
    if is_lived_on:
        world.memory_store.lend(memory_uuid)
    else:
        world.memory_store.ensure_dropped(memory_uuid)


def drop_unneeded(world: World) -> None:
    """Lent files that nobody lives on any more are gone. While one VM cannot be looked at, all of them stay.

    Raises:
        StillframeError: the hypervisor or the store could not be asked.
    """
    lent = world.memory_store.lent()
    if not lent:
        return
    vms = world.inventory.list_vms()
    if any(vm.unreadable for vm in vms):
        return
    for memory_uuid in set(lent) - {vm.lives_on for vm in vms}:
        log.info("nobody lives on memory state %s any more: its file goes", memory_uuid)
        world.memory_store.ensure_dropped(memory_uuid)


class Lender:
    """``Guard`` of operations/world.py: a thread for each guest whose memory is being checked."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._stopped = threading.Event()
        self._checked: set[tuple[str, str]] = set()
        self._lock = threading.Lock()

    def belong_to(self, world: World) -> None:
        """Before anything else: a world has its guard in it."""
        self._world = world

    def start(self) -> None:
        """Guests that an earlier service had restored, and may not have checked to the end, are checked. Returns at once."""
        threading.Thread(target=self._begin_again, name="lender", daemon=True).start()

    def _begin_again(self) -> None:
        world = self._its_world()
        try:
            lived_on = [vm for vm in world.inventory.list_vms() if vm.lives_on]
        except StillframeError:
            log.exception("which guests live on memory files could not be seen: their memory is not checked")
            return
        for vm in lived_on:
            with world.metadata.read() as tx:
                memories = [snapshot.memory for snapshot in tx.snapshots.of_vm(vm.uuid) if snapshot.memory]
            for memory in memories:
                if memory.uuid == vm.lives_on and memory.status is MemoryStatus.AVAILABLE:
                    self.watch_over(vm.uuid, memory.uuid, memory.checksum)

    def stop(self) -> None:
        """Checks end as soon as they notice."""
        self._stopped.set()

    def watch_over(self, vm_uuid: str, memory_uuid: str, checksum: str) -> None:
        about = (vm_uuid, memory_uuid)
        with self._lock:
            if about in self._checked:
                return  # one that is under way reads the same file
            self._checked.add(about)
        name = f"check-{memory_uuid[:8]}"
        threading.Thread(target=self._check, args=(*about, checksum), name=name, daemon=True).start()

    def _check(self, vm_uuid: str, memory_uuid: str, checksum: str) -> None:
        try:
            pause_s = _FIRST_PAUSE_S
            while not self._is_settled(vm_uuid, memory_uuid, checksum):
                if self._stopped.wait(pause_s):
                    return
                pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)
        finally:
            with self._lock:
                self._checked.discard((vm_uuid, memory_uuid))

    def _is_settled(self, vm_uuid: str, memory_uuid: str, checksum: str) -> bool:
        """The file is whole, or the guest stands still and it is said why, or nobody lives on it; False: try again."""
        world = self._its_world()
        asked_s = time.monotonic()

        def goes_on() -> bool:
            nonlocal asked_s
            if time.monotonic() - asked_s < _ASKED_EVERY_S:
                return not self._stopped.is_set()
            asked_s = time.monotonic()
            return not self._stopped.is_set() and world.inventory.get_vm(vm_uuid).lives_on == memory_uuid

        try:
            if world.memory_store.check_slowly(memory_uuid, checksum, goes_on=goes_on):
                log.info("memory state %s: checked behind its guest, it is whole", memory_uuid)
        except StillframeError as error:
            if error.case is ErrorCase.VM_UNKNOWN:
                return True
            if error.case is not ErrorCase.MEMORY_DAMAGED:
                log.warning("the memory of VM %s could not be checked, it is tried again: %s", vm_uuid, describe(error))
                return False
            return self._has_stopped(vm_uuid, memory_uuid, error)
        return True

    def _has_stopped(self, vm_uuid: str, memory_uuid: str, damage: StillframeError) -> bool:
        world = self._its_world()
        try:
            if world.power.ensure_paused(vm_uuid, memory_uuid):
                log.error("VM %s is paused, because its memory is damaged: %s", vm_uuid, describe(damage))
                _note(world, world.inventory.get_vm(vm_uuid), memory_uuid, damage)
        except StillframeError as error:
            if error.case is ErrorCase.VM_UNKNOWN:
                return True
            log.exception("VM %s lives on damaged memory and could not be paused: it is tried again", vm_uuid)
            return False
        return True

    def _its_world(self) -> World:
        if self._world is None:
            raise RuntimeError("a guard belongs to a world before it is asked for anything")
        return self._world


def _note(world: World, vm: Vm, memory_uuid: str, damage: StillframeError) -> None:
    """A task that has failed, for whoever looks what became of the guest."""
    with world.metadata.write() as tx:
        named = [s.name for s in tx.snapshots.of_vm(vm.uuid) if s.memory and s.memory.uuid == memory_uuid]
        row = ended_row(world, About(vm.uuid, vm.name, vm.tenant, named[0] if named else ""), KIND)
        words = f"{vm.described} is paused: {describe(damage)}; roll it back to another snapshot"
        tx.journal.open(replace(row, state=OperationState.UNDONE, error=words))
