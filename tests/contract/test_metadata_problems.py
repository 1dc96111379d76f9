"""What a database says of itself when it is sound, and when it is damaged."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from contract.metadata_rows import SECRET, VM, a_snapshot, an_operation
from stillframe.adapters.metadata import SqlMetadata, open_metadata
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.snapshot import DiskSnapshot

if TYPE_CHECKING:
    from pathlib import Path


def unchecked(metadata: SqlMetadata, *statements: str) -> None:
    """Past every foreign key."""
    with metadata._engines.writer.connect() as connection:
        if connection.dialect.name == "sqlite":
            # a pragma only counts outside a transaction
            connection.connection.driver_connection.execute("PRAGMA foreign_keys = OFF")  # type: ignore[union-attr]
        with connection.begin():
            if connection.dialect.name == "postgresql":
                connection.exec_driver_sql("SET LOCAL session_replication_role = replica")
            for statement in statements:
                connection.exec_driver_sql(statement)
        if connection.dialect.name == "sqlite":
            connection.connection.driver_connection.execute("PRAGMA foreign_keys = ON")  # type: ignore[union-attr]


def test_a_sound_database_has_none(metadata: SqlMetadata) -> None:
    assert metadata.problems() == []
    with metadata.write() as tx:
        tx.snapshots.insert(a_snapshot("one"))
        tx.layers.insert_volume(Volume("v", VM, "vda", "l", "/d"))
        tx.layers.insert_layer(Layer("l", "v", None, "/d/l", "qcow2", foreign=True))
        tx.journal.open(an_operation("o"))
        tx.journal.step_done("o", "step", committed=False)
    assert metadata.problems() == []


def test_rows_that_refer_to_nothing_are_named(metadata: SqlMetadata) -> None:
    with metadata.write() as tx:
        tx.layers.insert_volume(Volume("v", VM, "vda", "top", "/d"))
        tx.layers.insert_layer(Layer("base", "v", None, "/d/base", "qcow2", foreign=True))
        tx.layers.insert_layer(Layer("top", "v", "base", "/d/top", "qcow2", foreign=False))
        tx.snapshots.insert(replace(a_snapshot("one"), disks=(DiskSnapshot("d", "v", "base", "vda"),)))
    unchecked(metadata, "DELETE FROM layers WHERE uuid = 'base'", "DELETE FROM snapshots WHERE uuid = 'one'")
    problems = metadata.problems()
    assert len(problems) == 4, problems
    for table, column, uuid in (
        ("vm_heads", "snapshot_uuid", "one"),
        ("layers", "parent_uuid", "base"),
        ("disk_snapshots", "snapshot_uuid", "one"),
        ("disk_snapshots", "layer_uuid", "base"),
    ):
        assert any(line.startswith(table) and column in line and f"names {uuid} " in line for line in problems)
    assert SECRET not in "".join(problems)


def test_a_damaged_file_is_a_problem_and_not_an_error(on_sqlite: SqlMetadata, tmp_path: Path) -> None:
    with on_sqlite.write() as tx:
        for number in range(200):
            tx.snapshots.insert(a_snapshot(f"snapshot {number}"))
    on_sqlite.close()
    path = tmp_path / "stillframe.db"
    whole = path.read_bytes()
    refused: set[ErrorCase] = set()
    for page in range(4, len(whole) // 4096):
        path.write_bytes(whole[: page * 4096] + b"\xa5" * 4096 + whole[(page + 1) * 4096 :])
        try:
            opened = open_metadata(f"sqlite:///{path}")
        except StillframeError as error:
            refused.add(error.case)
            continue  # so damaged that the service does not start
        with closing(opened):
            assert opened.problems(), f"page {page}"
    assert refused <= {ErrorCase.DATABASE_DAMAGED}


def test_a_database_that_cannot_be_asked_is_an_error(on_postgres: SqlMetadata) -> None:
    with on_postgres._engines.writer.begin() as connection:
        connection.exec_driver_sql("DROP TABLE vm_heads")
    with pytest.raises(Failed):
        on_postgres.problems()
