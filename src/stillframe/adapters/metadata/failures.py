"""What the database's errors become: outcomes from the catalogue, without SQL and without its parameters.

The parameters hold definition XML, which holds secrets; PostgreSQL repeats them in a message's DETAIL. So only the
first line of the server's own words goes on, and the original exception is not chained.
"""

from __future__ import annotations

import errno
from contextlib import contextmanager
from typing import TYPE_CHECKING

from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError

from stillframe.domain.errors import ErrorCase, Failed, Unknown

if TYPE_CHECKING:
    from collections.abc import Iterator

_SQLITE_LOCKED = (5, 6)  # SQLITE_BUSY, SQLITE_LOCKED: https://www.sqlite.org/rescode.html
_SQLITE_FULL = 13
SQLITE_DAMAGED = (11, 26)  # SQLITE_CORRUPT, SQLITE_NOTADB
_PG_LOCKED = ("55P03", "40P01")  # lock_not_available, deadlock_detected: PostgreSQL, appendix A
_PG_FULL = "53100"
_STAYED_LOCKED = "the database stayed locked by another writer"


@contextmanager
def storage_errors() -> Iterator[None]:
    """Errors of the database leave as ``Failed``: SPACE_EXHAUSTED, DATABASE_DAMAGED or STORAGE_FAILED."""
    try:
        yield
    except SQLAlchemyError as error:
        # The traceback stays, since it names our own frames; the chain goes, since it prints parameters.
        raise _failed(error).with_traceback(error.__traceback__) from None


@contextmanager
def file_errors() -> Iterator[None]:
    """Errors of the operating system about the database's file leave as ``Failed``, without its path."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        case = ErrorCase.SPACE_EXHAUSTED if full else ErrorCase.STORAGE_FAILED
        raise Failed(case, f"the database's file: {error.strerror}") from error


@contextmanager
def commit_errors() -> Iterator[None]:
    """A connection that breaks during the commit leaves as ``Unknown``: it may have been committed."""
    try:
        yield
    except DBAPIError as error:
        if not error.connection_invalidated or hasattr(error.orig, "sqlite_errorcode"):
            raise  # SQLite has no connection to lose: a commit that fails there did not happen
        desc = "the database's connection broke during the commit, which may have happened"
        raise Unknown(ErrorCase.STORAGE_FAILED, desc).with_traceback(error.__traceback__) from None


def _failed(error: SQLAlchemyError) -> Failed:
    if isinstance(error, PoolTimeoutError):
        return Failed(ErrorCase.STORAGE_FAILED, f"{_STAYED_LOCKED}: no connection became free in time")
    if not isinstance(error, DBAPIError):
        return Failed(ErrorCase.STORAGE_FAILED, f"the database layer failed with {type(error).__name__}")
    if hasattr(error.orig, "sqlite_errorcode"):
        return _sqlite_failed(error.orig)
    if getattr(error.orig, "sqlstate", None) is not None:
        return _postgresql_failed(error.orig)
    # No code from the database: the driver's words name hosts and socket paths, which are for the log alone.
    failed = Failed(ErrorCase.STORAGE_FAILED, "the database cannot be reached or did not understand")
    failed.add_note(f"{type(error.orig).__name__}: {error.orig}")
    return failed


def _sqlite_failed(orig: BaseException | None) -> Failed:
    primary = getattr(orig, "sqlite_errorcode", 0) & 0xFF  # the higher bits extend the primary code
    if primary == _SQLITE_FULL:
        return Failed(ErrorCase.SPACE_EXHAUSTED, f"the database: {orig}")
    if primary in SQLITE_DAMAGED:
        return Failed(ErrorCase.DATABASE_DAMAGED, f"the database: {orig}")
    return Failed(ErrorCase.STORAGE_FAILED, _STAYED_LOCKED if primary in _SQLITE_LOCKED else f"the database: {orig}")


def _postgresql_failed(orig: BaseException | None) -> Failed:
    sqlstate = getattr(orig, "sqlstate", None)
    if sqlstate in _PG_LOCKED:
        return Failed(ErrorCase.STORAGE_FAILED, _STAYED_LOCKED)
    words = getattr(getattr(orig, "diag", None), "message_primary", None) or f"SQLSTATE {sqlstate}"
    case = ErrorCase.SPACE_EXHAUSTED if sqlstate == _PG_FULL else ErrorCase.STORAGE_FAILED
    return Failed(case, f"the database: {words}")
