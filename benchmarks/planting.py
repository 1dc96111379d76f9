"""A long history, straight into the tables of either database: no file of it exists, and nothing but reads is done with it."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from stillframe.adapters.metadata import open_metadata
from stillframe.domain.compute import ComputeInspectInfo, DiskInfo, DiskVsdSource, Interface, Video

PER_VM = 1000
_BATCH = 20_000  # rows that lie in memory at a time
_BEGUN = 1_700_000_000
_WITH_MEMORY = 4  # every so many snapshots one
# as long as a definition of libvirt's is, and as little like the next as those are
_DEFINITION = "".join(f"<controller index='{n}'><address slot='0x{n:02x}' type='pci'/></controller>" for n in range(60))

Row = tuple[Any, ...]
COLUMNS = {
    "vms": ("uuid", "last_seq", "tenant"),
    "volumes": ("uuid", "vm_uuid", "target", "directory", "capacity_bytes"),
    "layers": ("uuid", "volume_uuid", "parent_uuid", "path", "format", "foreign", "disk_bytes"),
    "volume_heads": ("volume_uuid", "layer_uuid"),
    "snapshots": (
        *("uuid", "vm_uuid", "seq", "name", "description", "parent_uuid", "ctime", "tenant", "tenant_name", "namespace"),
        *("vm_detail", "definition_xml", "definition_checksum", "screenshot_checksum", "operation_uuid"),
    ),
    "disk_snapshots": ("uuid", "snapshot_uuid", "position", "volume_uuid", "layer_uuid", "target"),
    "memory_states": (
        *("snapshot_uuid", "uuid", "location", "status", "mode", "progress", "size_bytes", "checksum", "reason"),
    ),
    "vm_heads": ("vm_uuid", "snapshot_uuid"),
}  # fmt: skip


@dataclass
class _Grown:
    """One virtual machine's history as far as it has come."""

    vm_uuid: str
    volume_uuid: str
    snapshots: list[str]
    layer_uuid: str = ""


def rows(vm_uuids: Sequence[str], snapshots: int = PER_VM) -> Iterator[tuple[str, Row]]:
    """(table, row) of a history in which every machine gets its next snapshot in the same night.

    So a machine's rows lie far apart, as they do in a database that has grown. A branch off an older one at every 25th.
    """
    vms = [_Grown(vm_uuid, str(uuid.uuid4()), []) for vm_uuid in vm_uuids]
    details = {vm.vm_uuid: json.dumps(asdict(_detail(vm)), ensure_ascii=False) for vm in vms}
    for vm in vms:
        yield "vms", (vm.vm_uuid, snapshots, "default")
        yield "volumes", (vm.volume_uuid, vm.vm_uuid, "vda", f"/images/{vm.vm_uuid}", 20 << 30)
    for number in range(snapshots):
        for vm in vms:
            yield from _night(vm, number, details[vm.vm_uuid])
    for vm in vms:
        yield "volume_heads", (vm.volume_uuid, vm.layer_uuid)
        yield "vm_heads", (vm.vm_uuid, vm.snapshots[-1])


def _night(vm: _Grown, number: int, detail: str) -> Iterator[tuple[str, Row]]:
    one, layer_uuid = str(uuid.uuid4()), str(uuid.uuid4())
    above = number - 1 if number % 25 else number - 17 if number else -1
    path = f"/images/{vm.vm_uuid}/disk.{number}.qcow2"
    yield "layers", (layer_uuid, vm.volume_uuid, vm.layer_uuid or None, path, "qcow2", False, 64 << 20)
    yield "snapshots", (
        *(one, vm.vm_uuid, number + 1, f"nightly {number:04}", "before the update", vm.snapshots[above] if number else None),
        *(_BEGUN + number * 86400, "default", "默认", "", detail, f"<domain><uuid>{one}</uuid>{_DEFINITION}</domain>"),
        *("blake3:" + one.replace("-", "") * 2, "", str(uuid.uuid4())),
    )  # fmt: skip
    yield "disk_snapshots", (str(uuid.uuid4()), one, 0, vm.volume_uuid, layer_uuid, "vda")
    if number % _WITH_MEMORY == 0:
        memory = str(uuid.uuid4())
        state = (f"file:///memory/{memory}", "available", "background-snapshot", 100, 600 << 20)
        yield "memory_states", (one, memory, *state, "blake3:" + memory.replace("-", "") * 2, "")
    vm.snapshots.append(one)
    vm.layer_uuid = layer_uuid


