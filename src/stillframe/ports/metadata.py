"""What the operations need of the database: rows and the journal, in short transactions without I/O inside.

A transaction is a context manager: it commits at the end and rolls back on an exception. ``write`` transactions are
serialised; ``read`` ones see one consistent state and never wait for a writer. Repositories hang on the transaction.
Nothing here calls out while a transaction is open.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from stillframe.domain.layers import Layer, Volume
from stillframe.domain.snapshot import MemoryState, ShownSnapshot, Snapshot, SnapshotCard
from stillframe.domain.tree import Node
from stillframe.ports.keys import KeyRows
from stillframe.ports.log import LogRows
from stillframe.ports.quotas import QuotaRows


class Slot(StrEnum):
    """What an operation occupies on its VM: the database lets one active operation in each."""

    EXCLUSIVE = "exclusive"
    MEMORY = "memory"  # saving memory behind a published snapshot


class OperationState(StrEnum):
    PLANNING = "planning"  # has the VM's slot, no side effect yet, no plan yet
    RUNNING = "running"  # the plan is written
    COMMITTED = "committed"  # past its point of no return: only forward
    UNDOING = "undoing"
    DONE = "done"
    REFUSED = "refused"  # ended in planning
    UNDONE = "undone"
    LEFT = "left"  # ended with something left for recovery or doctor; the error says what


ACTIVE_STATES = (OperationState.PLANNING, OperationState.RUNNING, OperationState.COMMITTED, OperationState.UNDOING)


@dataclass(frozen=True)
class Progress:
    """How far a step is. ``rate_bytes_s`` is measured over the step so far; all 0 where nothing is counted."""

    bytes_done: int = 0
    bytes_total: int = 0
    rate_bytes_s: int = 0


@dataclass(frozen=True)
class OperationRow:
    """One operation. ``plan`` is JSON text of the kind's plan. ``steps_done`` in order; times in Unix seconds.

    ``slot`` is held exactly while ``state`` is active or, for ``LEFT``, never. ``tenant``, ``vm_name`` and ``snapshot`` (a
    name) are those of the beginning. The counts of bytes are those of ``step``.
    """

    uuid: str
    vm_uuid: str
    slot: Slot
    kind: str
    state: OperationState
    plan: str
    steps_done: tuple[str, ...]
    started_at: int
    ended_at: int | None
    error: str
    tenant: str = ""
    vm_name: str = ""
    snapshot: str = ""
    step: str = ""
    bytes_done: int = 0
    bytes_total: int = 0
    rate_bytes_s: int = 0
    cancel_requested: bool = False


@dataclass(frozen=True)
class OperationFilter:
    """Which operations a list shows; empty means all. ``since``/``until``: begun then or between, Unix seconds.

    ``after``: the uuid of the last operation of the page before. ``cancel_requested``: None means whether or not.
    """

    vm_uuid: str = ""
    tenant: str = ""
    states: tuple[OperationState, ...] = ()
    cancel_requested: bool | None = None
    since: int | None = None
    until: int | None = None
    after: str = ""
    limit: int = 100


class SnapshotRows(Protocol):
    """Published snapshots of a VM, and which one its current state descends from (the head)."""

    def of_vm(self, vm_uuid: str) -> list[Snapshot]:
        """All, in order of creation (``seq``)."""
        ...

    def page(self, vm_uuid: str, name_part: str, offset: int, limit: int | None) -> tuple[list[ShownSnapshot], int]:
        """Newest first (ctime), then by name; ``name_part`` is a case-sensitive literal substring ("" means all).

        Returns the page and the number of all that match.
        """
        ...

    def shown_by_name(self, vm_uuid: str, name: str) -> ShownSnapshot | None: ...

    def shown_head(self, vm_uuid: str) -> ShownSnapshot | None:
        """The snapshot that the VM's current state descends from."""
        ...

    def by_name(self, vm_uuid: str, name: str) -> Snapshot | None: ...

    def by_uuid(self, snapshot_uuid: str) -> Snapshot | None: ...

    def nodes(self, vm_uuid: str) -> tuple[list[Node], str | None]:
        """What the tree needs, in order of creation, and the head's uuid."""
        ...

    def cards(self, vm_uuid: str) -> tuple[list[SnapshotCard], str | None]:
        """What a drawing of the tree needs, in order of creation, and the head's uuid."""
        ...

    def insert(self, snapshot: Snapshot) -> Snapshot:
        """Publish: as a child of ``parent_uuid``, with its disks and memory; ``seq`` is given here, the head moves to it.

        Raises:
            Refused: NAME_TAKEN.
        """
        ...

    def remove(self, snapshot_uuid: str) -> None:
        """Unpublish: children and the head move to its parent. Nothing happens when it is gone already."""
        ...

    def set_description(self, snapshot_uuid: str, description: str) -> None: ...

    def set_owner(self, vm_uuid: str, tenant: str, tenant_name: str, namespace: str) -> None:
        """All of the VM's are this tenant's from now on."""
        ...

    def set_memory(self, snapshot_uuid: str, memory: MemoryState) -> None: ...

    def has_memory(self, memory_uuid: str) -> bool:
        """Some snapshot's memory is of this uuid."""
        ...

    def set_head(self, vm_uuid: str, snapshot_uuid: str | None) -> None: ...


