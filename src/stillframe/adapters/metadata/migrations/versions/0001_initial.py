"""The first schema: VMs, snapshots, layers, journal, log."""

from __future__ import annotations

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# Written out, not taken from schema.py: that file goes on, this one stays what it was.
TEXT = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def _text(*names: str) -> list[sa.Column[str]]:
    return [sa.Column(name, TEXT, nullable=False) for name in names]


def _number(*names: str) -> list[sa.Column[int]]:
    return [sa.Column(name, sa.BigInteger, nullable=False) for name in names]


def _key(table: str, columns: list[str], targets: list[str]) -> sa.ForeignKeyConstraint:
    name = f"fk_{table}_{'_'.join(columns)}"
    return sa.ForeignKeyConstraint(columns, targets, name=name, deferrable=True, initially="DEFERRED")


def _unique(table: str, *columns: str) -> sa.UniqueConstraint:
    return sa.UniqueConstraint(*columns, name=f"uq_{table}_{'_'.join(columns)}")


def _primary(table: str, *columns: str) -> sa.PrimaryKeyConstraint:
    return sa.PrimaryKeyConstraint(*columns, name=f"pk_{table}")


def _index(table: str, *columns: str) -> None:
    op.create_index(f"ix_{table}_{'_'.join(columns)}", table, list(columns))


def upgrade() -> None:
    op.create_table("service_facts", *_text("name", "value"), _primary("service_facts", "name"))
    op.create_table("vms", *_text("uuid"), *_number("last_seq"), _primary("vms", "uuid"))
    _create_snapshots()
    _create_layers()
    _create_parts_of_snapshots()
    _create_journal()
    _create_log()


def _create_snapshots() -> None:
    op.create_table(
        "snapshots",
        *_text("uuid", "vm_uuid"),
        *_number("seq"),
        *_text("name", "description"),
        sa.Column("parent_uuid", TEXT),
        *_number("ctime"),
        *_text("tenant", "tenant_name", "namespace", "vm_detail", "definition_xml", "definition_checksum"),
        *_text("screenshot_checksum"),
        _primary("snapshots", "uuid"),
        _key("snapshots", ["vm_uuid"], ["vms.uuid"]),
        _key("snapshots", ["vm_uuid", "parent_uuid"], ["snapshots.vm_uuid", "snapshots.uuid"]),
        _unique("snapshots", "vm_uuid", "name"),
        _unique("snapshots", "vm_uuid", "seq"),
        _unique("snapshots", "vm_uuid", "uuid"),
    )
    _index("snapshots", "vm_uuid", "parent_uuid")
    _index("snapshots", "vm_uuid", "ctime")
    op.create_table(
        "vm_heads",
        *_text("vm_uuid", "snapshot_uuid"),
        _primary("vm_heads", "vm_uuid"),
        _key("vm_heads", ["vm_uuid"], ["vms.uuid"]),
        _key("vm_heads", ["vm_uuid", "snapshot_uuid"], ["snapshots.vm_uuid", "snapshots.uuid"]),
    )


def _create_layers() -> None:
    op.create_table(
        "volumes",
        *_text("uuid", "vm_uuid", "target", "directory"),
        _primary("volumes", "uuid"),
        _key("volumes", ["vm_uuid"], ["vms.uuid"]),
    )
    _index("volumes", "vm_uuid")
    op.create_table(
        "layers",
        *_text("uuid", "volume_uuid"),
        sa.Column("parent_uuid", TEXT),
        *_text("path", "format"),
        sa.Column("foreign", sa.Boolean, nullable=False),
        _primary("layers", "uuid"),
        _key("layers", ["volume_uuid"], ["volumes.uuid"]),
        _key("layers", ["parent_uuid"], ["layers.uuid"]),
    )
    _index("layers", "volume_uuid")
    _index("layers", "parent_uuid")
    op.create_table(
        "volume_heads",
        *_text("volume_uuid", "layer_uuid"),
        _primary("volume_heads", "volume_uuid"),
        _key("volume_heads", ["volume_uuid"], ["volumes.uuid"]),
        _key("volume_heads", ["layer_uuid"], ["layers.uuid"]),
    )
    _index("volume_heads", "layer_uuid")


def _create_parts_of_snapshots() -> None:
    op.create_table(
        "disk_snapshots",
        *_text("uuid", "snapshot_uuid"),
        *_number("position"),
        *_text("volume_uuid", "layer_uuid", "target"),
        _primary("disk_snapshots", "uuid"),
        _key("disk_snapshots", ["snapshot_uuid"], ["snapshots.uuid"]),
        _key("disk_snapshots", ["volume_uuid"], ["volumes.uuid"]),
        _key("disk_snapshots", ["layer_uuid"], ["layers.uuid"]),
        _unique("disk_snapshots", "snapshot_uuid", "position"),
    )
    _index("disk_snapshots", "volume_uuid")
    _index("disk_snapshots", "layer_uuid")
    op.create_table(
        "memory_states",
        *_text("snapshot_uuid", "uuid", "location", "status", "mode"),
        *_number("progress", "size_bytes"),
        *_text("checksum", "reason"),
        _primary("memory_states", "snapshot_uuid"),
        _key("memory_states", ["snapshot_uuid"], ["snapshots.uuid"]),
        _unique("memory_states", "uuid"),
    )


def _create_journal() -> None:
    op.create_table(
        "operations",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        *_text("uuid", "vm_uuid", "slot", "kind", "state", "plan"),
        *_number("started_at"),
        sa.Column("ended_at", sa.BigInteger),
        *_number("progress"),
        *_text("error"),
        sa.Column("lock_key", TEXT),
        _primary("operations", "id"),
        _unique("operations", "uuid"),
        _unique("operations", "lock_key"),
        sa.CheckConstraint(
            "(lock_key IS NULL) = (state NOT IN ('planning', 'running', 'committed', 'undoing'))",
            name="ck_operations_lock_held_while_active",
        ),
    )
    _index("operations", "state")
    op.create_table(
        "operation_steps",
        *_text("operation_uuid"),
        *_number("position"),
        *_text("step"),
        _primary("operation_steps", "operation_uuid", "position"),
        _key("operation_steps", ["operation_uuid"], ["operations.uuid"]),
        _unique("operation_steps", "operation_uuid", "step"),
    )


def _create_log() -> None:
    op.create_table(
        "operation_log",
        sa.Column("id", ROW_ID, autoincrement=True, nullable=False),
        *_number("at"),
        *_text("who", "address", "tenant", "call", "vm_uuid", "vm_name", "mark", "snapshot"),
        *_number("scode"),
        *_text("desc"),
        *_number("duration_ms"),
        *_text("operation_uuid"),
        _primary("operation_log", "id"),
    )
    _index("operation_log", "at", "id")
