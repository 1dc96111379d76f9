"""Virtual machines, their snapshots, and finding both by name or uuid."""

from __future__ import annotations

from stillframe.client import endpoints
from stillframe.client.asking import ask, exchange, is_uuid, read
from stillframe.client.endpoints import Endpoint
from stillframe.client.errors import NotFoundError
from stillframe.client.flow import Flow
from stillframe.client.models import Nothing, Snapshot, Tree, Vm, VmDetail
from stillframe.client.overviews import Consequences, Overview


def vms(*, name: str = "", state: str = "", tenant: str = "", fuzzy: bool = True) -> Flow[list[Vm]]:
    """The virtual machines; ``name``: with this in their name, or with exactly this when it is not ``fuzzy``."""
    found = yield from ask(endpoints.LIST_VMS, filter_name=name, filter_state=state, tenant=tenant, filter_fuzzy=fuzzy)
    return list(found.domains)


def vm_uuid(vm: str) -> Flow[str]:
    """The uuid of the virtual machine of this name; a uuid stands for itself, and nobody is asked.

    Raises:
        NotFoundError: none or several have this name.
    """
    if is_uuid(vm):
        return vm.lower()
    found = yield from vms(name=vm, fuzzy=False)
    if len(found) == 1:
        return found[0].uuid
    if found:
        raise NotFoundError(
            f'stillframe: several virtual machines are called "{vm}"; give the uuid',
            f"stillframe：有多台虚拟机名为“{vm}”；请使用 uuid",
        )
    raise NotFoundError(
        f'stillframe: no virtual machine is called "{vm}"; see "stillframe ls"',
        f"stillframe：没有名为“{vm}”的虚拟机；请查看“stillframe ls”",
    )


def located(vm: str) -> Flow[dict[str, str]]:
    """How requests name the virtual machine."""
    uuid = yield from vm_uuid(vm)
    return {"cluster_uuid": "", "compute_uuid": uuid}


def inspect(vm: str) -> Flow[VmDetail]:
    """One virtual machine's configuration. ``vm``, here and below: its name or uuid."""
    where = yield from located(vm)
    return (yield from ask(endpoints.INSPECT_VM, **where))


def start(vm: str) -> Flow[None]:
    """Start it; it has to be shut off."""
    yield from _power(endpoints.START_VM, vm)


def shutdown(vm: str) -> Flow[None]:
    """Ask the guest to shut down; returns when it has been asked."""
    yield from _power(endpoints.SHUTDOWN_VM, vm)


def shutoff(vm: str) -> Flow[None]:
    """Cut the power; returns when it is off."""
    yield from _power(endpoints.SHUTOFF_VM, vm)


def _power(endpoint: Endpoint[Nothing], vm: str) -> Flow[None]:
    where = yield from located(vm)
    yield from ask(endpoint, **where)


def assign(vm: str, tenant: str, *, tenant_name: str = "", namespace: str = "") -> Flow[None]:
    """Give it to a tenant."""
    where = yield from located(vm)
    yield from ask(endpoints.ASSIGN_VM, **where, tenant=tenant, tenant_name=tenant_name, namespace_uuid=namespace)


def snapshots(vm: str, *, name: str = "") -> Flow[list[Snapshot]]:
    """Newest first; ``name``: with this in their name."""
    where = yield from located(vm)
    found = yield from ask(endpoints.LIST_SNAPSHOTS, **where, filter_name=name)
    return list(found.list)


def snapshot_name(vm: str, snapshot: str) -> Flow[str]:
    """The name of the snapshot with this uuid; what is no uuid is a name, and nobody is asked. A name that looks like a
    uuid is a name.

    Raises:
        NotFoundError: it looks like a uuid and is neither.
    """
    if not is_uuid(snapshot):
        return snapshot
    rows = yield from snapshots(vm)
    for row in rows:
        if row.name == snapshot:
            return row.name
    for row in rows:
        if row.uuid == snapshot.lower():
            return row.name
    raise NotFoundError(
        f'stillframe: no snapshot of this virtual machine has the name or uuid "{snapshot}"',
        f"stillframe：该虚拟机没有名称或 uuid 为“{snapshot}”的快照",
    )


def named(vm: str, snapshot: str) -> Flow[dict[str, str]]:
    """How requests name the snapshot."""
    where = yield from located(vm)
    name = yield from snapshot_name(where["compute_uuid"], snapshot)
    return {**where, "name": name}


def snapshot(vm: str, snapshot: str) -> Flow[Snapshot]:
    """One snapshot. ``snapshot``, here and below: its name or uuid."""
    where = yield from named(vm, snapshot)
    return (yield from ask(endpoints.GET_SNAPSHOT, **where))


def tree(vm: str) -> Flow[Tree]:
    """Names as nodes, ``head`` as the current state, "" as the root."""
    where = yield from located(vm)
    found = yield from ask(endpoints.GET_TREE, **where)
    return found.tree


def head(vm: str) -> Flow[Snapshot | None]:
    """The snapshot that the current state descends from; None: it has none."""
    where = yield from located(vm)
    answer = yield from exchange(endpoints.GET_HEAD.request(where))
    return read(endpoints.GET_HEAD, answer) if answer.data else None


def overview(vm: str, *, fold: bool = False) -> Flow[Overview]:
    """The machine and its tree with sizes and places; ``fold``: long straight runs are one item each."""
    where = yield from located(vm)
    return (yield from ask(endpoints.OVERVIEW, **where, fold=fold))


def consequences(vm: str, snapshot: str) -> Flow[Consequences]:
    """What a rollback to it would throw away, and what its deletion would take; nothing is changed."""
    where = yield from named(vm, snapshot)
    return (yield from ask(endpoints.CONSEQUENCES, **where))
