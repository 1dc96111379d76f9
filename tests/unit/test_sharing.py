"""With which earlier memory state a new one is stored, and that nothing else hangs on it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from stillframe.domain.errors import ErrorCase, Failed
from stillframe.domain.snapshot import CaptureMode, MemoryState, MemoryStatus, SnapshotCard
from stillframe.operations.sharing import Sharer, plan_neighbour
from support.service import eventually

_SAVED, _SAVING, _FAILED = MemoryStatus.AVAILABLE, MemoryStatus.SAVING, MemoryStatus.FAILED


def tree(*nodes: tuple[str, str | None, MemoryStatus | None]) -> list[SnapshotCard]:
    """(uuid, parent, memory's status or None for disks alone) in order of creation; the memory's uuid is "m-" and the snapshot's."""
    return [
        SnapshotCard(
            uuid=uuid,
            seq=seq,
            name=uuid,
            description="",
            parent_uuid=parent,
            ctime=0,
            disk_bytes=0,
            screenshot_checksum="",
            memory=MemoryState(f"m-{uuid}", "", status, CaptureMode.BACKGROUND) if status else None,
        )
        for seq, (uuid, parent, status) in enumerate(nodes)
    ]


@pytest.mark.parametrize(
    ("nodes", "neighbour"),
    [
        ([("new", None, _SAVED)], None),
        ([("a", None, _SAVED), ("new", "a", _SAVED)], "m-a"),
        ([("a", None, _SAVED), ("b", "a", _SAVED), ("new", "b", _SAVING)], "m-b"),
        ([("a", None, _SAVED), ("b", "a", None), ("c", "b", _FAILED), ("new", "c", _SAVED)], "m-a"),
        ([("a", None, _SAVED), ("b", "a", _SAVED), ("new", "a", _SAVED)], "m-a"),
        ([("a", None, None), ("b", "a", _SAVED), ("c", "a", _SAVED), ("new", "a", _SAVED)], "m-c"),
        ([("a", None, _SAVING), ("new", "a", _SAVED)], None),
        ([("a", None, None), ("new", "a", _SAVED)], None),
        ([("a", None, _SAVED), ("new", "a", None)], None),
        ([("a", None, _SAVED), ("new", None, _SAVED), ("later", "new", _SAVED)], "m-a"),
        ([("other", None, _SAVED)], None),
    ],
)
def test_the_neighbour(nodes: list[tuple[str, str | None, MemoryStatus | None]], neighbour: str | None) -> None:
    assert plan_neighbour(tree(*nodes), "new") == neighbour


class FakeWorld:
    """The rows of one VM, and a store that notes what it is asked for."""

    def __init__(self, cards: list[SnapshotCard], share: Callable[..., int]) -> None:
        self.asked: list[tuple[str, str]] = []
        self.is_reading = False
        self._cards = cards
        self._share = share
        self.metadata = self.memory_store = self

    @contextmanager
    def read(self) -> Iterator[Any]:
        self.is_reading = True
        yield SimpleNamespace(snapshots=SimpleNamespace(cards=lambda _vm_uuid: (self._cards, None)))
        self.is_reading = False

    def share(self, memory_uuid: str, with_uuid: str, *, goes_on: Callable[[], bool]) -> int:
        assert not self.is_reading, "a transaction is held meanwhile"
        self.asked.append((memory_uuid, with_uuid))
        return self._share(goes_on)


CARDS = tree(("a", None, _SAVED), ("b", "a", _SAVED), ("c", "b", _SAVED))


def sharer_on(world: FakeWorld) -> Sharer:
    sharer = Sharer()
    sharer.belong_to(world)  # type: ignore[arg-type]
    return sharer


def test_what_fails_holds_up_nothing_else() -> None:
    calls = iter([Failed(ErrorCase.STORAGE_FAILED, "it was deleted"), RuntimeError("a mistake"), None])

    def share(_goes_on: Callable[[], bool]) -> int:
        if error := next(calls):
            raise error
        return 5

    world = FakeWorld(CARDS, share)
    sharer = sharer_on(world)
    for uuid in ("a", "b", "unknown", "c", "b"):
        sharer.share_soon("vm", uuid)
    eventually(lambda: len(world.asked) == 3, "all are asked for")
    assert world.asked == [("m-b", "m-a"), ("m-c", "m-b"), ("m-b", "m-a")]
    sharer.stop()


def test_it_ends_when_the_service_does() -> None:
    begun, ended = threading.Event(), threading.Event()

    def share(goes_on: Callable[[], bool]) -> int:
        begun.set()
        while goes_on():
            time.sleep(0.001)
        ended.set()
        return 0

    world = FakeWorld(CARDS, share)
    sharer = sharer_on(world)
    sharer.share_soon("vm", "b")
    sharer.share_soon("vm", "c")
    assert begun.wait(10)
    sharer.stop()
    assert ended.wait(10)
    sharer.share_soon("vm", "c")
    assert world.asked == [("m-b", "m-a")]
