"""Limits, use and reservations as rows: see ``stillframe.ports.quotas`` for the promises."""

from __future__ import annotations

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import (
    layers,
    memory_states,
    operations,
    snapshots,
    tenants,
    values_of,
    vms,
    volume_heads,
    volumes,
)
from stillframe.domain.quota import Demand, TenantLimits, Used
from stillframe.ports.metadata import OperationState
from stillframe.ports.quotas import Unmeasured

_FROZEN = layers.c.uuid.not_in(sa.select(volume_heads.c.layer_uuid))
# a left operation has files as well, until it is finished or undone
_UNFINISHED = sa.or_(operations.c.lock_key.is_not(None), operations.c.state == OperationState.LEFT)


class SqlQuotas:
    """Limits and use on one connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def limits(self, tenant: str) -> TenantLimits:
        row = self._connection.execute(sa.select(tenants).where(tenants.c.tenant == tenant)).one_or_none()
        return TenantLimits(tenant) if row is None else TenantLimits(**row._asdict())

    def set_limits(self, limits: TenantLimits) -> None:
        self._connection.execute(sa.delete(tenants).where(tenants.c.tenant == limits.tenant))
        self._connection.execute(sa.insert(tenants).values(values_of(limits, tenants)))

    def tenants(self) -> list[str]:
        found = sa.union(sa.select(tenants.c.tenant), sa.select(vms.c.tenant).where(vms.c.tenant != ""))
        return sorted(self._connection.scalars(found))

    def largest(self, most: int) -> list[str]:
        of_layers = (
            sa.select(vms.c.tenant, layers.c.disk_bytes.label("size"))
            .select_from(vms.join(volumes, volumes.c.vm_uuid == vms.c.uuid))
            .join(layers, layers.c.volume_uuid == volumes.c.uuid)
            .where(_FROZEN)
        )
        of_memory = (
            sa.select(vms.c.tenant, memory_states.c.size_bytes.label("size"))
            .select_from(vms.join(snapshots, snapshots.c.vm_uuid == vms.c.uuid))
            .join(memory_states, memory_states.c.snapshot_uuid == snapshots.c.uuid)
        )
        # also those that have a virtual machine, and nothing that was measured
        everything = sa.union_all(of_layers, of_memory, sa.select(vms.c.tenant, sa.literal(0).label("size"))).subquery()
        ranked = (
            sa.select(everything.c.tenant)
            .where(everything.c.tenant != "")
            .group_by(everything.c.tenant)
            .order_by(sa.func.coalesce(sa.func.sum(everything.c.size), 0).desc(), everything.c.tenant)
            .limit(most)
        )
        return list(self._connection.scalars(ranked))

    def used(self, *, tenant: str = "", vm_uuid: str = "", without: str = "") -> Used:
        mine = vms.c.uuid == vm_uuid if vm_uuid else vms.c.tenant == tenant
        whose = operations.c.vm_uuid == vm_uuid if vm_uuid else operations.c.tenant == tenant
        in_layers = (
            sa.select(sa.func.coalesce(sa.func.sum(layers.c.disk_bytes), 0))
            .join(volumes, volumes.c.uuid == layers.c.volume_uuid)
            .join(vms, vms.c.uuid == volumes.c.vm_uuid)
            .where(mine, _FROZEN)
        )
        in_memory = (
            sa.select(sa.func.coalesce(sa.func.sum(memory_states.c.size_bytes), 0))
            .join(snapshots, snapshots.c.uuid == memory_states.c.snapshot_uuid)
            .join(vms, vms.c.uuid == snapshots.c.vm_uuid)
            .where(mine)
        )
        reserved = sa.select(
            sa.func.coalesce(sa.func.sum(operations.c.reserved_bytes), 0),
            sa.func.coalesce(sa.func.sum(operations.c.reserved_memory_bytes), 0),
        ).where(whose, _UNFINISHED, operations.c.uuid != without)
        capacity = (
            sa.select(sa.func.coalesce(sa.func.sum(volumes.c.capacity_bytes), 0))
            .join(vms, vms.c.uuid == volumes.c.vm_uuid)
            .where(mine)
        )
        counts = sa.select(sa.func.count(), sa.func.count(sa.distinct(snapshots.c.vm_uuid))).select_from(
            snapshots.join(vms, vms.c.uuid == snapshots.c.vm_uuid)
        )
        space, memory = self._connection.execute(reserved).one()
        snapshot_count, vm_count = self._connection.execute(counts.where(mine)).one()
        return Used(
            space_bytes=int(self._connection.execute(in_layers).scalar_one()) + int(space),
            memory_bytes=int(self._connection.execute(in_memory).scalar_one()) + int(memory),
            capacity_bytes=int(self._connection.execute(capacity).scalar_one()),
            snapshots=int(snapshot_count),
            vms=int(vm_count),
        )

    def reserve(self, operation_uuid: str, demand: Demand) -> None:
        self._set_reserved(operation_uuid, demand.space_bytes, demand.memory_bytes)

    def release(self, operation_uuid: str) -> None:
        self._set_reserved(operation_uuid, 0, 0)

    def layer_bytes(self, vm_uuid: str) -> dict[str, int]:
        measured = (
            sa.select(layers.c.uuid, layers.c.disk_bytes)
            .join(volumes, volumes.c.uuid == layers.c.volume_uuid)
            .where(volumes.c.vm_uuid == vm_uuid, layers.c.disk_bytes.is_not(None))
        )
        return {row.uuid: int(row.disk_bytes) for row in self._connection.execute(measured)}

    def set_layer_bytes(self, layer_uuid: str, disk_bytes: int) -> None:
        self._connection.execute(sa.update(layers).where(layers.c.uuid == layer_uuid).values(disk_bytes=disk_bytes))

    def set_vm(self, vm_uuid: str, tenant: str, capacities: dict[str, int]) -> None:
        self._connection.execute(sa.update(vms).where(vms.c.uuid == vm_uuid).values(tenant=tenant))
        for volume_uuid, capacity_bytes in capacities.items():
            change = sa.update(volumes).where(volumes.c.uuid == volume_uuid, volumes.c.vm_uuid == vm_uuid)
            self._connection.execute(change.values(capacity_bytes=capacity_bytes))

    def vm_tenants(self) -> dict[str, str]:
        return {row.uuid: row.tenant for row in self._connection.execute(sa.select(vms.c.uuid, vms.c.tenant))}

    def unmeasured(self) -> list[Unmeasured]:
        rows = self._connection.execute(
            sa.select(layers.c.uuid, layers.c.path).where(layers.c.disk_bytes.is_(None), _FROZEN)
        )
        return [Unmeasured(row.uuid, row.path) for row in rows]

    def busy(self, tenant: str) -> tuple[int, int]:
        of_all = sa.select(sa.func.count()).select_from(operations).where(operations.c.lock_key.is_not(None))
        own = self._connection.execute(of_all.where(operations.c.tenant == tenant)).scalar_one()
        return int(own), int(self._connection.execute(of_all).scalar_one())

    def _set_reserved(self, operation_uuid: str, space_bytes: int, memory_bytes: int) -> None:
        change = sa.update(operations).where(operations.c.uuid == operation_uuid)
        self._connection.execute(change.values(reserved_bytes=space_bytes, reserved_memory_bytes=memory_bytes))
