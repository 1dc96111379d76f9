"""Budgets: what a new snapshot may come to need is reserved before its first side effect, and measured when it is there.

The check, the reservation and the plan are one transaction, and write transactions come one after the other: of requests
that race for the last bytes, one gets them.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from stillframe.domain import quota
from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.domain.quota import Demand, TenantLimits, Used
from stillframe.domain.vm import Vm
from stillframe.operations.world import World
from stillframe.ports.metadata import Transaction

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class TenantUse:
    """A tenant's limits, and what it uses of them. ``space_budget_bytes`` is the one that applies."""

    limits: TenantLimits
    used: Used
    memory_open: bool
    space_budget_bytes: int
    max_snapshots: int


@dataclass(frozen=True)
class TenantPage:
    """``next`` is what ``after`` has to be for the following page; "" at the end."""

    uses: tuple[TenantUse, ...]
    next: str


def memory_open(world: World, limits: TenantLimits) -> bool:
    """The tenant has memory-snapshot space."""
    return world.limits.memory_space_open(limits.tenant) if limits.memory_open is None else limits.memory_open


def most_snapshots(world: World, limits: TenantLimits) -> int:
    """How many snapshots each of its virtual machines may have."""
    return world.limits.max_snapshots if limits.max_snapshots is None else limits.max_snapshots


def reserve(tx: Transaction, operation_uuid: str, demand: Demand) -> None:
    """The operation may need this much.

    Raises:
        Refused: QUOTA_EXHAUSTED.
    """
    limits = tx.quotas.limits(demand.tenant)
    of_tenant = tx.quotas.used(tenant=demand.tenant, without=operation_uuid)
    of_vm = tx.quotas.used(vm_uuid=demand.vm_uuid, without=operation_uuid)
    quota.check_fits(demand, limits, of_tenant, of_vm)
    tx.quotas.reserve(operation_uuid, demand)


def check_busy(tx: Transaction, world: World, tenant: str) -> None:
    """Not more operations are under way than the operator allows; the one that asks is counted already.

    Raises:
        Refused: TOO_BUSY.
    """
    own, everybody = tx.quotas.busy(tenant)
    if own > world.limits.max_operations_per_tenant:
        raise Refused(ErrorCase.TOO_BUSY, f"{world.limits.max_operations_per_tenant} of this tenant are under way")
    if everybody > world.limits.max_operations:
        raise Refused(ErrorCase.TOO_BUSY, f"{world.limits.max_operations} are under way on this host")


def measured(world: World, path: str) -> int:
    """What a file that must be there occupies.

    Raises:
        Failed: STORAGE_FAILED.
    """
    size_bytes = world.volumes.probe_size(path)
    if size_bytes is None:
        raise Failed(ErrorCase.STORAGE_FAILED, f"{path} does not exist")
    return size_bytes


def measure_unmeasured(world: World) -> None:
    """Layers that an older version froze get their size. What cannot be measured now is tried at the next start."""
    with world.metadata.read() as tx:
        found = tx.quotas.unmeasured()
    for layer in found:
        try:
            size_bytes = world.volumes.probe_size(layer.path)
            with world.metadata.write() as tx:
                tx.quotas.set_layer_bytes(layer.layer_uuid, size_bytes or 0)
        except StillframeError as error:
            log.warning("layer %s could not be measured: %s", layer.layer_uuid, error)


def note_owner(world: World, vm: Vm) -> None:
    """The VM's snapshots, and what they use, are its tenant's."""
    with world.metadata.write() as tx:
        tx.quotas.set_vm(vm.uuid, vm.tenant, {})
        tx.snapshots.set_owner(vm.uuid, vm.tenant, vm.tenant_name, vm.namespace)


def align_tenants(world: World) -> None:
    """What a VM uses is its tenant's of now: also where an assignment was cut off before it was noted, or made outside."""
    try:
        with world.metadata.read() as tx:
            noted = tx.quotas.vm_tenants()
        for vm in world.inventory.list_vms():
            if not vm.unreadable and vm.tenant != noted.get(vm.uuid, vm.tenant):
                note_owner(world, vm)
    except StillframeError as error:
        log.warning("whose virtual machines are could not be looked at: %s", error)


def use_of(world: World, tenant: str, after: str, limit: int) -> TenantPage:
    """This tenant's use, or with "" that of all that there are, by name, from behind ``after`` on.

    Raises:
        Refused: TENANT_UNKNOWN, of a tenant that nothing is of: neither limits, nor a virtual machine, nor a key.
        StillframeError: whether a virtual machine is could not be asked.
    """
    if tenant and not _is_known(world, tenant):
        raise Refused(ErrorCase.TENANT_UNKNOWN, f'tenant "{tenant}"')
    with world.metadata.read() as tx:
        named = [tenant] if tenant else tx.quotas.tenants()
        wanted = [name for name in named if name > after]
        found: list[TenantUse] = []
        found.extend(_use_of_one(tx, world, name) for name in wanted[:limit])
    return TenantPage(tuple(found), found[-1].limits.tenant if len(wanted) > limit else "")


def _is_known(world: World, tenant: str) -> bool:
    with world.metadata.read() as tx:
        if tenant in tx.quotas.tenants() or tx.keys.page(tenant, "", 1):
            return True
    # one whose machines have no snapshots yet is noted nowhere else
    return any(vm.tenant == tenant for vm in world.inventory.list_vms() if not vm.unreadable)


def largest(tx: Transaction, world: World, most: int) -> list[TenantUse]:
    """The use of the tenants that use most, the largest first."""
    return [_use_of_one(tx, world, name) for name in tx.quotas.largest(most)]


def _use_of_one(tx: Transaction, world: World, tenant: str) -> TenantUse:
    limits, used = tx.quotas.limits(tenant), tx.quotas.used(tenant=tenant)
    budget = limits.space_bytes if limits.space_bytes is not None else quota.allowance(used.capacity_bytes)
    return TenantUse(limits, used, memory_open(world, limits), budget, most_snapshots(world, limits))