class LayerRows(Protocol):
    """Volumes and layers of a VM, and what refers to them."""

    def vm_uuids(self) -> list[str]:
        """The VMs that have a volume or a snapshot, by uuid."""
        ...

    def volumes(self, vm_uuid: str) -> list[Volume]: ...

    def layers(self, vm_uuid: str) -> list[Layer]: ...

    def referenced(self, vm_uuid: str) -> set[str]:
        """Uuids of the layers that a published snapshot or a volume's head refers to."""
        ...

    def insert_volume(self, volume: Volume) -> None: ...

    def insert_layer(self, layer: Layer) -> None:
        """Nothing happens when it is there already."""
        ...

    def set_head(self, volume_uuid: str, layer_uuid: str) -> None: ...

    def record_merge(self, top_uuid: str, base_uuid: str) -> None:
        """References to ``top`` (snapshots, heads, children) mean ``base`` now, and ``top``'s row is gone. Repeatable."""
        ...

    def record_pull(self, base_uuid: str) -> None:
        """What backed on ``base``, which has a parent, backs on that now, and ``base``'s row is gone. Repeatable."""
        ...

    def remove_layer(self, layer_uuid: str) -> None:
        """Repeatable. A volume without layers goes too."""
        ...


class JournalRows(Protocol):
    """Operations and their steps."""

    def open(self, operation: OperationRow) -> None:
        """Take the VM's slot.

        Raises:
            Refused: VM_BUSY, with what holds it and since when.
        """
        ...

    def get(self, operation_uuid: str) -> OperationRow | None: ...

    def active(self, vm_uuids: Collection[str] | None = None) -> list[OperationRow]:
        """Active operations (of these VMs, or of all), oldest first."""
        ...

    def left(self) -> list[OperationRow]:
        """Operations in state LEFT that still have something to finish, oldest first."""
        ...

    def set_plan(self, operation_uuid: str, plan: str) -> None:
        """PLANNING becomes RUNNING."""
        ...

    def step_done(self, operation_uuid: str, step: str, *, committed: bool) -> None:
        """``committed``: this step is the point of no return; the state becomes COMMITTED.

        Raises:
            Refused: CANCELLED, when it would commit and its cancelling was requested; nothing is noted.
        """
        ...

    def set_state(self, operation_uuid: str, state: OperationState, *, at: int, error: str = "") -> None:
        """An inactive state frees the slot."""
        ...

    def set_error(self, operation_uuid: str, error: str) -> None:
        """Replaces what stood there; the state stays."""
        ...

    def set_progress(self, operation_uuid: str, step: str, progress: Progress) -> None:
        """How far this step is."""
        ...

    def request_cancel(self, operation_uuid: str) -> OperationState:
        """Note the wish unless it comes too late; returns the state that decided.

        PLANNING or RUNNING: it is noted, and the operation can no more commit. Any other state: nothing happens.
        """
        ...

    def remove_ended(self, before: int, *, keep: int, batch: int) -> int:
        """Operations that ended before then, Unix seconds, are forgotten, the oldest first and at most ``batch``.

        The newest ``keep`` stay, and so does what is not finished. Returns how many there were.
        """
        ...

    def page(self, wanted: OperationFilter) -> list[OperationRow]:
        """Newest first; at most ``limit``."""
        ...


class FactRows(Protocol):
    """Single facts about the service itself, by name."""

    def get(self, name: str) -> str | None: ...

    def put(self, name: str, value: str) -> None:
        """Replaces what stood there."""
        ...


class Transaction(Protocol):
    """One open transaction."""

    @property
    def snapshots(self) -> SnapshotRows: ...

    @property
    def layers(self) -> LayerRows: ...

    @property
    def journal(self) -> JournalRows: ...

    @property
    def log(self) -> LogRows: ...

    @property
    def keys(self) -> KeyRows: ...

    @property
    def facts(self) -> FactRows: ...

    @property
    def quotas(self) -> QuotaRows: ...


class Metadata(Protocol):
    """The database."""

    def read(self) -> AbstractContextManager[Transaction]: ...

    def write(self) -> AbstractContextManager[Transaction]: ...

    def cluster_uuid(self) -> str:
        """This service's stable cluster uuid, drawn once."""
        ...

    def problems(self) -> list[str]:
        """What the database itself finds wrong with what it holds, in words; empty when it is sound.

        Reads all of it. A row that refers to one that does not exist is a problem, too.

        Raises:
            Failed: STORAGE_FAILED when it could not be asked.
        """
        ...

    def close(self) -> None: ...


__all__: Sequence[str] = (
    "ACTIVE_STATES",
    "FactRows",
    "JournalRows",
    "LayerRows",
    "Metadata",
    "OperationFilter",
    "OperationRow",
    "OperationState",
    "Progress",
    "Slot",
    "SnapshotRows",
    "Transaction",
)
