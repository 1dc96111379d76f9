"""Snapshots as rows: see ``stillframe.ports.metadata.SnapshotRows`` for the promises."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from stillframe.adapters.metadata import shown
from stillframe.adapters.metadata.schema import (
    AnyText,
    disk_snapshots,
    layers,
    memory_states,
    snapshots,
    values_of,
    vm_heads,
)
from stillframe.adapters.metadata.uniqueness import is_unique
from stillframe.adapters.metadata.vms import ensure_vm, next_seq
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.domain.snapshot import (
    CaptureMode,
    DiskSnapshot,
    MemoryState,
    MemoryStatus,
    ShownSnapshot,
    Snapshot,
    SnapshotCard,
)
from stillframe.domain.tree import Node

# made once, so that SQLAlchemy need not find out each time what they are
_VM = sa.bindparam("vm_uuid", type_=AnyText())
_NODES = (
    sa.select(
        # a thousand of them: what is ours was never escaped, and need not be looked through
        sa.type_coerce(snapshots.c.uuid, sa.Text()),
        sa.type_coerce(snapshots.c.parent_uuid, sa.Text()),
        snapshots.c.name,
        snapshots.c.seq,
    )
    .where(snapshots.c.vm_uuid == _VM)
    .order_by(snapshots.c.seq)
)
_HEAD_UUID = sa.select(vm_heads.c.snapshot_uuid).where(vm_heads.c.vm_uuid == _VM)


class SqlSnapshots:
    """Published snapshots on one connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def of_vm(self, vm_uuid: str) -> list[Snapshot]:
        return self._load(_all().where(snapshots.c.vm_uuid == vm_uuid).order_by(snapshots.c.seq))

    def page(self, vm_uuid: str, name_part: str, offset: int, limit: int | None) -> tuple[list[ShownSnapshot], int]:
        return shown.page(self._connection, vm_uuid, name_part, offset, limit)

    def shown_by_name(self, vm_uuid: str, name: str) -> ShownSnapshot | None:
        return shown.by_name(self._connection, vm_uuid, name)

    def shown_head(self, vm_uuid: str) -> ShownSnapshot | None:
        return shown.head(self._connection, vm_uuid)

    def by_name(self, vm_uuid: str, name: str) -> Snapshot | None:
        return self._load_one(_all().where(snapshots.c.vm_uuid == vm_uuid, snapshots.c.name == name))

    def by_uuid(self, snapshot_uuid: str) -> Snapshot | None:
        return self._load_one(_all().where(snapshots.c.uuid == snapshot_uuid))

    def nodes(self, vm_uuid: str) -> tuple[list[Node], str | None]:
        rows = self._connection.execute(_NODES, {"vm_uuid": vm_uuid}).all()
        nodes = [Node(uuid, name, parent_uuid, seq) for uuid, parent_uuid, name, seq in rows]
        return nodes, self._connection.scalar(_HEAD_UUID, {"vm_uuid": vm_uuid})

    def cards(self, vm_uuid: str) -> tuple[list[SnapshotCard], str | None]:
        mine = snapshots.c.vm_uuid == vm_uuid
        occupied = (
            sa.select(disk_snapshots.c.snapshot_uuid, sa.func.sum(layers.c.disk_bytes))
            .join(layers, layers.c.uuid == disk_snapshots.c.layer_uuid)
            .join(snapshots, snapshots.c.uuid == disk_snapshots.c.snapshot_uuid)
            .where(mine)
            .group_by(disk_snapshots.c.snapshot_uuid)
        )
        bytes_of = {uuid: int(total or 0) for uuid, total in self._connection.execute(occupied)}
        of_memory = ("uuid", "status", "mode", "progress", "size_bytes", "reason")
        columns: list[sa.ColumnElement[Any]] = [
            snapshots.c[name] for name in ("uuid", "seq", "name", "description", "parent_uuid", "ctime")
        ]
        columns.append(snapshots.c.screenshot_checksum)
        columns += [memory_states.c[name].label(f"memory_{name}") for name in of_memory]
        rows = self._connection.execute(
            sa.select(*columns)
            .join(memory_states, memory_states.c.snapshot_uuid == snapshots.c.uuid, isouter=True)
            .where(mine)
            .order_by(snapshots.c.seq)
        )
        head = self._connection.scalar(_HEAD_UUID, {"vm_uuid": vm_uuid})
        return [_card(row, bytes_of.get(row.uuid, 0)) for row in rows], head

    def insert(self, snapshot: Snapshot) -> Snapshot:
        published = replace(snapshot, seq=next_seq(self._connection, snapshot.vm_uuid))
        if not is_unique(self._connection, sa.insert(snapshots).values(values_of(published, snapshots))):
            if self.by_name(snapshot.vm_uuid, snapshot.name) is not None:
                raise Refused(ErrorCase.NAME_TAKEN, f'"{snapshot.name}"')
            raise Failed(ErrorCase.STORAGE_FAILED, f"the database does not take {snapshot.described}")
        for position, disk in enumerate(published.disks):
            self._connection.execute(
                sa.insert(disk_snapshots).values(
                    values_of(disk, disk_snapshots, snapshot_uuid=published.uuid, position=position)
                )
            )
        if published.memory is not None:
            self._insert_memory(published.uuid, published.memory)
        self.set_head(published.vm_uuid, published.uuid)
        return published

    def remove(self, snapshot_uuid: str) -> None:
        row = self._connection.execute(
            sa.select(snapshots.c.vm_uuid, snapshots.c.parent_uuid).where(snapshots.c.uuid == snapshot_uuid)
        ).one_or_none()
        if row is None:
            return
        vm_uuid, parent_uuid = row
        self._connection.execute(
            sa.update(snapshots).where(snapshots.c.parent_uuid == snapshot_uuid).values(parent_uuid=parent_uuid)
        )
        if self._connection.scalar(sa.select(vm_heads.c.vm_uuid).where(vm_heads.c.snapshot_uuid == snapshot_uuid)):
            self.set_head(vm_uuid, parent_uuid)
        for table in (disk_snapshots, memory_states):
            self._connection.execute(sa.delete(table).where(table.c.snapshot_uuid == snapshot_uuid))
        self._connection.execute(sa.delete(snapshots).where(snapshots.c.uuid == snapshot_uuid))

    def set_description(self, snapshot_uuid: str, description: str) -> None:
        """Raises ``Refused``: SNAPSHOT_UNKNOWN, when it is not published."""
        self._require(snapshot_uuid)
        self._connection.execute(
            sa.update(snapshots).where(snapshots.c.uuid == snapshot_uuid).values(description=description)
        )

    def set_owner(self, vm_uuid: str, tenant: str, tenant_name: str, namespace: str) -> None:
        change = sa.update(snapshots).where(snapshots.c.vm_uuid == vm_uuid)
        self._connection.execute(change.values(tenant=tenant, tenant_name=tenant_name, namespace=namespace))

    def set_memory(self, snapshot_uuid: str, memory: MemoryState) -> None:
        """Raises ``Refused``: SNAPSHOT_UNKNOWN, when it is not published."""
        self._require(snapshot_uuid)
        self._connection.execute(sa.delete(memory_states).where(memory_states.c.snapshot_uuid == snapshot_uuid))
        self._insert_memory(snapshot_uuid, memory)

    def has_memory(self, memory_uuid: str) -> bool:
        query = sa.select(memory_states.c.uuid).where(memory_states.c.uuid == memory_uuid)
        return self._connection.execute(query).first() is not None

    def set_head(self, vm_uuid: str, snapshot_uuid: str | None) -> None:
        ensure_vm(self._connection, vm_uuid)
        self._connection.execute(sa.delete(vm_heads).where(vm_heads.c.vm_uuid == vm_uuid))
        if snapshot_uuid is not None:
            self._connection.execute(sa.insert(vm_heads).values(vm_uuid=vm_uuid, snapshot_uuid=snapshot_uuid))

    def _insert_memory(self, snapshot_uuid: str, memory: MemoryState) -> None:
        self._connection.execute(
            sa.insert(memory_states).values(values_of(memory, memory_states, snapshot_uuid=snapshot_uuid))
        )

    def _require(self, snapshot_uuid: str) -> None:
        if self._connection.scalar(sa.select(snapshots.c.uuid).where(snapshots.c.uuid == snapshot_uuid)) is None:
            raise Refused(ErrorCase.SNAPSHOT_UNKNOWN, snapshot_uuid)

    def _load_one(self, chosen: sa.Select[Any]) -> Snapshot | None:
        found = self._load(chosen)
        return found[0] if found else None

    def _load(self, chosen: sa.Select[Any]) -> list[Snapshot]:
        # Disks and memories are asked for by the same choice: a list of uuids would meet the databases' limits on
        # the number of parameters.
        uuids = chosen.with_only_columns(snapshots.c.uuid)
        disks: dict[str, list[DiskSnapshot]] = {}
        for row in self._connection.execute(
            sa.select(disk_snapshots)
            .where(disk_snapshots.c.snapshot_uuid.in_(uuids))
            .order_by(disk_snapshots.c.snapshot_uuid, disk_snapshots.c.position)
        ):
            disks.setdefault(row.snapshot_uuid, []).append(
                DiskSnapshot(row.uuid, row.volume_uuid, row.layer_uuid, row.target)
            )
        memories = {
            row.snapshot_uuid: _memory(row)
            for row in self._connection.execute(
                sa.select(memory_states).where(memory_states.c.snapshot_uuid.in_(uuids))
            )
        }
        return [
            _snapshot(row, tuple(disks.get(row.uuid, ())), memories.get(row.uuid))
            for row in self._connection.execute(chosen)
        ]


