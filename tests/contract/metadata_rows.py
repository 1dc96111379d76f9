"""A snapshot and an operation as the tests of the database want them: few of their fields matter there."""

from __future__ import annotations

from stillframe.domain.snapshot import Snapshot
from stillframe.ports.metadata import OperationRow, OperationState, Slot

VM = "0b6b2f0e-vm"
SECRET = "hunter2-in-definition-xml"  # noqa: S105 — a made-up one, to look for in errors


def a_snapshot(name: str) -> Snapshot:
    return Snapshot(name, VM, 0, name, "", None, 1000, "t1", "T", "n", "{}", SECRET, "blake3:00", disks=())


def an_operation(uuid: str) -> OperationRow:
    return OperationRow(uuid, VM, Slot.EXCLUSIVE, "create", OperationState.PLANNING, "", (), 10, None, "")
