"""What the database holds, read for doctor: of one VM at one moment, and of all of them together."""

from __future__ import annotations

import json
from dataclasses import dataclass

from stillframe.domain.layers import Layer, Volume, chain
from stillframe.domain.snapshot import MemoryStatus, Snapshot
from stillframe.operations.world import Sight
from stillframe.ports.metadata import OperationFilter, OperationRow, Slot, Transaction

_CONFIGURATIONS = frozenset({"runtime_xml", "runtime_cookie", "previous_definition", "vm_detail"})


@dataclass(frozen=True)
class VmRecords:
    """One VM's rows and its part of the journal. ``newest`` is the uuid of its last operation, "" for none."""

    vm_uuid: str
    volumes: tuple[Volume, ...]
    layers: tuple[Layer, ...]
    referenced: frozenset[str]
    snapshots: tuple[Snapshot, ...]
    newest: str
    active: tuple[OperationRow, ...]
    left: tuple[OperationRow, ...]

    @property
    def occupied(self) -> OperationRow | None:
        """The operation that may be changing anything of this VM at this moment."""
        return next((row for row in self.active if row.slot is Slot.EXCLUSIVE), None)

    @property
    def saving(self) -> bool:
        return any(row.slot is Slot.MEMORY for row in self.active)

    def explained(self, uuid: str) -> bool:
        """An unfinished operation names this object: how it looks until then is that operation's business."""
        return any(uuid in _own_words(row.plan) for row in (*self.active, *self.left))

    def needing(self, layer_uuid: str) -> tuple[str, ...]:
        """The names of the snapshots that read through this layer."""
        return tuple(
            snapshot.name
            for snapshot in self.snapshots
            if any(layer.uuid == layer_uuid for disk in snapshot.disks for layer in chain(self.layers, disk.layer_uuid))
        )


def read_vm(world: Sight, vm_uuid: str, *, without: str = "") -> VmRecords:
    """One consistent state. ``without``: the uuid of an operation that is the caller's own and does not count."""
    with world.metadata.read() as tx:
        newest = tx.journal.page(OperationFilter(vm_uuid=vm_uuid, limit=1))
        return VmRecords(
            vm_uuid=vm_uuid,
            volumes=tuple(tx.layers.volumes(vm_uuid)),
            layers=tuple(tx.layers.layers(vm_uuid)),
            referenced=frozenset(tx.layers.referenced(vm_uuid)),
            snapshots=tuple(tx.snapshots.of_vm(vm_uuid)),
            newest=newest[0].uuid if newest else "",
            active=tuple(row for row in tx.journal.active([vm_uuid]) if row.uuid != without),
            left=tuple(row for row in tx.journal.left() if row.vm_uuid == vm_uuid),
        )


def _own_words(plan: str) -> str:
    """A plan without the configurations in it, which name every file of the VM whether the operation touches it or not."""
    try:
        found = json.loads(plan)
    except ValueError:
        return plan
    return json.dumps({key: value for key, value in found.items() if key not in _CONFIGURATIONS})


@dataclass(frozen=True)
class Known:
    """What every VM's rows and every unfinished operation's plan name.

    ``layers``: path -> (layer, VM's uuid). ``memory`` are the states that have, or will have, a file.
    """

    vm_uuids: frozenset[str]
    layers: dict[str, tuple[Layer, str]]
    layer_uuids: frozenset[str]
    directories: dict[str, frozenset[str]]
    memory: frozenset[str]
    screenshots: frozenset[str]
    plans: tuple[str, ...]
    newest: str

    def named(self, uuid: str) -> bool:
        return any(uuid in plan for plan in self.plans)


def read_all(world: Sight, *, since: str | None = None) -> Known:
    """One consistent state.

    ``since``: also the plans of all operations that began after this one ("": of all that ever were) are among ``plans``.
    """
    layers: dict[str, tuple[Layer, str]] = {}
    directories: dict[str, set[str]] = {}
    memory: set[str] = set()
    screenshots: set[str] = set()
    with world.metadata.read() as tx:
        vm_uuids = tx.layers.vm_uuids()
        for vm_uuid in vm_uuids:
            for volume in tx.layers.volumes(vm_uuid):
                directories.setdefault(volume.directory, set()).add(vm_uuid)
            layers.update((layer.path, (layer, vm_uuid)) for layer in tx.layers.layers(vm_uuid))
            for snapshot in tx.snapshots.of_vm(vm_uuid):
                if snapshot.memory is not None and snapshot.memory.status is not MemoryStatus.FAILED:
                    memory.add(snapshot.memory.uuid)
                if snapshot.screenshot_checksum:
                    screenshots.add(snapshot.uuid)
        newest = tx.journal.page(OperationFilter(limit=1))
        unfinished = [*tx.journal.active(), *tx.journal.left(), *_begun_after(tx, since)]
    return Known(
        vm_uuids=frozenset(vm_uuids),
        layers=layers,
        layer_uuids=frozenset(layer.uuid for layer, _ in layers.values()),
        directories={directory: frozenset(vms) for directory, vms in directories.items()},
        memory=frozenset(memory),
        screenshots=frozenset(screenshots),
        plans=tuple(row.plan for row in unfinished),
        newest=newest[0].uuid if newest else "",
    )


def _begun_after(tx: Transaction, operation_uuid: str | None) -> list[OperationRow]:
    found: list[OperationRow] = []
    if operation_uuid is None:
        return found
    after = ""
    while page := tx.journal.page(OperationFilter(after=after)):
        for row in page:
            if row.uuid == operation_uuid:
                return found
            found.append(row)
        after = page[-1].uuid
    return found