def _card(row: sa.Row[Any], disk_bytes: int) -> SnapshotCard:
    memory = None
    if row.memory_uuid is not None:
        memory = MemoryState(
            uuid=row.memory_uuid,
            location="",
            status=MemoryStatus(row.memory_status),
            mode=CaptureMode(row.memory_mode),
            progress=row.memory_progress,
            size_bytes=row.memory_size_bytes,
            reason=row.memory_reason,
        )
    return SnapshotCard(
        uuid=row.uuid,
        seq=row.seq,
        name=row.name,
        description=row.description,
        parent_uuid=row.parent_uuid,
        ctime=row.ctime,
        disk_bytes=disk_bytes,
        screenshot_checksum=row.screenshot_checksum,
        memory=memory,
    )


def _all() -> sa.Select[Any]:
    return sa.select(snapshots)


def _snapshot(row: sa.Row[Any], disks: tuple[DiskSnapshot, ...], memory: MemoryState | None) -> Snapshot:
    return Snapshot(
        uuid=row.uuid,
        vm_uuid=row.vm_uuid,
        seq=row.seq,
        name=row.name,
        description=row.description,
        parent_uuid=row.parent_uuid,
        ctime=row.ctime,
        tenant=row.tenant,
        tenant_name=row.tenant_name,
        namespace=row.namespace,
        vm_detail=row.vm_detail,
        definition_xml=row.definition_xml,
        definition_checksum=row.definition_checksum,
        disks=disks,
        memory=memory,
        screenshot_checksum=row.screenshot_checksum,
        operation_uuid=row.operation_uuid,
    )


def _memory(row: sa.Row[Any]) -> MemoryState:
    return MemoryState(
        uuid=row.uuid,
        location=row.location,
        status=MemoryStatus(row.status),
        mode=CaptureMode(row.mode),
        progress=row.progress,
        size_bytes=row.size_bytes,
        checksum=row.checksum,
        reason=row.reason,
    )
