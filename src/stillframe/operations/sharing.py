"""Memory states of one VM have much in common: what a guest did not touch between two of them is stored once.

It is done after the newer one was sealed, behind everything: no guest stands still for it, no slot of a VM and no transaction of the
database is held, and the snapshot can be used at once. Nothing is noted: sharing changes no byte, so whatever cuts it off
leaves two whole files, which take more space than they need to. What a service that ended had not come to is not made up
for, but the next memory state of the VM is stored with this one.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from queue import SimpleQueue

from stillframe.domain.errors import StillframeError
from stillframe.domain.snapshot import MemoryStatus, SnapshotCard
from stillframe.operations.wording import describe
from stillframe.operations.world import World

log = logging.getLogger(__name__)


def plan_neighbour(cards: Sequence[SnapshotCard], snapshot_uuid: str) -> str | None:
    """The uuid of the memory state that this snapshot's has most in common with: that of its nearest ancestor which has one, because
    its guest has come from there; else the newest of the VM that is older. None when there is none.

    ``cards``: of the VM, in order of creation.
    """
    by_uuid = {card.uuid: card for card in cards}
    own = by_uuid.get(snapshot_uuid)
    if own is None or own.memory is None:
        return None
    parent = by_uuid.get(own.parent_uuid or "")
    while parent is not None:
        if memory_uuid := _saved(parent):
            return memory_uuid
        parent = by_uuid.get(parent.parent_uuid or "")
    earlier = (_saved(card) for card in reversed(cards) if card.seq < own.seq)
    return next((memory_uuid for memory_uuid in earlier if memory_uuid), None)


def _saved(card: SnapshotCard) -> str | None:
    memory = card.memory
    return memory.uuid if memory is not None and memory.status is MemoryStatus.AVAILABLE else None


class Sharer:
    """``Sharing`` of operations/world.py: one thread, which has one memory state after the other shared."""

    def __init__(self) -> None:
        self._world: World | None = None
        self._stopped = threading.Event()
        self._asked: SimpleQueue[tuple[str, str]] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._lock = threading.Lock()

    def belong_to(self, world: World) -> None:
        """Before anything else: a world has its sharing in it."""
        self._world = world

    def share_soon(self, vm_uuid: str, snapshot_uuid: str) -> None:
        self._asked.put((vm_uuid, snapshot_uuid))
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="sharer", daemon=True)
                self._thread.start()

    def stop(self) -> None:
        """What is under way ends as soon as it notices; what is asked for afterwards is not done."""
        self._stopped.set()

    def _run(self) -> None:
        while True:
            asked = self._asked.get()
            if self._stopped.is_set():
                return
            try:
                self._share(*asked)
            except StillframeError as error:
                # it is deleted, say: it costs space, no more
                log.info("the memory of snapshot %s is stored by itself: %s", asked[1], describe(error))
            except Exception:
                log.exception("the memory of snapshot %s could not be shared", asked[1])

    def _share(self, vm_uuid: str, snapshot_uuid: str) -> None:
        world = self._world
        if world is None:
            raise RuntimeError("a sharer belongs to a world before it is asked for anything")
        with world.metadata.read() as tx:
            cards, _head = tx.snapshots.cards(vm_uuid)
        neighbour = plan_neighbour(cards, snapshot_uuid)
        own = next((card.memory for card in cards if card.uuid == snapshot_uuid), None)
        if neighbour is None or own is None:
            return
        shared = world.memory_store.share(own.uuid, neighbour, goes_on=lambda: not self._stopped.is_set())
        if shared:
            log.info("memory state %s shares %d bytes with %s", own.uuid, shared, neighbour)
