"""The database says whether something is taken; nobody looks first and acts later."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy.exc import IntegrityError

if TYPE_CHECKING:
    import sqlalchemy as sa


def is_unique(connection: sa.Connection, statement: sa.Insert | sa.Update) -> bool:
    """Do the statement; False when a constraint forbids it: then nothing changed, and the transaction goes on."""
    savepoint = connection.begin_nested()  # PostgreSQL would refuse all that follows a failed statement
    try:
        connection.execute(statement)
    except IntegrityError:
        savepoint.rollback()
        return False
    # Any other error leaves the savepoint as it is: SQLite may have ended the transaction already, and a rollback to
    # a savepoint that is gone would hide why.
    savepoint.commit()
    return True
