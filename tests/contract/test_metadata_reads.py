"""What a read costs is counted: statements, the way they are answered, and what is touched; none of it grows with the history.

The machine that is asked about is the same in a database with three of them and in one with thirty.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from typing import Any

import pytest
import sqlalchemy as sa

from stillframe.adapters.metadata import SqlMetadata, open_metadata
from stillframe.domain.access import Role
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.snapshot import CaptureMode, DiskSnapshot, MemoryState, MemoryStatus, Snapshot
from stillframe.ports.keys import KeyRow
from stillframe.ports.metadata import Transaction

VM = "0b6b2f0e-vm"
PER_VM = 24
FEW, MANY = 3, 30

READS: dict[str, Callable[[Transaction], object]] = {
    "list": lambda tx: tx.snapshots.page(VM, "", 5, 10),
    "list, filtered": lambda tx: tx.snapshots.page(VM, "1", 2, 5),
    "list, everything": lambda tx: tx.snapshots.page(VM, "", 0, None),
    "get": lambda tx: tx.snapshots.shown_by_name(VM, "n7"),
    "head": lambda tx: tx.snapshots.shown_head(VM),
    "tree": lambda tx: tx.snapshots.nodes(VM),
    "key": lambda tx: tx.keys.get("0123456789ab"),
}
STATEMENTS = {name: 2 if name == "tree" else 1 for name in READS}
# what is answered from an index alone, without a row
COVERED = {"list": "ix_snapshots_page", "list, filtered": "ix_snapshots_page", "tree": "ix_snapshots_tree"}


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def histories(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[SqlMetadata]]:
    """The short one and the long one."""
    with ExitStack() as stack:
        opened: list[SqlMetadata] = []
        for vms in (FEW, MANY):
            if request.param == "sqlite":
                url = f"sqlite:///{tmp_path_factory.mktemp('reads')}/stillframe.db"
            else:
                url = stack.enter_context(request.getfixturevalue("cluster").database())
            metadata = stack.enter_context(closing(open_metadata(url)))
            # in every index others stand before it and behind it, in the short history as well
            fill(metadata, ["00-vm", VM, "ff-vm", *(f"{number}-vm" for number in range(10, 10 + vms - FEW))])
            opened.append(metadata)
        yield opened


def fill(metadata: SqlMetadata, vm_uuids: list[str]) -> None:
    """Snapshots of two disks, every other one with memory; the machines take turns."""
    with metadata.write() as tx:
        for vm_uuid in vm_uuids:
            for target in ("vda", "vdb"):
                tx.layers.insert_volume(Volume(f"{vm_uuid}-{target}", vm_uuid, target, f"{vm_uuid}-{target}-0", "/d"))
                tx.layers.insert_layer(
                    Layer(f"{vm_uuid}-{target}-0", f"{vm_uuid}-{target}", None, "/d/l", "qcow2", True)
                )
        for number in range(PER_VM):
            for vm_uuid in vm_uuids:
                tx.snapshots.insert(a_snapshot(vm_uuid, number))
        tx.keys.insert(KeyRow("0123456789ab", Role.OPERATOR, "t", "", "00", "00", 1, ""))
    with metadata._engines.writer.connect() as connection:
        if connection.dialect.name == "postgresql":
            connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("VACUUM (ANALYZE)")


def a_snapshot(vm_uuid: str, number: int) -> Snapshot:
    uuid = f"{vm_uuid}-{number}"
    disks = tuple(
        DiskSnapshot(f"{uuid}-{target}", f"{vm_uuid}-{target}", f"{vm_uuid}-{target}-0", target)
        for target in ("vda", "vdb")
    )
    memory = MemoryState(f"{uuid}-m", "file:///m", MemoryStatus.AVAILABLE, CaptureMode.BACKGROUND)
    one = Snapshot(
        uuid, vm_uuid, 0, f"n{number}", "", f"{vm_uuid}-{number // 2}" if number else None, 1000 + number // 2, "t", "T",
        "n", '{"a":"' + "x" * 3000 + '"}', "<domain>" + "x" * 5000, "c", disks,
    )  # fmt: skip
    return replace(one, memory=memory) if number % 2 else one


Asked = list[tuple[str, Any]]


@contextmanager
def heard(metadata: SqlMetadata) -> Iterator[Asked]:
    """The statements that reads send, with their parameters."""
    asked: Asked = []

    def hear(_connection: object, _cursor: object, statement: str, parameters: Any, *_more: object) -> None:
        if statement != "BEGIN":
            asked.append((statement, parameters))

    sa.event.listen(metadata._engines.reader, "before_cursor_execute", hear)
    try:
        yield asked
    finally:
        sa.event.remove(metadata._engines.reader, "before_cursor_execute", hear)


def statements(metadata: SqlMetadata, name: str) -> Asked:
    with heard(metadata) as asked, metadata.read() as tx:
        READS[name](tx)
    return asked


@contextmanager
def driver(metadata: SqlMetadata) -> Iterator[Any]:
    """A connection as the driver has it, to explain statements on."""
    with metadata._engines.reader.connect() as connection:
        yield connection.connection.driver_connection


@pytest.mark.parametrize("name", READS)
def test_a_read_is_one_statement(histories: list[SqlMetadata], name: str) -> None:
    for metadata in histories:
        assert len(statements(metadata, name)) == STATEMENTS[name]


def test_a_page_behind_the_last_asks_once_more(histories: list[SqlMetadata]) -> None:
    """No row is there that could say how many there are."""
    for metadata in histories:
        with heard(metadata) as asked, metadata.read() as tx:
            assert tx.snapshots.page(VM, "", PER_VM, 10) == ([], PER_VM)
        assert len(asked) == 2


def test_nothing_is_asked_for_that_is_not_shown(histories: list[SqlMetadata]) -> None:
    for name in READS:
        assert not [one for one, _ in statements(histories[0], name) if "definition_xml" in one]


@pytest.mark.parametrize("name", READS)
def test_no_read_goes_through_a_table(histories: list[SqlMetadata], name: str) -> None:
    for metadata in histories:
        for statement, parameters in statements(metadata, name):
            with driver(metadata) as connection:
                ways = list(explained(connection, statement, parameters))
            assert ways
            assert not [way for way in ways if way.startswith(("SCAN", "Seq Scan"))], ways
            if name in COVERED and "vm_heads" not in statement:
                assert [way for way in ways if "COVERING" in way or "Index Only" in way if COVERED[name] in way], ways


@pytest.mark.parametrize("name", READS)
def test_a_read_touches_as_much_in_a_long_history_as_in_a_short_one(histories: list[SqlMetadata], name: str) -> None:
    few, many = ([touched(metadata, *one) for one in statements(metadata, name)] for metadata in histories)
    assert all(in_many <= in_few for in_few, in_many in zip(few, many, strict=True)), (few, many)
    assert all(count > 0 for count in few)


def explained(connection: Any, statement: str, parameters: Any) -> Iterator[str]:
    """How a statement is answered, step by step."""
    if isinstance(connection, sqlite3.Connection):
        for *_numbers, detail in connection.execute(f"EXPLAIN QUERY PLAN {statement}", parameters):
            yield str(detail)
        return
    for node in plan_nodes(connection, "EXPLAIN (FORMAT JSON)", statement, parameters):
        yield f"{node['Node Type']} {node.get('Relation Name', '')} {node.get('Index Name', '')}"


def touched(metadata: SqlMetadata, statement: str, parameters: Any) -> int:
    """What a statement does, in a measure of the database's own: steps of SQLite's machine, rows of PostgreSQL's plan."""
    with driver(metadata) as connection:
        if not isinstance(connection, sqlite3.Connection):
            nodes = list(plan_nodes(connection, "EXPLAIN (ANALYZE, FORMAT JSON)", statement, parameters))
            kept = sum(node["Actual Rows"] * node["Actual Loops"] for node in nodes)
            return int(kept + sum(node.get("Rows Removed by Filter", 0) * node["Actual Loops"] for node in nodes))
        steps = 0

        def count() -> int:
            nonlocal steps
            steps += 1
            return 0

        connection.set_progress_handler(count, 1)
        try:
            connection.execute(statement, parameters).fetchall()
        finally:
            connection.set_progress_handler(None, 0)
        return steps


def plan_nodes(connection: Any, explain: str, statement: str, parameters: Any) -> Iterator[dict[str, Any]]:
    with closing(connection.cursor()) as cursor:
        # so small a table is read as a whole, whatever indexes it has, unless that is made dear
        cursor.execute("SET LOCAL enable_seqscan = off")
        cursor.execute("SET LOCAL enable_bitmapscan = off")
        ((plan,),) = cursor.execute(f"{explain} {statement}", parameters).fetchall()
        connection.rollback()
    waiting = [plan[0]["Plan"]]
    while waiting:
        node = waiting.pop()
        yield node
        waiting += node.get("Plans", [])
