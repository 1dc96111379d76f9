"""The operation log as rows: see ``stillframe.ports.log`` for the promises. Triggers hold the rows as they were written."""

from __future__ import annotations

from dataclasses import fields

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import log_begun, operation_log, values_of
from stillframe.ports.log import LogFilter, LogLine

_COLUMNS = tuple(operation_log.c[field.name] for field in fields(LogLine))
_PLACE = (operation_log.c.at, operation_log.c.id)


class SqlLog:
    """The operation log on one connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def begin(self, line: LogLine) -> None:
        self._connection.execute(sa.insert(log_begun).values(values_of(line, log_begun)))

    def begun(self) -> list[LogLine]:
        query = sa.select(log_begun).order_by(log_begun.c.at, log_begun.c.uuid)
        return [LogLine(**row._asdict(), scode=0, desc="", duration_ms=0) for row in self._connection.execute(query)]

    def append(self, line: LogLine) -> None:
        self._connection.execute(sa.delete(log_begun).where(log_begun.c.uuid == line.uuid))
        self._connection.execute(sa.insert(operation_log).values(values_of(line, operation_log)))

    def get(self, uuid: str) -> LogLine | None:
        row = self._connection.execute(sa.select(*_COLUMNS).where(operation_log.c.uuid == uuid)).one_or_none()
        return None if row is None else LogLine(*row)

    def page(self, wanted: LogFilter) -> list[LogLine]:
        chosen = [operation_log.c[name] == value for name, value in _exactly(wanted)]
        if wanted.failed:
            chosen.append(operation_log.c.scode != 0)
        if wanted.since is not None:
            chosen.append(operation_log.c.at >= wanted.since)
        if wanted.until is not None:
            chosen.append(operation_log.c.at <= wanted.until)
        if wanted.after:
            last = self._connection.execute(
                sa.select(*_PLACE).where(operation_log.c.uuid == wanted.after)
            ).one_or_none()
            if last is None:
                return []
            chosen.append(sa.tuple_(*_PLACE) < sa.tuple_(*last))
        query = sa.select(*_COLUMNS).where(*chosen).order_by(*(column.desc() for column in _PLACE)).limit(wanted.limit)
        return [LogLine(*row) for row in self._connection.execute(query)]

    def newest(self) -> LogLine | None:
        row = self._connection.execute(sa.select(*_COLUMNS).order_by(operation_log.c.id.desc()).limit(1)).one_or_none()
        return None if row is None else LogLine(*row)

    def last_old(self, young_from: int, young_until: int, *, keep: int) -> str:
        row_id, at = operation_log.c.id, operation_log.c.at
        last_to_go = self._connection.scalar(sa.select(row_id).order_by(row_id.desc()).offset(keep).limit(1))
        if last_to_go is None:
            return ""
        young = sa.select(row_id).where(at.between(young_from, young_until)).order_by(row_id).limit(1)
        first_young = self._connection.scalar(young)
        old = sa.select(operation_log.c.uuid).where(row_id <= last_to_go, at < young_from)
        if first_young is not None:
            old = old.where(row_id < first_young)
        return self._connection.scalar(old.order_by(row_id.desc()).limit(1)) or ""

    def remove_until(self, uuid: str, *, batch: int) -> int:
        row_id = operation_log.c.id
        last = sa.select(row_id).where(operation_log.c.uuid == uuid).scalar_subquery()
        oldest = sa.select(row_id).where(row_id <= last).order_by(row_id).limit(batch)
        return self._connection.execute(sa.delete(operation_log).where(row_id.in_(oldest))).rowcount


def _exactly(wanted: LogFilter) -> list[tuple[str, str | int]]:
    """The columns that the filter gives a value."""
    values = {
        "operation_uuid": wanted.operation_uuid or None,
        "vm_uuid": wanted.vm_uuid or None,
        "snapshot": wanted.snapshot or None,
        "who": wanted.who or None,
        "tenant": wanted.tenant,
        "scode": wanted.scode,
        "call": wanted.call or None,
    }
    return [(name, value) for name, value in values.items() if value is not None]
