"""The tables, as SQLAlchemy Core sees them; the migrations make them, and a test holds the two together.

Foreign keys are checked at commit (DEFERRABLE INITIALLY DEFERRED), so the order of statements within one transaction
is free: a volume and its first layer refer to each other.
"""

from __future__ import annotations

import re
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa

from stillframe.ports.metadata import ACTIVE_STATES

if TYPE_CHECKING:
    from collections.abc import Callable

    from _typeshed import DataclassInstance

_ESCAPE = "\x1a"  # SUBSTITUTE: a control character, so no snapshot name can hold it
_UNSTORABLE = re.compile(r"[\x00\x1a\ud800-\udfff]")
_ESCAPED = re.compile(r"\x1a([0-9a-f]{4})")


class AnyText(sa.types.TypeDecorator[str]):
    """Every Python string comes back as it went in, and sorts by code point on both databases.

    PostgreSQL has no NUL in text, and UTF-8 has no lone surrogates: both are stored escaped.
    """

    impl = sa.Text
    cache_ok = True

    def load_dialect_impl(self, dialect: sa.Dialect) -> sa.types.TypeEngine[Any]:
        # SQLite compares bytes by default; PostgreSQL compares in the cluster's language unless told.
        return sa.Text(collation="C") if dialect.name == "postgresql" else self.impl_instance

    def process_bind_param(self, value: str | None, dialect: sa.Dialect) -> str | None:
        del dialect
        # str() turns a StrEnum member into plain text, which drivers know.
        return None if value is None else _UNSTORABLE.sub(lambda m: f"{_ESCAPE}{ord(m[0]):04x}", str(value))

    def result_processor(self, dialect: sa.Dialect, coltype: object) -> Callable[[str | None], str | None]:
        # instead of process_result_value, which SQLAlchemy calls through a function of its own for every single value
        del dialect, coltype
        return _unescaped


def _unescaped(value: str | None) -> str | None:
    # nearly none has any: to look for one character is far cheaper than to look for a pattern
    return value if value is None or _ESCAPE not in value else _ESCAPED.sub(lambda m: chr(int(m[1], 16)), value)


metadata = sa.MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
    }
)

_ROW_ID = sa.BigInteger().with_variant(sa.Integer(), "sqlite")  # SQLite numbers rows only in an INTEGER


def _key(column: str, target: str, *, primary_key: bool = False) -> sa.Column[str]:
    reference = sa.ForeignKey(target, deferrable=True, initially="DEFERRED")
    return sa.Column(column, AnyText, reference, primary_key=primary_key, nullable=False)


def _text(name: str) -> sa.Column[str]:
    return sa.Column(name, AnyText, nullable=False)


def _number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False)


def _added_text(name: str) -> sa.Column[str]:
    """A column that came with a later version: rows of before have its empty value."""
    return sa.Column(name, AnyText, nullable=False, server_default="")


def _added_number(name: str) -> sa.Column[int]:
    return sa.Column(name, sa.BigInteger, nullable=False, server_default="0")


def _row_id() -> sa.Column[int]:
    return sa.Column("id", _ROW_ID, primary_key=True, autoincrement=True)


def _snapshot_key(column: str) -> sa.ForeignKeyConstraint:
    # With the VM in the key, a snapshot of another VM cannot become a parent or a head.
    return sa.ForeignKeyConstraint(
        ["vm_uuid", column], ["snapshots.vm_uuid", "snapshots.uuid"], deferrable=True, initially="DEFERRED"
    )


service_facts = sa.Table("service_facts", metadata, sa.Column("name", AnyText, primary_key=True), _text("value"))

vms = sa.Table(
    "vms",
    metadata,
    sa.Column("uuid", AnyText, primary_key=True),
    _number("last_seq"),  # counts every snapshot that ever was, so that no number comes twice
    _added_text("tenant"),  # whose it was at its last change
    sa.Index(None, "tenant"),
)

snapshots = sa.Table(
    "snapshots",
    metadata,
    sa.Column("uuid", AnyText, primary_key=True),
    _key("vm_uuid", "vms.uuid"),
    _number("seq"),
    _text("name"),
    _text("description"),
    sa.Column("parent_uuid", AnyText),
    _number("ctime"),
    _text("tenant"),
    _text("tenant_name"),
    _text("namespace"),
    _text("vm_detail"),
    _text("definition_xml"),
    _text("definition_checksum"),
    _text("screenshot_checksum"),
    _added_text("operation_uuid"),  # what created it
    sa.UniqueConstraint("vm_uuid", "name"),
    sa.UniqueConstraint("vm_uuid", "seq"),
    sa.UniqueConstraint("vm_uuid", "uuid"),
    _snapshot_key("parent_uuid"),
    sa.Index(None, "vm_uuid", "parent_uuid"),
    # each answers a call alone, without the rows: which snapshots a page has, and what hangs under what
    sa.Index("ix_snapshots_page", "vm_uuid", "ctime", "name", "seq"),
    sa.Index("ix_snapshots_tree", "vm_uuid", "seq", "uuid", "name", "parent_uuid"),
)

vm_heads = sa.Table(
    "vm_heads",
    metadata,
    _key("vm_uuid", "vms.uuid", primary_key=True),
    _text("snapshot_uuid"),
    _snapshot_key("snapshot_uuid"),
)

volumes = sa.Table(
    "volumes",
    metadata,
    sa.Column("uuid", AnyText, primary_key=True),
    _key("vm_uuid", "vms.uuid"),
    _text("target"),
    _text("directory"),
    sa.Column("capacity_bytes", sa.BigInteger),
    sa.Index(None, "vm_uuid"),
)

