"""Two pools on one database: many readers, and one writer.

One writing connection makes this process's writers queue fairly before they compete with other processes for the
database's own lock; readers have connections of their own, so a queue of writers never takes theirs.
"""

from __future__ import annotations

import os
import sqlite3
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy import event
from sqlalchemy.exc import ArgumentError
from sqlalchemy.pool import QueuePool

from stillframe.adapters.metadata.failures import file_errors
from stillframe.domain.errors import ErrorCase, Failed, Refused

_PG_WRITER_LOCK = 0x5711_F4A3  # "stillframe": any number, but the same in every version for ever
_PG_IN_TRANSACTION = 2  # libpq's PQTRANS_INTRANS; 3 is a transaction that has failed already
_PG_CONNECT_TIMEOUT_S = 10
_WAL_RETRY_S = 0.01
_READERS_KEPT = 8
_READERS_MORE = 32


@dataclass(frozen=True)
class Engines:
    """``reader`` gives snapshots that refuse writes; ``writer`` transactions that are serialised from their start."""

    reader: sa.Engine
    writer: sa.Engine

    def dispose(self) -> None:
        self.reader.dispose()
        self.writer.dispose()


def make_engines(url: str, lock_timeout_s: float) -> Engines:
    """The engines for a URL; no connection is made yet, but a SQLite file is created (mode 0600).

    Raises:
        Refused: STORAGE_FAILED, when the URL names nothing that Stillframe can use.
        Failed: STORAGE_FAILED or SPACE_EXHAUSTED, when the SQLite file cannot be made or is not ours, or the
            database's driver is not installed.
    """
    try:
        parsed = sa.make_url(url)
    except ArgumentError:
        raise Refused(ErrorCase.STORAGE_FAILED, "the database URL cannot be understood") from None
    backend = parsed.get_backend_name()
    if backend == "sqlite":
        return _sqlite_engines(parsed, lock_timeout_s)
    if backend == "postgresql":
        try:
            return _postgresql_engines(parsed, lock_timeout_s)
        except ImportError as error:
            raise Failed(ErrorCase.STORAGE_FAILED, f"PostgreSQL needs the Python package {error.name}") from None
    raise Refused(ErrorCase.STORAGE_FAILED, f"the database must be sqlite or postgresql, not {backend}")


def make_looking_engine(path: Path) -> sa.Engine:
    """An engine for a SQLite file that is there, and that nobody writes to: it changes nothing, the file's log included.

    A log that a killed service left is read; where there is none, nothing is made beside the file.
    """
    log = path.with_name(path.name + "-wal")
    options = "mode=ro" if log.exists() and log.stat().st_size else "mode=ro&immutable=1"

    def connect() -> sqlite3.Connection:
        return sqlite3.connect(f"{path.absolute().as_uri()}?{options}", uri=True, check_same_thread=False)

    return sa.create_engine("sqlite://", creator=connect, poolclass=QueuePool, hide_parameters=True)


def is_whole(connection: sa.Connection) -> bool:
    """Whether the open transaction still holds all that was done in it; if not, a commit would say yes to nothing."""
    driver: Any = connection.connection.driver_connection
    if connection.dialect.name == "sqlite":
        return bool(driver.in_transaction)
    return int(driver.info.transaction_status) == _PG_IN_TRANSACTION


def _sqlite_engines(url: sa.URL, lock_timeout_s: float) -> Engines:
    if not url.database or url.database == ":memory:" or url.database.startswith("file:"):
        raise Refused(ErrorCase.STORAGE_FAILED, "a SQLite database must be a file: sqlite:////path/stillframe.db")
    with file_errors():
        _ensure_private_file(Path(url.database))
    arguments: dict[str, Any] = {"poolclass": QueuePool, "hide_parameters": True, "pool_timeout": lock_timeout_s}
    arguments["connect_args"] = {"timeout": lock_timeout_s, "check_same_thread": False}
    reader = sa.create_engine(url, pool_size=_READERS_KEPT, max_overflow=_READERS_MORE, **arguments)
    writer = sa.create_engine(url, pool_size=1, max_overflow=0, **arguments)
    _prepare_sqlite(reader, lock_timeout_s, begin="BEGIN", pragmas=("query_only = ON",))
    _prepare_sqlite(
        writer, lock_timeout_s, begin="BEGIN IMMEDIATE", pragmas=("synchronous = FULL", "foreign_keys = ON")
    )
    return Engines(reader, writer)


