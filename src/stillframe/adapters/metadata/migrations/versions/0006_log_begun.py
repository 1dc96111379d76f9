"""Calls that are under way, for the operation log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
TOLD = ("who", "address", "tenant", "call", "vm_uuid", "vm_name", "mark", "snapshot", "operation_uuid")


def upgrade() -> None:
    op.create_table(
        "log_begun",
        sa.Column("uuid", TEXT, nullable=False),
        sa.Column("at", sa.BigInteger, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in TOLD),
        sa.PrimaryKeyConstraint("uuid", name="pk_log_begun"),
    )