layers = sa.Table(
    "layers",
    metadata,
    sa.Column("uuid", AnyText, primary_key=True),
    _key("volume_uuid", "volumes.uuid"),
    sa.Column("parent_uuid", AnyText, sa.ForeignKey("layers.uuid", deferrable=True, initially="DEFERRED")),
    _text("path"),
    _text("format"),
    sa.Column("foreign", sa.Boolean, nullable=False),
    sa.Column("disk_bytes", sa.BigInteger),  # of one below a head; a head's own changes with every write
    sa.Index(None, "volume_uuid"),
    sa.Index(None, "parent_uuid"),
)

volume_heads = sa.Table(
    "volume_heads",
    metadata,
    _key("volume_uuid", "volumes.uuid", primary_key=True),
    _key("layer_uuid", "layers.uuid"),
    sa.Index(None, "layer_uuid"),
)

disk_snapshots = sa.Table(
    "disk_snapshots",
    metadata,
    sa.Column("uuid", AnyText, primary_key=True),
    _key("snapshot_uuid", "snapshots.uuid"),
    _number("position"),
    _key("volume_uuid", "volumes.uuid"),
    _key("layer_uuid", "layers.uuid"),
    _text("target"),
    sa.UniqueConstraint("snapshot_uuid", "position"),
    sa.Index(None, "volume_uuid"),
    sa.Index(None, "layer_uuid"),
)

memory_states = sa.Table(
    "memory_states",
    metadata,
    _key("snapshot_uuid", "snapshots.uuid", primary_key=True),
    sa.Column("uuid", AnyText, nullable=False, unique=True),
    _text("location"),
    _text("status"),
    _text("mode"),
    _number("progress"),
    _number("size_bytes"),
    _text("checksum"),
    _text("reason"),
)

operations = sa.Table(
    "operations",
    metadata,
    _row_id(),
    sa.Column("uuid", AnyText, nullable=False, unique=True),
    _text("vm_uuid"),
    _text("slot"),
    _text("kind"),
    _text("state"),
    _text("plan"),
    _number("started_at"),
    sa.Column("ended_at", sa.BigInteger),
    _text("error"),
    # The VM and the slot, while the operation is active: this unique column is law 6.
    sa.Column("lock_key", AnyText, unique=True),
    _added_text("tenant"),
    _added_text("vm_name"),
    _added_text("snapshot"),
    _added_text("step"),
    _added_number("bytes_done"),
    _added_number("bytes_total"),
    _added_number("rate_bytes_s"),
    sa.Column("cancel_requested", sa.Boolean, nullable=False, server_default=sa.false()),
    _added_number("reserved_bytes"),
    _added_number("reserved_memory_bytes"),
    sa.CheckConstraint(
        "(lock_key IS NULL) = (state NOT IN ({}))".format(", ".join(f"'{state.value}'" for state in ACTIVE_STATES)),
        name="lock_held_while_active",
    ),
    sa.Index(None, "state"),
    sa.Index(None, "vm_uuid", "id"),
    sa.Index(None, "tenant", "id"),
)

operation_steps = sa.Table(
    "operation_steps",
    metadata,
    _key("operation_uuid", "operations.uuid", primary_key=True),
    sa.Column("position", sa.BigInteger, primary_key=True, autoincrement=False),
    _text("step"),
    sa.UniqueConstraint("operation_uuid", "step"),
)

tenants = sa.Table(
    "tenants",
    metadata,
    sa.Column("tenant", AnyText, primary_key=True),
    sa.Column("memory_open", sa.Boolean),
    sa.Column("memory_bytes", sa.BigInteger),
    sa.Column("space_bytes", sa.BigInteger),
    sa.Column("max_snapshots", sa.BigInteger),
)

api_keys = sa.Table(
    "api_keys",
    metadata,
    _row_id(),
    sa.Column("key_id", AnyText, nullable=False, unique=True),
    _text("role"),
    _text("tenant"),
    _text("description"),
    _text("salt"),
    _text("digest"),
    _number("created_at"),
    _text("created_by"),
    sa.Column("expires_at", sa.BigInteger),
    sa.Column("revoked_at", sa.BigInteger),
    sa.Index(None, "tenant", "id"),
)

# who is signed in to the console
sessions = sa.Table(
    "sessions",
    metadata,
    sa.Column("digest", AnyText, primary_key=True),
    _text("key_id"),
    _number("created_at"),
    _number("expires_at"),
    sa.Index(None, "expires_at"),
)

operation_log = sa.Table(
    "operation_log",
    metadata,
    _row_id(),
    _number("at"),
    _text("who"),
    _text("address"),
    _text("tenant"),
    _text("call"),
    _text("vm_uuid"),
    _text("vm_name"),
    _text("mark"),
    _text("snapshot"),
    _number("scode"),
    _text("desc"),
    _number("duration_ms"),
    _text("operation_uuid"),
    _added_text("uuid"),
    sa.Index(None, "uuid", unique=True),
    sa.Index(None, "at", "id"),
    # each in the order in which pages show them
    *(
        sa.Index(None, column, "at", "id")
        for column in ("call", "scode", "tenant", "who", "snapshot", "vm_uuid", "operation_uuid")
    ),
)

# calls that are under way: what is left here when the service starts has been cut off
log_begun = sa.Table(
    "log_begun",
    metadata,
    sa.Column("uuid", AnyText, primary_key=True),
    _number("at"),
    *(
        _text(name)
        for name in ("who", "address", "tenant", "call", "vm_uuid", "vm_name", "mark", "snapshot", "operation_uuid")
    ),
)


def values_of(record: DataclassInstance, table: sa.Table, **further: str | int | None) -> dict[str, Any]:
    """A frozen dataclass as a row: its fields that are columns of the table, and ``further`` columns."""
    return {f.name: getattr(record, f.name) for f in fields(record) if f.name in table.c} | further