def _ensure_private_file(path: Path) -> None:
    """The file exists with mode 0600, which SQLite then gives its -wal and -shm files too."""
    try:
        # O_EXCL: a descriptor of an existing file is never opened here, since closing it would drop the POSIX locks
        # that this process's SQLite connections hold (https://www.sqlite.org/howtocorrupt.html, 2.2).
        os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600))
    except FileExistsError:
        path.chmod(0o600)
        return
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)  # a power loss keeps the new file's name
    finally:
        os.close(directory)


def _journal_mode_wal(connection: Any, lock_timeout_s: float) -> str:
    """The mode after asking for WAL. SQLite does not wait for a lock here, whatever its time-out: so we do."""
    deadline = time.monotonic() + lock_timeout_s
    while True:
        try:
            return str(connection.execute("PRAGMA journal_mode = WAL").fetchone()[0])
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > deadline:
                raise
            time.sleep(_WAL_RETRY_S)


def _prepare_sqlite(engine: sa.Engine, lock_timeout_s: float, *, begin: str, pragmas: tuple[str, ...]) -> None:
    # SQLAlchemy, "Serializable isolation / Savepoints / Transactional DDL" of pysqlite: take BEGIN from the driver.
    def on_connect(connection: Any, _record: Any) -> None:
        connection.isolation_level = None
        if _journal_mode_wal(connection, lock_timeout_s) != "wal":
            raise Failed(ErrorCase.STORAGE_FAILED, "the database's file system cannot hold a write-ahead log")
        for pragma in pragmas:
            connection.execute(f"PRAGMA {pragma}")

    def on_begin(connection: sa.Connection) -> None:
        connection.exec_driver_sql(begin)

    def on_error(context: sa.ExceptionContext) -> None:
        # After an error such as SQLITE_FULL the transaction is gone, and what follows would be committed statement
        # by statement (https://www.sqlite.org/lang_transaction.html, "Response To Errors"). Nothing may follow.
        if context.connection is not None and not is_whole(context.connection):
            context.is_disconnect = True
            context.invalidate_pool_on_disconnect = False

    event.listen(engine, "connect", on_connect)
    event.listen(engine, "begin", on_begin)
    event.listen(engine, "handle_error", on_error)


def _postgresql_engines(url: sa.URL, lock_timeout_s: float) -> Engines:
    arguments: dict[str, Any] = {"poolclass": QueuePool, "hide_parameters": True, "pool_timeout": lock_timeout_s}
    arguments["pool_pre_ping"] = True  # a restarted server is met before a transaction, not in it
    arguments["connect_args"] = {"client_encoding": "utf8"}
    if "connect_timeout" not in url.query:
        arguments["connect_args"]["connect_timeout"] = _PG_CONNECT_TIMEOUT_S
    reader = sa.create_engine(
        url,
        pool_size=_READERS_KEPT,
        max_overflow=_READERS_MORE,
        execution_options={"isolation_level": "REPEATABLE READ", "postgresql_readonly": True},
        **arguments,
    )
    writer = sa.create_engine(url, pool_size=1, max_overflow=0, isolation_level="READ COMMITTED", **arguments)

    def on_begin(connection: sa.Connection) -> None:
        # What BEGIN IMMEDIATE is on SQLite. Statements see what was committed before the lock was given, because
        # READ COMMITTED looks anew for each.
        connection.exec_driver_sql(f"SET LOCAL lock_timeout = {int(lock_timeout_s * 1000)}")
        connection.exec_driver_sql(f"SELECT pg_advisory_xact_lock({_PG_WRITER_LOCK})")

    event.listen(writer, "begin", on_begin)
    return Engines(reader, writer)
