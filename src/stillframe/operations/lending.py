"""Guests that live on a memory file (``Vm.lives_on``): the file is read behind their back, and stays as long as they need it.

They run before their memory was checked. So it is checked then, a little at a time, which warms it too; a guest whose file
turns out to be damaged is stopped where it stands, and a task that failed says why. A service that ends meanwhile begins
again at its next start, also with guests that are known to live on damaged memory.

What is deleted while a guest lives on it is lent: it goes when the guest is off, and no saved state of it is left.
"""

from __future__ import annotations

import itertools
import logging
import threading
import time
from collections.abc import Callable
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
_AT_WORK = 2
_SAID_AFTER = 3
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 1.0, 60.0


def drop_or_lend(world: World, vm_uuid: str, memory_uuid: str, checksum: str) -> None:
    """Of a memory state that nothing refers to any more: its file is gone, or lent to the guest that lives on it. Repeatable.

    Raises:
        StillframeError: whether one does cannot be told now; the file is as it was.
    """
    try:
        vm = world.inventory.get_vm(vm_uuid)
        is_lived_on = vm.lives_on == memory_uuid or vm.may_live_on_any
    except Refused as error:
        if error.case is not ErrorCase.VM_UNKNOWN:
            raise
        is_lived_on = False
    if is_lived_on:
        world.memory_store.lend(memory_uuid, checksum)
    else:
        world.memory_store.ensure_dropped(memory_uuid)


def drop_unneeded(world: World) -> None:
    """Lent files that nobody lives on any more are gone. While one VM cannot be looked at, all of them stay.

    Raises:
        StillframeError: the hypervisor, the rows or the store could not be asked.
    """
    lent = world.memory_store.lent()
    if not lent:
        return
    vms = world.inventory.list_vms()
    if unseen := [vm.described for vm in vms if vm.unreadable or vm.may_live_on_any]:
        log.info("lent memory files stay, because it cannot be told whether %s need them", ", ".join(unseen))
        return
    for memory_uuid in lent.keys() - {vm.lives_on for vm in vms}:
        with world.metadata.read() as tx:
            is_referred_to = tx.snapshots.has_memory(memory_uuid)
        if is_referred_to:  # by a database that was put back from a backup
            world.memory_store.take_back(memory_uuid)
            continue
        log.info("nobody lives on memory state %s any more: its file goes", memory_uuid)
        world.memory_store.ensure_dropped(memory_uuid)


