"""A VM that a crowd presses on: what is asked of it, what it accepted, and the replay of that on the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, ClassVar

from fault.model import Model
from fault.truth import VOLUMES, tree_differences
from stillframe.domain.errors import ErrorCase
from support.ledger import rows
from support.service import SNAPSHOT, Vm

KEPT = "kept"  # a snapshot of every VM that nobody deletes; of a running one it has memory
READS = ("list", "get", "tree", "tasks")
_MOST_SNAPSHOTS = 9  # of a VM: beyond it the crowd deletes more than it creates, so that chains stay below their limit
_DONE = (
    "SELECT uuid, kind FROM operations "
    "WHERE vm_uuid = ? AND id > ? AND state = 'done' AND kind <> 'save_memory' ORDER BY id"
)
_CANCELLED = "SELECT uuid, kind, state FROM operations WHERE vm_uuid = ? AND id > ? AND cancel_requested"
_KINDS = {  # as the journal calls them, where it has another word
    "create with memory": "create",
    "rollback with memory": "rollback",
    "rollback disk": "rollback_volume",
    "start": "power",
}

Refusals = Mapping[str, frozenset[ErrorCase]]


@dataclass(frozen=True)
class Asked:
    """One request, about one thing, so that one answer says what became of it: a snapshot, by name, or one of its disks."""

    call: str
    path: str
    body: dict[str, Any]
    about: str = ""


class Pressed(ABC):
    """One VM with its model. ``weights``: how often each call is made of it; ``refusals``: what may be answered.

    ``by_chance``: the calls of which it is left to chance whether any is accepted.
    """

    kind: ClassVar[str]
    by_chance: ClassVar[tuple[str, ...]]
    weights: ClassVar[Mapping[str, int]]
    refusals: ClassVar[Refusals]

    def __init__(self, vm: Vm, model: Model, random: Random) -> None:
        self.vm = vm
        self.model = model
        self.random = random
        self.cancelled: set[str] = set()
        """The operations of which a caller was told that they are cancelled."""
        self.undone: set[str] = set()
        """The operations whose own callers were told so."""
        self._accepted: dict[str, Asked] = {}  # by operation
        self._names: list[str] = []  # that may exist
        self._entries: dict[str, dict[str, str]] = {}  # by the uuid of the disk's snapshot, as the service shows it
        self._snapshot_of: dict[str, str] = {}  # uuid of a disk's snapshot -> name
        self._last = 0
        self._made = 0

    def begin(self) -> None:
        """From here on requests are followed."""
        ((last,),) = rows(
            self.vm.service, "SELECT COALESCE(MAX(id), 0) FROM operations WHERE vm_uuid = ?", self.vm.uuid
        )
        self._last = int(last)
        self._names = list(self.model.snapshots)
        for heard in (self._accepted, self.cancelled, self.undone):
            heard.clear()

    # --- asking ---------------------------------------------------------------------------------------------------

    def draw(self, wanted: Sequence[str] = ()) -> str:
        """One of the calls; every other time one of those ``wanted``, or what leads to it."""
        if wanted and self.random.randrange(2):
            return self.towards(self.random.choice(wanted))
        (call,) = self.random.choices(list(self.weights), list(self.weights.values()))
        if call.startswith("create") and len(self._names) > _MOST_SNAPSHOTS:
            return "delete"
        return call

    def towards(self, call: str) -> str:
        """The call itself, or what must come before it."""
        return call

    def ask(self, call: str, name: str = "") -> Asked | None:
        """A request that changes something, about any snapshot if none is said; None: there is nothing to ask for."""
        name = name or (self._new_name() if call.startswith("create") else self.some_name())
        body: dict[str, Any] = {"name": name}
        match call:
            case "rollback disk":
                entries = [uuid for uuid in self._entries if self._snapshot_of[uuid] in self._names]
                if not entries:
                    return None
                uuid = self.random.choice(entries)
                return Asked(call, VOLUMES, {"disk_snapshot_list": [self._entries[uuid]]}, uuid)
            case "start":
                return Asked(call, "/v1/compute/start", {})
            case "modify":
                body["description"] = f"{self.random.randrange(1 << 30)}"
            case "delete" if name == KEPT:
                return None
        word, _, memory = call.partition(" with ")
        return Asked(call, f"{SNAPSHOT}/{word}", {**body, "domain_memory": True} if memory else body, name)

    def some_name(self) -> str:
        return self.random.choice([*self._names, "no such"])

    def _new_name(self) -> str:
        """Now and then one that is taken for good. No other is ever used again, so that it names one snapshot."""
        if self.random.randrange(8) == 0:
            return KEPT
        self._made += 1
        return f"s{self._made}"

    def see(self, snapshot: dict[str, Any]) -> None:
        """As the service has shown it."""
        for entry in snapshot["disk_snapshot_list"]:
            self._entries[entry["SnapshotUuid"]] = entry
            self._snapshot_of[entry["SnapshotUuid"]] = snapshot["name"]

    def accept(self, asked: Asked, operation: str) -> None:
        self._accepted[operation] = asked
        if asked.call.startswith("create"):
            self._names.append(asked.about)
        elif asked.call == "delete":
            self._names.remove(asked.about)

    # --- the replay -----------------------------------------------------------------------------------------------

    def replay(self) -> None:
        """The model does what the journal says was done, in its order: exactly what callers were told."""
        done = rows(self.vm.service, _DONE, self.vm.uuid, str(self._last))
        assert {operation for operation, _kind in done} == set(self._accepted), (done, self._accepted)
        before: Asked | None = None  # what held the slot last
        for operation, kind in done:
            asked = self._accepted[operation]
            assert kind == _KINDS.get(asked.call, asked.call), (kind, asked)
            if asked.call == "modify":
                self._modify(asked, before)
            else:
                self.follow(asked)
                before = asked
        self._check_cancelled()

    def _modify(self, asked: Asked, before: Asked | None) -> None:
        """It needs no slot: it may have come in the middle of the delete that the journal begins before it."""
        if asked.about in self.model.snapshots:
            self.follow(asked)
        else:
            assert before is not None, asked
            assert (before.call, before.about) == ("delete", asked.about), (before, asked)

    def after(self, asked: Asked) -> Model | ErrorCase:
        """What the model says to a call that changes something."""
        match asked.call:
            case "create" | "create with memory":
                return self.model.create(asked.about)
            case "rollback" | "rollback with memory":
                return self.model.rollback(asked.about)
            case "delete":
                return self.model.delete(asked.about)
            case "modify":
                return self.model.modify(asked.about, asked.body["description"])
            case "rollback disk":
                name, entry = self._snapshot_of[asked.about], self._entries[asked.about]
                return self.model.rollback_disks(name, [entry["DiskDrive"]])
        raise AssertionError(f"nobody asks for {asked.call}")

    def _check_cancelled(self) -> None:
        """What was cancelled has never been done (see ``replay``), but undone, and whoever waited for it knows."""
        marked = rows(self.vm.service, _CANCELLED, self.vm.uuid, str(self._last))
        assert {operation for operation, _kind, _state in marked} == self.cancelled, (marked, self.cancelled)
        # in planning it may have been refused for another reason first
        assert {state for _operation, _kind, state in marked} <= {"undone", "refused"}, marked
        waited_for = {op for op, kind, state in marked if state == "undone" and kind != "save_memory"}
        assert waited_for == self.undone, (marked, self.undone)

    def follow(self, asked: Asked) -> None:
        """It was accepted: the model does it, too."""
        after = self.after(asked)
        assert isinstance(after, Model), f"{asked} was accepted, but must be refused: {after}"
        self.model = after

    @abstractmethod
    def compare(self) -> None:
        """All that there is, when nothing is under way."""

    def look(self) -> None:
        """As ``compare``, by calls that only look; also while something is under way that changes nothing of it."""
        differing = tree_differences(self.vm, self.model)
        assert not differing, (self.vm.name, differing)
        for name in self.model.snapshots:
            self.vm.get(name)
