"""The operation log: lines have a name and can be found, and what was written stays."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TABLE = "operation_log"
# the most telling last: without statistics SQLite takes the newest of several indexes that would do
FOUND_BY = ("call", "scode", "tenant", "who", "snapshot", "vm_uuid", "operation_uuid")
# The retention is a setting, which a database does not know: what it holds is the least one, a day, less the hour by
# which the service's clock and its own may differ. Lines from further in the future are a wrong clock's.
GUARDED_S = 23 * 3600
FUTURE_S = 23 * 3600


def upgrade() -> None:
    op.add_column(TABLE, sa.Column("uuid", TEXT, nullable=False, server_default=""))
    is_sqlite = op.get_bind().dialect.name == "sqlite"
    op.execute(f"UPDATE {TABLE} SET uuid = {_SQLITE_UUID if is_sqlite else 'gen_random_uuid()::text'}")  # noqa: S608 -- our own  # nosec B608 # both texts are constants
    op.create_index(f"ix_{TABLE}_uuid", TABLE, ["uuid"], unique=True)
    for column in FOUND_BY:
        op.create_index(f"ix_{TABLE}_{column}_at_id", TABLE, [column, "at", "id"])
    for statement in _SQLITE_TRIGGERS if is_sqlite else _POSTGRESQL_TRIGGERS:
        op.execute(statement)


_SQLITE_UUID = (
    "lower(hex(randomblob(4)) || '-' || hex(randomblob(2)) || '-4' || substr(hex(randomblob(2)), 2) || '-8' || "
    "substr(hex(randomblob(2)), 2) || '-' || hex(randomblob(6)))"
)

_SQLITE_TRIGGERS = (
    f"""
    CREATE TRIGGER tr_{TABLE}_no_update BEFORE UPDATE ON {TABLE}
    BEGIN SELECT RAISE(ABORT, 'a line of the operation log is never changed'); END
    """,
    f"""
    CREATE TRIGGER tr_{TABLE}_no_delete BEFORE DELETE ON {TABLE}
    WHEN OLD.at BETWEEN CAST(strftime('%s', 'now') AS INTEGER) - {GUARDED_S}
                    AND CAST(strftime('%s', 'now') AS INTEGER) + {FUTURE_S}
    BEGIN SELECT RAISE(ABORT, 'a young line of the operation log is not removed'); END
    """,
)

_POSTGRESQL_TRIGGERS = (
    f"""
    CREATE FUNCTION {TABLE}_refuse() RETURNS trigger LANGUAGE plpgsql AS
    $$ BEGIN RAISE EXCEPTION '%', TG_ARGV[0]; END $$
    """,
    f"""
    CREATE TRIGGER tr_{TABLE}_no_update BEFORE UPDATE ON {TABLE} FOR EACH ROW
    EXECUTE FUNCTION {TABLE}_refuse('a line of the operation log is never changed')
    """,
    f"""
    CREATE TRIGGER tr_{TABLE}_no_delete BEFORE DELETE ON {TABLE} FOR EACH ROW
    WHEN (OLD.at BETWEEN extract(epoch FROM now()) - {GUARDED_S} AND extract(epoch FROM now()) + {FUTURE_S})
    EXECUTE FUNCTION {TABLE}_refuse('a young line of the operation log is not removed')
    """,
    f"""
    CREATE TRIGGER tr_{TABLE}_no_truncate BEFORE TRUNCATE ON {TABLE} FOR EACH STATEMENT
    EXECUTE FUNCTION {TABLE}_refuse('a young line of the operation log is not removed')
    """,
)