class Lender:
    """``Guard`` of operations/world.py: a thread for each guest whose memory is being checked, a few at work at a time."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._stopped = threading.Event()
        self._asked: dict[tuple[str, str], int] = {}  # (VM, memory) -> how often a check was asked for since it began
        self._lock = threading.Lock()
        self._at_work = threading.Semaphore(_AT_WORK)

    def belong_to(self, world: World) -> None:
        """Before anything else: a world has its guard in it."""
        self._world = world

    def start(self) -> None:
        """Guests that an earlier service had restored, and may not have checked to the end, are checked. Returns at once."""
        threading.Thread(target=self._begin_again, name="lender", daemon=True).start()

    def _begin_again(self) -> None:
        """Until every VM could be seen."""
        while not self._stopped.is_set():
            try:
                vms = self._its_world().inventory.list_vms()
                for vm in vms:
                    if vm.lives_on:
                        self._watch_again(vm)
                if not any(vm.unreadable for vm in vms):
                    return
            except StillframeError as error:
                log.warning(
                    "which guests live on memory files could not be seen, it is tried again: %s", describe(error)
                )
            self._stopped.wait(_LONGEST_PAUSE_S)

    def _watch_again(self, vm: Vm) -> None:
        world = self._its_world()
        with world.metadata.read() as tx:
            memories = [snapshot.memory for snapshot in tx.snapshots.of_vm(vm.uuid) if snapshot.memory]
        checksums = {memory.uuid: memory.checksum for memory in memories if memory.status is MemoryStatus.AVAILABLE}
        checksum = checksums.get(vm.lives_on) or world.memory_store.lent().get(vm.lives_on)
        if checksum:
            self.watch_over(vm.uuid, vm.lives_on, checksum)

    def stop(self) -> None:
        """Checks end as soon as they notice."""
        self._stopped.set()

    def watch_over(self, vm_uuid: str, memory_uuid: str, checksum: str) -> None:
        about = (vm_uuid, memory_uuid)
        with self._lock:
            is_under_way = about in self._asked
            self._asked[about] = self._asked.get(about, 0) + 1
        if not is_under_way:
            name = f"check-{memory_uuid[:8]}"
            threading.Thread(target=self._check_all, args=(about, checksum), name=name, daemon=True).start()

    def _check_all(self, about: tuple[str, str], checksum: str) -> None:
        """Until nobody has asked for another one meanwhile."""
        done = 0
        while True:
            with self._lock:
                if self._asked[about] == done or self._stopped.is_set():
                    del self._asked[about]
                    return
                done = self._asked[about]
            try:
                self._check(*about, checksum)
            except Exception:
                log.exception("the memory of VM %s could not be checked", about[0])

    def _check(self, vm_uuid: str, memory_uuid: str, checksum: str) -> None:
        world = self._its_world()
        pause_s = _FIRST_PAUSE_S
        for failures in itertools.count(1):
            try:
                if world.inventory.get_vm(vm_uuid).lives_on != memory_uuid:
                    return
                with self._at_work:
                    if world.memory_store.check_slowly(
                        memory_uuid, checksum, goes_on=self._goes_on(vm_uuid, memory_uuid)
                    ):
                        log.info("memory state %s: checked behind its guest, it is whole", memory_uuid)
                return
            except StillframeError as error:
                if error.case is ErrorCase.VM_UNKNOWN:
                    return
                if error.case is ErrorCase.MEMORY_DAMAGED:
                    self._keep_paused(vm_uuid, memory_uuid, error)
                    return
                log.warning("the memory of VM %s could not be checked, it is tried again: %s", vm_uuid, describe(error))
                if failures == _SAID_AFTER:
                    _note(world, vm_uuid, memory_uuid, f"its memory cannot be checked: {describe(error)}")
            if self._stopped.wait(pause_s):
                return
            pause_s = min(_LONGEST_PAUSE_S, 2 * pause_s)

    def _goes_on(self, vm_uuid: str, memory_uuid: str) -> Callable[[], bool]:
        """Whether the guest still lives on the file, asked of libvirt now and then."""
        world = self._its_world()
        asked_s = time.monotonic()

        def goes_on() -> bool:
            nonlocal asked_s
            if self._stopped.is_set():
                return False
            if time.monotonic() - asked_s < _ASKED_EVERY_S:
                return True
            asked_s = time.monotonic()
            return world.inventory.get_vm(vm_uuid).lives_on == memory_uuid

        return goes_on

    def _keep_paused(self, vm_uuid: str, memory_uuid: str, damage: StillframeError) -> None:
        """Until no operation is under way that had stopped the guest, too, and lets it run on."""
        world = self._its_world()
        is_said = False
        while True:
            try:
                if not world.power.ensure_paused(vm_uuid, memory_uuid):
                    return
                if not is_said:
                    log.error("VM %s is paused, because its memory is damaged: %s", vm_uuid, describe(damage))
                    _note(
                        world,
                        vm_uuid,
                        memory_uuid,
                        f"it is paused: {describe(damage)}; roll it back to another snapshot",
                    )
                    is_said = True
                with world.metadata.read() as tx:
                    if not tx.journal.active([vm_uuid]):
                        world.power.ensure_paused(vm_uuid, memory_uuid)
                        return
            except StillframeError as error:
                if error.case is ErrorCase.VM_UNKNOWN:
                    return
                log.exception("VM %s lives on damaged memory and could not be paused: it is tried again", vm_uuid)
            if self._stopped.wait(_FIRST_PAUSE_S):
                return

    def _its_world(self) -> World:
        if self._world is None:
            raise RuntimeError("a guard belongs to a world before it is asked for anything")
        return self._world


def _note(world: World, vm_uuid: str, memory_uuid: str, words: str) -> None:
    """A task that has failed, for whoever looks what became of the guest."""
    vm = world.inventory.get_vm(vm_uuid)
    with world.metadata.write() as tx:
        named = [s.name for s in tx.snapshots.of_vm(vm.uuid) if s.memory and s.memory.uuid == memory_uuid]
        row = ended_row(world, About(vm.uuid, vm.name, vm.tenant, named[0] if named else ""), KIND)
        tx.journal.open(replace(row, state=OperationState.UNDONE, error=f"{vm.described}: {words}"))
