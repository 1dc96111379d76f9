"""The database as the operations see it: transactions with repositories on them."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING
from uuid import uuid4

import sqlalchemy as sa

from stillframe.adapters.metadata.engines import Engines, is_whole, make_engines, make_looking_engine
from stillframe.adapters.metadata.facts import SqlFacts
from stillframe.adapters.metadata.failures import commit_errors, file_errors, storage_errors
from stillframe.adapters.metadata.journal import SqlJournal
from stillframe.adapters.metadata.keys import SqlKeys
from stillframe.adapters.metadata.layers import SqlLayers
from stillframe.adapters.metadata.log import SqlLog
from stillframe.adapters.metadata.migrations import bring_up_to_date, check_up_to_date
from stillframe.adapters.metadata.problems import find_problems
from stillframe.adapters.metadata.quotas import SqlQuotas
from stillframe.adapters.metadata.schema import service_facts
from stillframe.adapters.metadata.snapshots import SqlSnapshots
from stillframe.domain.errors import ErrorCase, Failed, Refused

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from stillframe.ports.keys import KeyRows
    from stillframe.ports.log import LogRows
    from stillframe.ports.metadata import FactRows, JournalRows, LayerRows, SnapshotRows
    from stillframe.ports.quotas import QuotaRows

_CLUSTER_UUID = "cluster_uuid"


class SqlTransaction:
    """One open transaction; useless after its ``with`` block."""

    def __init__(self, connection: sa.Connection) -> None:
        self.snapshots: SnapshotRows = SqlSnapshots(connection)
        self.layers: LayerRows = SqlLayers(connection)
        self.journal: JournalRows = SqlJournal(connection)
        self.log: LogRows = SqlLog(connection)
        self.keys: KeyRows = SqlKeys(connection)
        self.facts: FactRows = SqlFacts(connection)
        self.quotas: QuotaRows = SqlQuotas(connection)


class SqlMetadata:
    """The metadata in SQLite or PostgreSQL, for many threads.

    Errors of the database leave a transaction as ``Failed`` (STORAGE_FAILED or SPACE_EXHAUSTED) with nothing
    committed, or as ``Unknown`` when the connection broke during the commit itself. A thread must not open a ``write``
    inside its own ``write``: it would wait for itself until the lock's timeout.
    """

    def __init__(self, engines: Engines, cluster_uuid: str) -> None:
        self._engines = engines
        self._cluster_uuid = cluster_uuid

    @contextmanager
    def read(self) -> Iterator[SqlTransaction]:
        """One consistent state, that of the first query in it. Never waits for a writer; writing in it fails."""
        with storage_errors(), self._engines.reader.connect() as connection, connection.begin():
            yield SqlTransaction(connection)

    @contextmanager
    def write(self) -> Iterator[SqlTransaction]:
        """Alone among writers, of other processes too, from its start; durable once the ``with`` block is left."""
        with storage_errors(), self._engines.writer.connect() as connection, connection.begin() as transaction:
            yield SqlTransaction(connection)
            if not is_whole(connection):
                raise Failed(ErrorCase.STORAGE_FAILED, "a statement of the transaction failed; nothing is committed")
            with commit_errors():
                try:
                    transaction.commit()
                except BaseException:
                    # SQLite leaves the transaction open when its commit fails, and SQLAlchemy takes it for ended: the
                    # next one could not begin on this connection
                    connection.invalidate()
                    raise

    def cluster_uuid(self) -> str:
        return self._cluster_uuid

    def problems(self) -> list[str]:
        """SQLite's own check of its file, and every reference between rows, which no database checks again later."""
        with storage_errors():
            return find_problems(self._engines.reader)

    def close(self) -> None:
        """Repeatable. Transactions must have ended."""
        self._engines.dispose()


def open_metadata(url: str, *, lock_timeout_s: float = 30.0) -> SqlMetadata:
    """The database at ``url``, made or brought up to this version's schema in one transaction.

    ``sqlite:////path/stillframe.db`` (made with mode 0600, in a directory that exists) or
    ``postgresql+psycopg://…`` (a database of encoding UTF8). ``lock_timeout_s``: longest wait for another writer.

    Raises:
        Refused: STORAGE_FAILED, for a URL of another kind, another encoding, or a database made by a newer version,
            which is left untouched.
        Failed: STORAGE_FAILED or SPACE_EXHAUSTED; the schema is as it was. May be repeated.
    """
    with storage_errors():
        engines = make_engines(url, lock_timeout_s)
        try:
            with engines.writer.begin() as connection:
                _check_encoding(connection)
                bring_up_to_date(connection)
                cluster_uuid = _ensure_cluster_uuid(connection)
        except BaseException:
            engines.dispose()
            raise
    return SqlMetadata(engines, cluster_uuid)


def look_at_metadata(path: Path) -> SqlMetadata:
    """The SQLite database as it lies there, for looking alone: nothing is made, brought up to date or written.

    No other process may write to it meanwhile. ``write`` of what is returned fails.

    Raises:
        Refused: STORAGE_FAILED, when it is another version's.
        Failed: DATABASE_DAMAGED, also when there is no such file; STORAGE_FAILED.
    """
    with file_errors(), storage_errors():
        if not path.exists():
            raise Failed(ErrorCase.DATABASE_DAMAGED, "the database's file does not exist")
        engine = make_looking_engine(path)
        try:
            with engine.connect() as connection:
                check_up_to_date(connection)
                cluster_uuid = connection.scalar(
                    sa.select(service_facts.c.value).where(service_facts.c.name == _CLUSTER_UUID)
                )
        except BaseException:
            engine.dispose()
            raise
    return SqlMetadata(Engines(engine, engine), str(cluster_uuid or ""))


def _check_encoding(connection: sa.Connection) -> None:
    if connection.dialect.name != "postgresql":
        return
    encoding = connection.exec_driver_sql("SHOW server_encoding").scalar_one()
    if encoding != "UTF8":
        raise Refused(ErrorCase.STORAGE_FAILED, f"the database has encoding {encoding}; create it with UTF8")


def _ensure_cluster_uuid(connection: sa.Connection) -> str:
    drawn = connection.scalar(sa.select(service_facts.c.value).where(service_facts.c.name == _CLUSTER_UUID))
    if drawn is not None:
        return str(drawn)
    fresh = str(uuid4())
    connection.execute(sa.insert(service_facts).values(name=_CLUSTER_UUID, value=fresh))
    return fresh
