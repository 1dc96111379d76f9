"""The two kinds of VM that a crowd presses on: shut off, and a guest that runs."""

from __future__ import annotations

from collections.abc import Mapping
from random import Random
from typing import ClassVar

from fault.model import BLOCKS, Model
from fault.pressed import KEPT, Asked, Pressed, Refusals
from fault.truth import TARGETS, Bench
from stillframe.domain.errors import ErrorCase
from support.lab import virsh
from support.ledger import Sights, rows
from support.private_libvirtd import PrivateLibvirtd
from support.service import Vm

_SAVED = "SELECT snapshot, state, cancel_requested FROM operations WHERE vm_uuid = ? AND kind = 'save_memory'"
_STATUS_OF_SAVING = {"done": "available", "undone": "failed"}
_WITHOUT_SLOT = {"modify": 3, "cancel": 2, "list": 2, "get": 2, "tree": 2, "tasks": 1}

_SLOT = (ErrorCase.VM_BUSY, ErrorCase.CANCELLED)  # another request was first; somebody wanted it undone

_REFUSALS: Refusals = {
    # the name KEPT is asked for now and then
    "create": frozenset({*_SLOT, ErrorCase.NAME_TAKEN}),
    # another has deleted it, or made a second branch on it
    "delete": frozenset({*_SLOT, ErrorCase.SNAPSHOT_UNKNOWN, ErrorCase.SNAPSHOT_HAS_CHILDREN}),
    "rollback": frozenset({*_SLOT, ErrorCase.SNAPSHOT_UNKNOWN}),
    "rollback disk": frozenset({*_SLOT, ErrorCase.VOLUME_UNKNOWN}),
    # these two take no slot
    "modify": frozenset({ErrorCase.SNAPSHOT_UNKNOWN}),
    "get": frozenset({ErrorCase.SNAPSHOT_UNKNOWN}),
    # since it was listed it has passed its point of no return, or ended
    "cancel": frozenset({ErrorCase.TASK_NOT_CANCELLABLE}),
}
_NOT_READY = ErrorCase.SNAPSHOT_NOT_READY  # memory is being saved: all wait for it but creates without memory
_LIVE_REFUSALS: Refusals = {
    **{call: cases | {_NOT_READY} if call in ("delete", "rollback") else cases for call, cases in _REFUSALS.items()},
    # a rollback had left it off
    "create with memory": _REFUSALS["create"] | {_NOT_READY, ErrorCase.VM_NOT_RUNNING},
    # somebody cancelled the saving of that memory
    "rollback with memory": _REFUSALS["rollback"] | {_NOT_READY, ErrorCase.SNAPSHOT_WITHOUT_MEMORY},
    # only a rollback leaves it off for a while; a start is in vain all the rest of the time
    "rollback disk": _REFUSALS["rollback disk"] | {_NOT_READY, ErrorCase.VM_NOT_SHUTOFF},
    "start": frozenset({ErrorCase.VM_BUSY, _NOT_READY, ErrorCase.VM_STARTED_ALREADY}),
}


class Off(Pressed):
    """Shut off: its model knows every byte of it."""

    kind = "off"
    by_chance = ("cancel",)  # most of what is done here is over before anybody can say stop
    weights = {"create": 5, "delete": 4, "rollback": 4, "rollback disk": 3} | _WITHOUT_SLOT
    refusals = _REFUSALS

    def __init__(self, bench: Bench, random: Random) -> None:
        """It gets a few snapshots of different contents."""
        bench.begin()
        for number in range(3):
            bench.write([(target, 16 * number, 24, 7 * number + 1) for target in TARGETS])
            bench.create(KEPT if number == 0 else f"first {number}")
        super().__init__(bench.vm, bench.model, random)
        self._bench = bench

    def begin(self) -> None:
        """New contents in the head."""
        self._bench.write([(t, self.random.randrange(BLOCKS), 20, self.random.randrange(1, 256)) for t in TARGETS])
        self.model = self._bench.model
        super().begin()

    def compare(self) -> None:
        self._bench.model = self.model
        self._bench.compare_by_qemu()


