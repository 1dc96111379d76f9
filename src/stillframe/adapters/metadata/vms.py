"""A VM's own row: it exists as soon as something of the VM is stored."""

from __future__ import annotations

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import vms


def ensure_vm(connection: sa.Connection, vm_uuid: str) -> None:
    if connection.scalar(sa.select(vms.c.uuid).where(vms.c.uuid == vm_uuid)) is None:
        connection.execute(sa.insert(vms).values(uuid=vm_uuid, last_seq=0))


def next_seq(connection: sa.Connection, vm_uuid: str) -> int:
    """A number larger than any that the VM's snapshots ever had."""
    ensure_vm(connection, vm_uuid)
    connection.execute(sa.update(vms).where(vms.c.uuid == vm_uuid).values(last_seq=vms.c.last_seq + 1))
    return int(connection.execute(sa.select(vms.c.last_seq).where(vms.c.uuid == vm_uuid)).scalar_one())