def plant_sqlite(path: Path, vm_uuids: Sequence[str]) -> None:
    """A new database of this version at ``path``, with a history of these machines."""
    open_metadata(f"sqlite:///{path}").close()
    with closing(sqlite3.connect(path, isolation_level=None)) as database:
        for pragma in ("journal_mode = OFF", "synchronous = OFF", "cache_size = -4000000"):
            database.execute(f"PRAGMA {pragma}")
        database.execute("BEGIN")
        for table, batch in _batches(rows(vm_uuids)):
            columns = COLUMNS[table]
            names, marks = ", ".join(f'"{name}"' for name in columns), ", ".join("?" * len(columns))
            database.executemany(f"INSERT INTO {table} ({names}) VALUES ({marks})", batch)  # noqa: S608 -- our own names
        database.execute("COMMIT")
        database.execute("PRAGMA journal_mode = WAL")


def plant_postgresql(url: str, connection: psycopg.Connection[Any], vm_uuids: Sequence[str]) -> None:
    """The same in the empty database at ``url``, to which ``connection`` leads as well."""
    open_metadata(url).close()
    connection.execute("SET session_replication_role = replica")  # the references hold: they need not be looked up
    for table, batch in _batches(rows(vm_uuids)):
        columns = sql.SQL(", ").join(map(sql.Identifier, COLUMNS[table]))
        copy = sql.SQL("COPY {} ({}) FROM STDIN").format(sql.Identifier(table), columns)
        with connection.cursor().copy(copy) as copying:
            for row in batch:
                copying.write_row(row)
    connection.execute("VACUUM (ANALYZE)")  # what autovacuum does within minutes


def _batches(found: Iterable[tuple[str, Row]]) -> Iterator[tuple[str, list[Row]]]:
    waiting: dict[str, list[Row]] = {}
    for table, row in found:
        batch = waiting.setdefault(table, [])
        batch.append(row)
        if len(batch) >= _BATCH:
            yield table, waiting.pop(table)
    yield from waiting.items()


def _detail(vm: _Grown) -> ComputeInspectInfo:
    """What ``vm_detail`` holds of a machine with one disk and one interface."""
    source = DiskVsdSource(vm.volume_uuid, "disk.qcow2", 20 << 30, "", f"/images/{vm.vm_uuid}", 1, "", "", "file")
    return ComputeInspectInfo(
        tenant="default", tenant_name="默认", uuid=vm.vm_uuid, name=f"machine-{vm.vm_uuid[:8]}", type="GUS",
        create_time=0, modify_time=0, state="running", ga_state="connected", action="noaction", os="", namespace="",
        mem_size=4 << 30, mem_max=4 << 30, memory_huge_pages_enable=False, os_loader_path="BIOS",
        video=[Video("vga", 1, 0, 16384)], vnc_enable=True, vnc_port=5900, spice_port=0, cpu_current="2",
        cpu_max_count=2, cpu_sockets=1, cpu_socket_cores=2, baseline="host-model",
        interfaces=[Interface("", "virtio", "bridge", "52:54:00:12:34:56", "vnet0", "", [], "", "")],
        cdrom={}, floppy={}, disks=[DiskInfo("vda", "virtio", "none", "", "", True, disk_vsd_source=source)],
        device_order=["vda"], is_external_disk=False, has_passthrough_disk=False,
        cluster_uuid=vm.vm_uuid, cluster_name="stillframe",
    )  # fmt: skip
