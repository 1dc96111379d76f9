"""Snapshots as clients are shown them: one statement for a call, whatever else the database holds.

The statements are made once, and SQLAlchemy keeps what it made of them. They ask for nothing that is not shown: a definition
is several times as long as the rest of its row. Which rows a page has is read off an index alone
(``ix_snapshots_page``), and only those rows are then looked up, by their numbers: the numbers of one virtual machine lie side
by side in their index, while uuids are spread over all of theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import groupby
from operator import itemgetter
from typing import Any

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import AnyText, disk_snapshots, memory_states, snapshots, vm_heads
from stillframe.domain.snapshot import CaptureMode, DiskSnapshot, MemoryState, MemoryStatus, ShownSnapshot

_BIGGEST = 2**63 - 1  # what both databases take for LIMIT and OFFSET
_VM, _NAME, _PART = (sa.bindparam(name, type_=AnyText()) for name in ("vm_uuid", "name", "part"))
_LIMIT, _OFFSET = (sa.bindparam(name, type_=sa.BigInteger()) for name in ("limit", "offset"))
_OF_VM = snapshots.c.vm_uuid == _VM
# LIKE folds case on SQLite and has wildcards; removing the part changes exactly the names that hold it.
_HAS_PART = sa.func.replace(snapshots.c.name, _PART, "", type_=AnyText()) != snapshots.c.name

_COLUMNS: tuple[sa.ColumnElement[Any], ...] = (
    *(snapshots.c[name] for name in ("uuid", "vm_uuid", "name", "description", "ctime")),
    *(snapshots.c[name] for name in ("tenant", "tenant_name", "namespace", "screenshot_checksum", "operation_uuid")),
    # a row for each disk: what is long comes with the first alone
    sa.case((sa.func.coalesce(disk_snapshots.c.position, 0) == 0, snapshots.c.vm_detail), else_=None),
    *(memory_states.c[name] for name in ("uuid", "location", "status", "mode")),
    *(memory_states.c[name] for name in ("progress", "size_bytes", "checksum", "reason")),
    *(disk_snapshots.c[name] for name in ("uuid", "volume_uuid", "layer_uuid", "target")),
)
_MEMORY_AT, _DISK_AT = 11, 19  # where in a row they begin


def _with_parts(*more: sa.ColumnElement[Any]) -> sa.Select[Any]:
    """Every snapshot with its memory and, row by row, its disks."""
    memory = snapshots.outerjoin(memory_states, memory_states.c.snapshot_uuid == snapshots.c.uuid)
    disks = memory.outerjoin(disk_snapshots, disk_snapshots.c.snapshot_uuid == snapshots.c.uuid)
    return sa.select(*_COLUMNS, *more).select_from(disks)


def _count(*wanted: sa.ColumnElement[bool]) -> sa.Select[int]:
    return sa.select(sa.func.count()).select_from(snapshots).where(*wanted)


def _page(*wanted: sa.ColumnElement[bool]) -> sa.Select[Any]:
    newest_first = (snapshots.c.ctime.desc(), snapshots.c.name)
    seqs = sa.select(snapshots.c.seq).where(*wanted).order_by(*newest_first).limit(_LIMIT).offset(_OFFSET)
    # correlate nothing: the table is the outer statement's as well
    rows = _with_parts(_count(*wanted).correlate(None).scalar_subquery())
    chosen = rows.where(_OF_VM, snapshots.c.seq.in_(seqs.correlate(None)))
    return chosen.order_by(*newest_first, disk_snapshots.c.position)


_BY_NAME = _with_parts().where(_OF_VM, snapshots.c.name == _NAME).order_by(disk_snapshots.c.position)
_HEAD = (
    _with_parts()
    .where(snapshots.c.uuid == sa.select(vm_heads.c.snapshot_uuid).where(vm_heads.c.vm_uuid == _VM).scalar_subquery())
    .order_by(disk_snapshots.c.position)
)
_PAGE, _COUNT = _page(_OF_VM), _count(_OF_VM)
_PAGE_OF_PART, _COUNT_OF_PART = _page(_OF_VM, _HAS_PART), _count(_OF_VM, _HAS_PART)


def by_name(connection: sa.Connection, vm_uuid: str, name: str) -> ShownSnapshot | None:
    return next(_snapshots(connection.execute(_BY_NAME, {"vm_uuid": vm_uuid, "name": name})), None)


def head(connection: sa.Connection, vm_uuid: str) -> ShownSnapshot | None:
    return next(_snapshots(connection.execute(_HEAD, {"vm_uuid": vm_uuid})), None)


def page(
    connection: sa.Connection, vm_uuid: str, name_part: str, offset: int, limit: int | None
) -> tuple[list[ShownSnapshot], int]:
    wanted = {"vm_uuid": vm_uuid, **({"part": name_part} if name_part else {})}
    place = {
        "offset": min(max(offset, 0), _BIGGEST),
        "limit": _BIGGEST if limit is None else min(limit, _BIGGEST),
    }
    rows = connection.execute(_PAGE_OF_PART if name_part else _PAGE, wanted | place).all()
    if rows:
        return list(_snapshots(rows)), int(rows[0][-1])
    # a page behind the last one has no row that could say how many there are
    return [], int(connection.scalar(_COUNT_OF_PART if name_part else _COUNT, wanted) or 0)


def _snapshots(rows: Iterable[sa.Row[Any]]) -> Iterator[ShownSnapshot]:
    """From rows that are sorted: those of one snapshot follow each other, by the disks' positions."""
    for _uuid, of_one in groupby(rows, itemgetter(0)):
        first, *others = of_one
        disks = tuple(_disk(row) for row in (first, *others) if row[_DISK_AT] is not None)
        memory = None if first[_MEMORY_AT] is None else _memory(first[_MEMORY_AT:_DISK_AT])
        fields: list[Any] = [*first[:_MEMORY_AT], disks, memory]
        yield ShownSnapshot(*fields)


def _disk(row: sa.Row[Any]) -> DiskSnapshot:
    return DiskSnapshot(*row[_DISK_AT : _DISK_AT + 4])


def _memory(columns: tuple[Any, ...]) -> MemoryState:
    uuid, location, status, mode, *further = columns
    return MemoryState(uuid, location, MemoryStatus(status), CaptureMode(mode), *further)
