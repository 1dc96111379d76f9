"""Tenants' limits, and what files occupy."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")


def upgrade() -> None:
    op.create_table(
        "tenants",
        sa.Column("tenant", TEXT, nullable=False),
        sa.Column("memory_open", sa.Boolean),
        *(sa.Column(name, sa.BigInteger) for name in ("memory_bytes", "space_bytes", "max_snapshots")),
        sa.PrimaryKeyConstraint("tenant", name="pk_tenants"),
    )
    op.add_column("vms", sa.Column("tenant", TEXT, nullable=False, server_default=""))
    op.create_index("ix_vms_tenant", "vms", ["tenant"])
    op.add_column("volumes", sa.Column("capacity_bytes", sa.BigInteger))
    op.add_column("layers", sa.Column("disk_bytes", sa.BigInteger))
    for name in ("reserved_bytes", "reserved_memory_bytes"):
        op.add_column("operations", sa.Column(name, sa.BigInteger, nullable=False, server_default="0"))
    # whose a VM is, as far as its newest snapshot tells; the next one, or an assignment, says it anew
    op.execute(
        "UPDATE vms SET tenant = COALESCE((SELECT snapshots.tenant FROM snapshots WHERE snapshots.vm_uuid = vms.uuid "
        "ORDER BY snapshots.seq DESC LIMIT 1), '')"
    )
