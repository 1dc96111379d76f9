"""A database of an earlier version is brought up to this one's schema and reads back well, on both databases."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from stillframe.adapters.metadata import open_metadata
from stillframe.adapters.metadata.engines import make_engines
from stillframe.domain.snapshot import CaptureMode, DiskSnapshot, MemoryState, MemoryStatus, Snapshot
from stillframe.ports.metadata import ACTIVE_STATES, OperationFilter, OperationRow, OperationState, Slot

if TYPE_CHECKING:
    pass

VM = "0b6b2f0e-vm"


def insert(connection: sa.Connection, table: str, **values: Any) -> None:
    """A row as an earlier version wrote it: that version's tables, not those that the code knows now."""
    columns = ", ".join(f'"{name}"' for name in values)
    places = ", ".join(f":{name}" for name in values)
    connection.execute(sa.text(f"INSERT INTO {table} ({columns}) VALUES ({places})"), values)  # noqa: S608 -- our own


def make_revision_1(url: str) -> None:
    """Two snapshots, one with memory, and operations in every state, as revision 0001 had them."""
    engines = make_engines(url, 30.0)
    with engines.writer.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", "stillframe.adapters.metadata:migrations")
        command.upgrade(config, "0001")
        insert(connection, "service_facts", name="cluster_uuid", value="the cluster")
        insert(connection, "vms", uuid=VM, last_seq=2)
        for seq, (name, parent) in enumerate((("base", None), ("快照", "base")), 1):
            texts = dict.fromkeys(("description", "tenant", "tenant_name", "namespace", "screenshot_checksum"), "")
            stored = {"vm_detail": "{}", "definition_xml": "<domain/>", "definition_checksum": "blake3:0"}
            row = {"uuid": name, "vm_uuid": VM, "seq": seq, "name": name, "parent_uuid": parent, "ctime": 1000 + seq}
            insert(connection, "snapshots", **row, **texts, **stored)
        insert(connection, "vm_heads", vm_uuid=VM, snapshot_uuid="快照")
        insert(connection, "volumes", uuid="v", vm_uuid=VM, target="vda", directory="/d")
        layer = {"uuid": "l", "volume_uuid": "v", "parent_uuid": None, "path": "/p", "format": "raw", "foreign": True}
        insert(connection, "layers", **layer)
        insert(connection, "volume_heads", volume_uuid="v", layer_uuid="l")
        disk = {"uuid": "ds", "snapshot_uuid": "base", "position": 0, "volume_uuid": "v", "layer_uuid": "l"}
        insert(connection, "disk_snapshots", **disk, target="vda")
        memory = {"snapshot_uuid": "快照", "uuid": "m", "location": "file:///m", "status": "saving", "mode": "live"}
        insert(connection, "memory_states", **memory, progress=7, size_bytes=0, checksum="", reason="why")
        for number, state in enumerate(OperationState):
            operation = {"uuid": f"o-{state}", "vm_uuid": f"vm-{state}", "slot": "exclusive", "kind": "create"}
            active = state in ACTIVE_STATES
            times = {"started_at": 100 + number, "ended_at": None if active else 200 + number}
            lock = {"lock_key": f"vm-{state}/exclusive" if active else None}
            told = {"state": state.value, "plan": '{"计划": 1}', "progress": 50, "error": "", **lock}
            insert(connection, "operations", **operation, **times, **told)
            insert(connection, "operation_steps", operation_uuid=f"o-{state}", position=0, step="make overlays")
    engines.dispose()


def as_it_was(number: int, state: OperationState) -> OperationRow:
    return OperationRow(
        uuid=f"o-{state}",
        vm_uuid=f"vm-{state}",
        slot=Slot.EXCLUSIVE,
        kind="create",
        state=state,
        plan='{"计划": 1}',
        steps_done=("make overlays",),
        started_at=100 + number,
        ended_at=None if state in ACTIVE_STATES else 200 + number,
        error="",
    )


def test_operations_of_every_state_are_still_there(empty_url: str) -> None:
    make_revision_1(empty_url)
    rows = [as_it_was(number, state) for number, state in enumerate(OperationState)]
    for _ in range(2):
        with closing(open_metadata(empty_url)) as metadata:
            assert metadata.cluster_uuid() == "the cluster"
            with metadata.read() as tx:
                assert tx.journal.page(OperationFilter()) == rows[::-1]
                assert tx.journal.active() == [row for row in rows if row.state in ACTIVE_STATES]
                assert [row.state for row in tx.journal.left()] == [OperationState.LEFT]
                assert tx.journal.page(OperationFilter(cancel_requested=True)) == []


def test_what_was_interrupted_can_be_finished(empty_url: str) -> None:
    make_revision_1(empty_url)
    with closing(open_metadata(empty_url)) as metadata, metadata.write() as tx:
        tx.journal.step_done("o-running", "publish", committed=True)
        tx.journal.set_state("o-running", OperationState.DONE, at=300)
        assert tx.journal.request_cancel("o-planning") is OperationState.PLANNING
        tx.journal.open(OperationRow("new", VM, Slot.EXCLUSIVE, "create", OperationState.PLANNING, "", (), 1, None, ""))
        assert [row.uuid for row in tx.journal.page(OperationFilter(limit=1))] == ["new"]


def test_snapshots_are_still_there_and_know_no_operation(empty_url: str) -> None:
    make_revision_1(empty_url)
    shared = {"vm_uuid": VM, "description": "", "tenant": "", "tenant_name": "", "namespace": "", "vm_detail": "{}"}
    shared |= {"definition_xml": "<domain/>", "definition_checksum": "blake3:0", "operation_uuid": ""}
    disk, memory = (
        DiskSnapshot("ds", "v", "l", "vda"),
        MemoryState("m", "file:///m", MemoryStatus.SAVING, CaptureMode.LIVE),
    )
    base: dict[str, Any] = {"uuid": "base", "name": "base", "seq": 1, "parent_uuid": None, "ctime": 1001}
    on_it: dict[str, Any] = {"uuid": "快照", "name": "快照", "seq": 2, "parent_uuid": "base", "ctime": 1002}
    with closing(open_metadata(empty_url)) as metadata:
        with metadata.read() as tx:
            assert tx.snapshots.of_vm(VM) == [
                Snapshot(**shared, **base, disks=(disk,)),
                Snapshot(**shared, **on_it, disks=(), memory=replace(memory, progress=7, reason="why")),
            ]
            assert tx.snapshots.nodes(VM)[1] == "快照"
        with metadata.write() as tx:
            later = Snapshot(**{**shared, **on_it, "uuid": "new", "name": "new", "operation_uuid": "o"}, disks=())
            assert tx.snapshots.insert(later).seq == 3
            tx.snapshots.remove("base")
        with metadata.read() as tx:
            assert [snapshot.operation_uuid for snapshot in tx.snapshots.of_vm(VM)] == ["", "o"]
