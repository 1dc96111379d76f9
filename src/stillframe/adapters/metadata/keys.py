"""Keys as rows: see ``stillframe.ports.keys`` for the promises."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import AnyText, api_keys, sessions, values_of
from stillframe.domain.access import Role
from stillframe.ports.keys import KeyRow, SessionRow

_COLUMNS = tuple(api_keys.c[field.name] for field in fields(KeyRow))
# asked with every request: made once, so that SQLAlchemy need not find out each time what it is
_BY_ID = sa.select(*_COLUMNS).where(api_keys.c.key_id == sa.bindparam("key_id", type_=AnyText()))


class SqlKeys:
    """The keys on one connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def insert(self, key: KeyRow) -> None:
        self._connection.execute(sa.insert(api_keys).values(values_of(key, api_keys)))

    def get(self, key_id: str) -> KeyRow | None:
        row = self._connection.execute(_BY_ID, {"key_id": key_id}).one_or_none()
        return None if row is None else _key(row)

    def page(self, tenant: str, after: str, limit: int) -> list[KeyRow]:
        chosen: list[sa.ColumnElement[bool]] = []
        if tenant:
            chosen.append(api_keys.c.tenant == tenant)
        if after:
            last = sa.select(api_keys.c.id).where(api_keys.c.key_id == after).scalar_subquery()
            chosen.append(api_keys.c.id < last)
        query = sa.select(*_COLUMNS).where(*chosen).order_by(api_keys.c.id.desc()).limit(limit)
        return [_key(row) for row in self._connection.execute(query)]

    def administrators(self) -> list[KeyRow]:
        chosen = (api_keys.c.role == Role.ADMINISTRATOR, api_keys.c.revoked_at.is_(None))
        return [_key(row) for row in self._connection.execute(sa.select(*_COLUMNS).where(*chosen))]

    def open_session(self, session: SessionRow) -> None:
        self._connection.execute(sa.insert(sessions).values(values_of(session, sessions)))

    def session(self, digest: str) -> SessionRow | None:
        row = self._connection.execute(sa.select(sessions).where(sessions.c.digest == digest)).one_or_none()
        return None if row is None else SessionRow(**row._asdict())

    def end_session(self, digest: str) -> None:
        self._connection.execute(sa.delete(sessions).where(sessions.c.digest == digest))

    def end_sessions(self, before: int) -> None:
        self._connection.execute(sa.delete(sessions).where(sessions.c.expires_at < before))

    def end_oldest_sessions(self, key_id: str, *, keep: int) -> None:
        mine = sessions.c.key_id == key_id
        newest = sa.select(sessions.c.digest).where(mine).order_by(sessions.c.created_at.desc(), sessions.c.digest)
        old = [row.digest for row in self._connection.execute(newest.offset(keep))]
        self._connection.execute(sa.delete(sessions).where(sessions.c.digest.in_(old)))

    def set_end(self, key_id: str, *, revoked_at: int | None, expires_at: int | None) -> None:
        change = sa.update(api_keys).where(api_keys.c.key_id == key_id)
        self._connection.execute(change.values(revoked_at=revoked_at, expires_at=expires_at))


def _key(row: sa.Row[Any]) -> KeyRow:
    """In the columns' order; the role is text in the database."""
    fields_of = row._asdict()
    return KeyRow(**{**fields_of, "role": Role(fields_of["role"])})
