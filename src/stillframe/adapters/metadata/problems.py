"""What is wrong with a database that opens: pages that do not fit together, rows that refer to nothing.

References are looked at by query on both databases: PostgreSQL checks them only when they are written, and not at all
where its triggers were off (a restore of the data alone, for one); SQLite not for a writer that did not ask for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import sqlalchemy as sa
from sqlalchemy.exc import DatabaseError

from stillframe.adapters.metadata.failures import SQLITE_DAMAGED
from stillframe.adapters.metadata.journal import SqlJournal
from stillframe.adapters.metadata.layers import SqlLayers
from stillframe.adapters.metadata.schema import metadata
from stillframe.adapters.metadata.snapshots import SqlSnapshots
from stillframe.ports.metadata import OperationFilter

_PAGE = 500
_MOST = 20  # of each sort; who has that many needs no more


def find_problems(engine: sa.Engine) -> list[str]:
    """In words, without the contents of any row but its uuids."""
    try:
        # outermost: on a damaged file even the end of a transaction that only read may fail
        with engine.connect() as connection, connection.begin():
            found = [*_file_problems(connection), *_reference_problems(connection)]
            return found or list(_row_problems(connection))
    except DatabaseError as error:
        if _is_undecodable(error):
            return ["a row cannot be read: it holds text that is none"]
        if getattr(error.orig, "sqlite_errorcode", 0) & 0xFF not in SQLITE_DAMAGED:
            raise
        return [f"the database's file is damaged: {error.orig}"]


def _is_undecodable(error: DatabaseError) -> bool:
    """Python's sqlite3 says so, not SQLite: there is no code, and the words repeat the row."""
    return not hasattr(error.orig, "sqlite_errorcode") and "decode" in str(error.orig)


def _file_problems(connection: sa.Connection) -> list[str]:
    """PostgreSQL has no such check that a client may ask for; a damaged page of its is an error when it is read."""
    if connection.dialect.name != "sqlite":
        return []
    said = [str(row[0]) for row in connection.exec_driver_sql(f"PRAGMA integrity_check({_MOST})")]
    return [] if said == ["ok"] else [f"the database's file is damaged: {line}" for line in said]


def _reference_problems(connection: sa.Connection) -> list[str]:
    return [
        problem
        for table in metadata.sorted_tables
        for key in table.foreign_key_constraints
        for problem in _dangling(connection, table, key)
    ]


def _dangling(connection: sa.Connection, table: sa.Table, key: sa.ForeignKeyConstraint) -> list[str]:
    target = key.referred_table.alias("target")
    pairs = [(element.parent, target.c[element.column.name]) for element in key.elements]
    refers = sa.and_(*(column.is_not(None) for column, _ in pairs))
    found = sa.exists().where(*(theirs == ours for ours, theirs in pairs))
    rows = connection.execute(
        sa.select(*table.primary_key.columns, *(ours for ours, _ in pairs)).where(refers, ~found).limit(_MOST)
    )
    names = ", ".join(element.parent.name for element in key.elements)
    return [
        f"{table.name} {row[0]}: {names} names {row[-1]} of {key.referred_table.name}, which does not exist"
        for row in rows
    ]


def _row_problems(connection: sa.Connection) -> Iterator[str]:
    """Rows that are there, but are none of this service's: each is read once, as it is when it is needed."""
    layers, snapshots = SqlLayers(connection), SqlSnapshots(connection)
    for vm_uuid in layers.vm_uuids():
        reads: dict[str, Callable[[str], object]] = {
            "volumes": layers.volumes,
            "layers": layers.layers,
            "snapshots": snapshots.of_vm,
        }
        for what, read in reads.items():
            try:
                read(vm_uuid)
            except (ValueError, TypeError, LookupError) as error:
                yield f"the {what} of VM {vm_uuid} cannot be read ({type(error).__name__})"
    yield from _journal_problems(SqlJournal(connection))


def _journal_problems(journal: SqlJournal) -> Iterator[str]:
    after = ""
    try:
        while page := journal.page(OperationFilter(after=after, limit=_PAGE)):
            after = page[-1].uuid
    except (ValueError, TypeError, LookupError) as error:
        behind = f"behind operation {after}" if after else "at its end"
        yield f"the journal cannot be read {behind} ({type(error).__name__})"
