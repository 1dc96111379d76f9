"""The operation log: a line is not changed by being inserted again.

SQLite's INSERT OR REPLACE deletes the row that is in its way without asking the trigger that guards it. PostgreSQL has
no such statement: its ON CONFLICT DO UPDATE is an update, and refused as one.
"""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.execute(
            """
            CREATE TRIGGER tr_operation_log_no_replace BEFORE INSERT ON operation_log
            WHEN EXISTS (SELECT 1 FROM operation_log WHERE uuid = NEW.uuid OR id = NEW.id)
            BEGIN SELECT RAISE(ABORT, 'a line of the operation log is never changed'); END
            """
        )
