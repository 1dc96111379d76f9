"""Operations that can be watched: what they are about, how far they are, whether they are to stop."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    for name in ("tenant", "vm_name", "snapshot", "step"):
        op.add_column("operations", sa.Column(name, TEXT, nullable=False, server_default=""))
    for name in ("bytes_done", "bytes_total", "rate_bytes_s"):
        op.add_column("operations", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    op.add_column("operations", sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()))
    op.drop_column("operations", "progress")
    op.create_index("ix_operations_vm_uuid_id", "operations", ["vm_uuid", "id"])
    op.create_index("ix_operations_tenant_id", "operations", ["tenant", "id"])
    op.add_column("snapshots", sa.Column("operation_uuid", TEXT, nullable=False, server_default=""))
