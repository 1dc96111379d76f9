"""The list of VMs, filtered and paged."""

from __future__ import annotations

from collections import defaultdict

from stillframe.domain.access import Principal
from stillframe.domain.compute import ComputeInfo
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.vm import Action, SourceKind, Vm
from stillframe.operations.detail import action_of
from stillframe.operations.requests import Cluster, VmPage, VmQuery
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationRow


def list_vms(world: World, cluster: Cluster, query: VmQuery, viewer: Principal) -> VmPage:
    """By name, those that exist for the viewer; ``total_count`` counts after filtering, before paging."""
    if query.cluster_uuid and query.cluster_uuid != cluster.uuid:
        raise Refused(ErrorCase.CLUSTER_UNKNOWN, f"cluster {query.cluster_uuid}")
    with world.metadata.read() as tx:
        active = tx.journal.active()
    running: defaultdict[str, list[OperationRow]] = defaultdict(list)
    for row in active:
        running[row.vm_uuid].append(row)
    found_vms = world.inventory.list_vms(hurried=True)
    rows = [_row(vm, cluster, action_of(running[vm.uuid])) for vm in found_vms if viewer.sees(vm.tenant)]
    found = [row for row in rows if _matches(row, query)]
    if query.page_size <= 0:
        return VmPage(tuple(found), len(found))
    first = query.page_number * query.page_size
    return VmPage(tuple(found[first : first + query.page_size]), len(found))


def _row(vm: Vm, cluster: Cluster, action: Action) -> ComputeInfo:
    return ComputeInfo(
        tenant=vm.tenant,
        tenant_name=vm.tenant_name,
        uuid=vm.uuid,
        name=vm.name,
        type="GUS",
        create_time=0,
        modify_time=0,
        state=vm.state.value,
        ga_state="pending",
        action=action.value,
        os="",
        namespace=vm.namespace,
        is_external_disk=any(d.source is SourceKind.NETWORK for d in vm.disks),
        has_passthrough_disk=any(d.source is SourceKind.PASSTHROUGH for d in vm.disks),
        cluster_uuid=cluster.uuid,
        cluster_name=cluster.name,
    )


def _matches(row: ComputeInfo, query: VmQuery) -> bool:
    def agrees(wanted: str, value: str) -> bool:
        return not wanted or (wanted in value if query.fuzzy else wanted == value)

    return (
        (not query.tenant or row.tenant == query.tenant)
        and agrees(query.name, row.name)
        and agrees(query.uuid, row.uuid)
        and (not query.state or row.state == query.state)
        and (not query.action or row.action == query.action)
    )
