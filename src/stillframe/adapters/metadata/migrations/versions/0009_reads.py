"""Indexes that hold all that a list's page, and a tree, are made from: rows of a long history lie far apart."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("ix_snapshots_vm_uuid_ctime", "snapshots")
    op.create_index("ix_snapshots_page", "snapshots", ["vm_uuid", "ctime", "name", "seq"])
    op.create_index("ix_snapshots_tree", "snapshots", ["vm_uuid", "seq", "uuid", "name", "parent_uuid"])