class Live(Pressed):
    """A witness guest, which runs until a rollback without memory has left it off. Its model knows the tree alone.

    The guest's memories have numbers: a new one with each start, the one of the snapshot again after a rollback with
    memory. They are compared by the boot ids that the witness draws.
    """

    kind = "live"
    weights: ClassVar[Mapping[str, int]] = {
        "create": 4,
        "create with memory": 4,
        "delete": 4,
        "rollback": 4,
        "rollback with memory": 4,
        "rollback disk": 2,
        "start": 6,
        **_WITHOUT_SLOT,
    }
    by_chance = ("rollback disk",)  # it is off for so short
    refusals = _LIVE_REFUSALS

    def __init__(self, daemon: PrivateLibvirtd, vm: Vm, random: Random) -> None:
        """``vm`` has no snapshots and is on its way up; ``begin_tree`` gives it some."""
        super().__init__(vm, Model({}), random)
        self.sights = Sights(vm)
        self._daemon = daemon
        self._is_off = False  # as far as is known in the middle of the pressing
        self._runs = True
        self._memory = 0
        self._with_memory: list[str] = []  # the snapshots that may have
        self._memories: dict[str, int] = {}  # by snapshot
        self._boots: dict[int, str] = {}
        self._starts = 0
        self._ticks_at_start = 0  # of its console, when it was last started in the middle of the pressing

    def begin_tree(self) -> None:
        """KEPT, with memory that is being saved, and a snapshot of the disks."""
        self.vm.await_ticks(10, timeout_s=180)
        self._boots[self._memory] = self.vm.witness().ticks()[-1][0]
        for call, name in (("create with memory", KEPT), ("create", "first 1")):
            self.vm.create(name, memory=name == KEPT, wait=False)
            self.follow(Asked(call, "", {}, name))
        self._with_memory.append(KEPT)

    def begin(self) -> None:
        super().begin()
        self._is_off = False

    def towards(self, call: str) -> str:
        match call:
            case "start":
                return "start" if self._is_off else "rollback"
            case "cancel":
                return self.random.choice(["cancel", "create with memory"])
        return call

    def ask(self, call: str, name: str = "") -> Asked | None:
        if call == "create with memory" and len(self.vm.witness().ticks()) <= self._ticks_at_start:
            return None  # a guest that has not come up yet draws the id of its boot anew whenever it goes on from there
        if call == "rollback with memory" and not name:
            name = self.random.choice([there for there in self._names if there in self._with_memory])
        return super().ask(call, name)

    def accept(self, asked: Asked, operation: str) -> None:
        super().accept(asked, operation)
        match asked.call:
            case "create with memory":
                self._with_memory.append(asked.about)
            case "rollback":
                self._is_off = True
            case "rollback with memory":
                self._is_off = False
            case "start":
                self._is_off = False
                self._ticks_at_start = len(self.vm.witness().ticks())

    def after(self, asked: Asked) -> Model | ErrorCase:
        match asked.call:
            case "create with memory":
                self._memories[asked.about] = self._memory
            case "rollback":
                self._runs = False
            case "rollback with memory":
                self._runs, self._memory = True, self._memories[asked.about]
            case "start":
                self._started()
                return self.model
            case "rollback disk":  # whose contents are the guest's own
                there = self._snapshot_of[asked.about] in self.model.snapshots
                return self.model if there else ErrorCase.VOLUME_UNKNOWN
        return super().after(asked)

    def _started(self) -> None:
        assert not self._runs, f"{self.vm.name} was started while it ran"
        self._starts += 1
        self._runs, self._memory = True, self._starts

    def compare(self) -> None:
        """It runs afterwards."""
        seen = virsh(self._daemon, "domstate", self.vm.name)
        wanted = "running" if self._runs else "shut off"
        assert seen == wanted, f"{self.vm.name} is {seen}, not {wanted}"
        self.look()
        self._compare_memories()
        self.sights.compare()
        if not self._runs:
            self.vm.start()
            self._started()
        self.vm.await_ticks(3, timeout_s=180)
        witness = self.vm.witness()
        wrong = [line for line in witness.lines() if "TORN" in line or "ERR" in line]
        assert not wrong, (self.vm.name, wrong)
        boot = witness.ticks()[-1][0]
        expected = self._boots.setdefault(self._memory, boot)
        assert boot == expected, f"{self.vm.name} goes on from boot {boot}, not from the memory of {expected}"
        assert len(set(self._boots.values())) == len(self._boots), f"no start draws an old boot id: {self._boots}"

    def _compare_memories(self) -> None:
        """Each is there, unless somebody cancelled its saving."""
        saved = {name: (state, marked) for name, state, marked in rows(self.vm.service, _SAVED, self.vm.uuid)}
        assert all(marked or state == "done" for state, marked in saved.values()), saved
        for name in self.model.snapshots:
            status = self.vm.get(name)["attr"].get("status")
            assert status == (_STATUS_OF_SAVING[saved[name][0]] if name in saved else None), (name, status, saved)
