"""Looking at a SQLite database that no service has open; and rows that nobody can read."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from stillframe.adapters.metadata.database import look_at_metadata, open_metadata
from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.snapshot import CaptureMode, MemoryState, MemoryStatus, Snapshot
from stillframe.ports.metadata import OperationRow, OperationState, Slot

if TYPE_CHECKING:
    from pathlib import Path

VM = "0b6b2f0e-vm"
SECRET = "hunter2"  # noqa: S105 -- a made-up one, to look for in what is said
MEMORY = MemoryState("m", "file:///m", MemoryStatus.AVAILABLE, CaptureMode.BACKGROUND)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A database with a VM, a snapshot of it, and an operation."""
    path = tmp_path / "stillframe.db"
    with closing(open_metadata(f"sqlite:///{path}")) as metadata, metadata.write() as tx:
        tx.layers.insert_volume(Volume("v", VM, "vda", "l", "/d"))
        tx.layers.insert_layer(Layer("l", "v", None, "/d/l", "qcow2", foreign=True))
        tx.snapshots.insert(
            Snapshot("s", VM, 0, "a", "", None, 1000, "t", "T", "n", "{}", SECRET, "c", disks=(), memory=MEMORY)
        )
        tx.journal.open(OperationRow("o", VM, Slot.EXCLUSIVE, "k", OperationState.LEFT, SECRET, (), 1, 1, ""))
    return path


def files(path: Path) -> dict[str, bytes]:
    return {one.name: one.read_bytes() for one in path.parent.iterdir()}


def test_everything_can_be_read_and_nothing_written(path: Path) -> None:
    with closing(open_metadata(f"sqlite:///{path}")) as metadata:
        uuid = metadata.cluster_uuid()
    before = files(path)
    with closing(look_at_metadata(path)) as looking:
        assert (looking.cluster_uuid(), looking.problems()) == (uuid, [])
        with looking.read() as tx:
            assert [snapshot.name for snapshot in tx.snapshots.of_vm(VM)] == ["a"]
            assert [row.uuid for row in tx.journal.left()] == ["o"]
        with pytest.raises(Failed), looking.write() as tx:
            tx.facts.put("name", "value")
    assert files(path) == before


def test_what_stands_in_the_log_of_a_killed_service_is_seen(path: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy" / "stillframe.db"
    copy.parent.mkdir()
    with closing(open_metadata(f"sqlite:///{path}")) as metadata:
        with metadata.write() as tx:
            tx.facts.put("late", "yes")
        for suffix in ("", "-wal"):  # as they lie there at this moment
            copy.with_name(copy.name + suffix).write_bytes(path.with_name(path.name + suffix).read_bytes())
    before = files(copy)
    with closing(look_at_metadata(copy)) as looking, looking.read() as tx:
        assert tx.facts.get("late") == "yes"
    assert {name: data for name, data in files(copy).items() if name in before} == before


def test_what_is_no_database_or_is_gone_is_damaged(path: Path) -> None:
    path.write_bytes(b"\xa5" * 8192)
    with pytest.raises(Failed) as damaged:
        look_at_metadata(path)
    assert damaged.value.case is ErrorCase.DATABASE_DAMAGED
    with pytest.raises(StillframeError) as refused:
        open_metadata(f"sqlite:///{path}")
    assert refused.value.case is ErrorCase.DATABASE_DAMAGED
    path.unlink()
    with pytest.raises(Failed) as gone:
        look_at_metadata(path)
    assert gone.value.case is ErrorCase.DATABASE_DAMAGED
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("version", ["0001", "9999"])
def test_another_versions_database_is_left_as_it_is(path: Path, version: str) -> None:
    with closing(sqlite3.connect(path)) as database, database:
        database.execute("UPDATE alembic_version SET version_num = ?", (version,))
    before = files(path)
    with pytest.raises(Refused) as refusal:
        look_at_metadata(path)
    assert refusal.value.case is ErrorCase.STORAGE_FAILED
    assert version in refusal.value.desc
    assert files(path) == before


@pytest.mark.parametrize(
    ("statement", "named"),
    [
        ("UPDATE memory_states SET status = 'hunter2'", f"the snapshots of VM {VM}"),
        ("UPDATE operations SET state = 'hunter2', lock_key = NULL", "the journal"),
        ("UPDATE snapshots SET description = CAST(X'68756e74657232ff' AS TEXT)", "text"),
    ],
)
def test_rows_that_cannot_be_read_are_a_problem_and_not_an_error(path: Path, statement: str, named: str) -> None:
    """As after a page that was written over with another one: SQLite itself sees nothing wrong."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA ignore_check_constraints = ON")
        with database:
            database.execute(statement)
    with closing(look_at_metadata(path)) as looking, closing(open_metadata(f"sqlite:///{path}")) as opened:
        for metadata in (looking, opened):
            (problem,) = metadata.problems()
            assert named in problem
            assert SECRET not in problem
