"""Volumes and layers as rows: see ``stillframe.ports.metadata.LayerRows`` for the promises.

The database refuses, at commit, to lose a layer that a snapshot, a volume's head or another layer refers to.
"""

from __future__ import annotations

import sqlalchemy as sa

from stillframe.adapters.metadata.schema import disk_snapshots, layers, snapshots, values_of, volume_heads, volumes
from stillframe.adapters.metadata.vms import ensure_vm
from stillframe.domain.layers import Layer, Volume


class SqlLayers:
    """Volumes and layers on one connection."""

    def __init__(self, connection: sa.Connection) -> None:
        self._connection = connection

    def vm_uuids(self) -> list[str]:
        found = sa.union(sa.select(volumes.c.vm_uuid), sa.select(snapshots.c.vm_uuid))
        return sorted(self._connection.scalars(found))

    def volumes(self, vm_uuid: str) -> list[Volume]:
        """By target, then by uuid."""
        rows = self._connection.execute(
            sa.select(volumes, volume_heads.c.layer_uuid)
            .join(volume_heads, volume_heads.c.volume_uuid == volumes.c.uuid)
            .where(volumes.c.vm_uuid == vm_uuid)
            .order_by(volumes.c.target, volumes.c.uuid)
        )
        return [Volume(row.uuid, row.vm_uuid, row.target, row.layer_uuid, row.directory) for row in rows]

    def layers(self, vm_uuid: str) -> list[Layer]:
        """By volume, then by uuid."""
        rows = self._connection.execute(
            sa.select(layers)
            .join(volumes, volumes.c.uuid == layers.c.volume_uuid)
            .where(volumes.c.vm_uuid == vm_uuid)
            .order_by(layers.c.volume_uuid, layers.c.uuid)
        )
        return [Layer(row.uuid, row.volume_uuid, row.parent_uuid, row.path, row.format, row.foreign) for row in rows]

    def referenced(self, vm_uuid: str) -> set[str]:
        by_snapshots = (
            sa.select(disk_snapshots.c.layer_uuid)
            .join(snapshots, snapshots.c.uuid == disk_snapshots.c.snapshot_uuid)
            .where(snapshots.c.vm_uuid == vm_uuid)
        )
        by_heads = (
            sa.select(volume_heads.c.layer_uuid)
            .join(volumes, volumes.c.uuid == volume_heads.c.volume_uuid)
            .where(volumes.c.vm_uuid == vm_uuid)
        )
        return set(self._connection.scalars(sa.union(by_snapshots, by_heads)))

    def insert_volume(self, volume: Volume) -> None:
        """Its head layer may follow in the same transaction. Nothing happens when the volume is there already."""
        if self._connection.scalar(sa.select(volumes.c.uuid).where(volumes.c.uuid == volume.uuid)) is not None:
            return
        ensure_vm(self._connection, volume.vm_uuid)
        self._connection.execute(sa.insert(volumes).values(values_of(volume, volumes)))
        self._connection.execute(
            sa.insert(volume_heads).values(volume_uuid=volume.uuid, layer_uuid=volume.head_layer_uuid)
        )

    def insert_layer(self, layer: Layer) -> None:
        if self._connection.scalar(sa.select(layers.c.uuid).where(layers.c.uuid == layer.uuid)) is None:
            self._connection.execute(sa.insert(layers).values(values_of(layer, layers)))

    def set_head(self, volume_uuid: str, layer_uuid: str) -> None:
        self._connection.execute(sa.delete(volume_heads).where(volume_heads.c.volume_uuid == volume_uuid))
        self._connection.execute(sa.insert(volume_heads).values(volume_uuid=volume_uuid, layer_uuid=layer_uuid))

    def record_merge(self, top_uuid: str, base_uuid: str) -> None:
        for references in (disk_snapshots.c.layer_uuid, volume_heads.c.layer_uuid, layers.c.parent_uuid):
            self._connection.execute(
                sa.update(references.table).where(references == top_uuid).values({references: base_uuid})
            )
        self._connection.execute(sa.delete(layers).where(layers.c.uuid == top_uuid))

    def record_pull(self, base_uuid: str) -> None:
        parent = self._connection.scalar(sa.select(layers.c.parent_uuid).where(layers.c.uuid == base_uuid))
        if parent is None:
            return
        self._connection.execute(sa.update(layers).where(layers.c.parent_uuid == base_uuid).values(parent_uuid=parent))
        self._connection.execute(sa.delete(layers).where(layers.c.uuid == base_uuid))

    def remove_layer(self, layer_uuid: str) -> None:
        volume_uuid = self._connection.scalar(sa.select(layers.c.volume_uuid).where(layers.c.uuid == layer_uuid))
        if volume_uuid is None:
            return
        self._connection.execute(sa.delete(layers).where(layers.c.uuid == layer_uuid))
        others = sa.select(sa.func.count()).where(layers.c.volume_uuid == volume_uuid)
        if self._connection.execute(others).scalar_one() == 0:
            self._connection.execute(sa.delete(volume_heads).where(volume_heads.c.volume_uuid == volume_uuid))
            self._connection.execute(sa.delete(volumes).where(volumes.c.uuid == volume_uuid))
