"""The operation log as rows: see ``stillframe.ports.metadata.LogRows`` for the promises."""

from __future__ import annotations

from dataclasses import fields

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import operation_log, values_of
from stillframe.ports.metadata import LogLine

_COLUMNS = tuple(operation_log.c[field.name] for field in fields(LogLine))
_BIGGEST = 2**63 - 1  # what both databases take for LIMIT and OFFSET


class SqlLog:
    """The operation log on one connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def append(self, line: LogLine) -> None:
        self._connection.execute(sa.insert(operation_log).values(values_of(line, operation_log)))

    def page(self, offset: int, limit: int) -> list[LogLine]:
        """Newest first: by ``at``, and within a second the one that was appended last comes first."""
        rows = self._connection.execute(
            sa.select(*_COLUMNS)
            .order_by(operation_log.c.at.desc(), operation_log.c.id.desc())
            .offset(min(max(offset, 0), _BIGGEST))
            .limit(min(limit, _BIGGEST))
        )
        return [LogLine(*row) for row in rows]
