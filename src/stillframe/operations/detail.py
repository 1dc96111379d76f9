"""ComputeInspectInfo with what only the service knows: volumes, cluster, running action."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

from stillframe.domain.compute import ComputeInspectInfo, DiskInfo
from stillframe.domain.vm import Action, Vm
from stillframe.operations.disks import PlacedDisk
from stillframe.operations.requests import Cluster
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationRow, Slot

_ACTION_OF_KIND = {"rollback": Action.RESTORING, "rollback_volume": Action.RESTORING}


def action_of(operations: Collection[OperationRow]) -> Action:
    """What the platform is doing to a VM with these active operations."""
    for row in operations:
        if row.slot is Slot.EXCLUSIVE:
            return _ACTION_OF_KIND.get(row.kind, Action.PENDING)
    return Action.SAVE if operations else Action.NOACTION


def inspect_with_volumes(
    world: World, cluster: Cluster, vm: Vm, placed: Collection[PlacedDisk], action: Action = Action.NOACTION
) -> ComputeInspectInfo:
    volume_of = {disk.disk.target: disk.volume.uuid for disk in placed}
    detail = world.inventory.inspect(vm.uuid)
    return replace(
        detail,
        action=action.value,
        disks=[_with_volume(disk, volume_of.get(disk.disk_target_device, "")) for disk in detail.disks],
        cluster_uuid=cluster.uuid,
        cluster_name=cluster.name,
    )


def _with_volume(disk: DiskInfo, volume_uuid: str) -> DiskInfo:
    if disk.disk_vsd_source is not None:
        return replace(disk, disk_vsd_source=replace(disk.disk_vsd_source, volume_uuid=volume_uuid))
    if disk.disk_volume_source is not None:
        return replace(disk, disk_volume_source=replace(disk.disk_volume_source, volume_uuid=volume_uuid))
    return disk
