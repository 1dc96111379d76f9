"""Keys: who may call the service."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def upgrade() -> None:
    op.create_table(
        "api_keys",
        sa.Column("id", ROW_ID, primary_key=True, autoincrement=True),
        sa.Column("key_id", TEXT, nullable=False),
        *(sa.Column(name, TEXT, nullable=False) for name in ("role", "tenant", "description", "salt", "digest")),
        sa.Column("created_at", sa.BigInteger, nullable=False),
        sa.Column("created_by", TEXT, nullable=False),
        sa.Column("expires_at", sa.BigInteger),
        sa.Column("revoked_at", sa.BigInteger),
        sa.PrimaryKeyConstraint("id", name="pk_api_keys"),
        sa.UniqueConstraint("key_id", name="uq_api_keys_key_id"),
    )
    op.create_index("ix_api_keys_tenant_id", "api_keys", ["tenant", "id"])
