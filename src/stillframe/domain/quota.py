"""What a tenant may use, and whether something more fits. Pure.

Bytes are those that files really occupy. A snapshot's layers are all files that lie below a disk's head, the adopted one
among them: they stay because of snapshots, whatever the head does.
"""

from __future__ import annotations

from dataclasses import dataclass

from stillframe.domain.errors import ErrorCase, Refused

# the allowance of volumes whose tenant has no budget of its own: the platform's snap_capacity
ALLOWANCE_TIMES = 3
# an empty layer of a tiny disk occupies more than the disk's size: without this a test disk had room for nothing
ALLOWANCE_LEAST_BYTES = 64 << 20


@dataclass(frozen=True)
class TenantLimits:
    """What an administrator has set for a tenant; None: nothing, the service's own default applies.

    ``memory_open``: it has memory-snapshot space. ``memory_bytes`` and ``space_bytes`` bound memory states and layers of
    all its virtual machines together; ``max_snapshots`` those of each.
    """

    tenant: str
    memory_open: bool | None = None
    memory_bytes: int | None = None
    space_bytes: int | None = None
    max_snapshots: int | None = None


@dataclass(frozen=True)
class Used:
    """What is there, or is about to be: layers and memory states in bytes, and the virtual size of the volumes."""

    space_bytes: int = 0
    memory_bytes: int = 0
    capacity_bytes: int = 0
    snapshots: int = 0
    vms: int = 0


@dataclass(frozen=True)
class Demand:
    """What a new snapshot needs at most. ``capacity_bytes``: the virtual size of its virtual machine's volumes."""

    vm_uuid: str
    tenant: str
    space_bytes: int
    memory_bytes: int
    capacity_bytes: int


def check_fits(demand: Demand, limits: TenantLimits, of_tenant: Used, of_vm: Used) -> None:
    """``demand`` fits beside what is used. ``of_tenant`` and ``of_vm`` hold what other operations have reserved, too.

    Raises:
        Refused: QUOTA_EXHAUSTED, with the figures.
    """
    if limits.space_bytes is not None:
        _check("snapshots", f'tenant "{demand.tenant}"', demand.space_bytes, of_tenant.space_bytes, limits.space_bytes)
    else:
        whose = f"the volumes of VM {demand.vm_uuid} ({ALLOWANCE_TIMES} times their capacity)"
        _check("snapshots", whose, demand.space_bytes, of_vm.space_bytes, allowance(demand.capacity_bytes))
    if limits.memory_bytes is not None and demand.memory_bytes:
        _check("memory", f'tenant "{demand.tenant}"', demand.memory_bytes, of_tenant.memory_bytes, limits.memory_bytes)


def allowance(capacity_bytes: int) -> int:
    """How many bytes volumes of this virtual size may have in snapshots where nothing else is set."""
    return max(ALLOWANCE_TIMES * capacity_bytes, ALLOWANCE_LEAST_BYTES)


def _check(what: str, whose: str, needed: int, used: int, budget: int) -> None:
    if used + needed > budget:
        raise Refused(
            ErrorCase.QUOTA_EXHAUSTED,
            f"{what}: this one needs up to {needed} bytes; {used} of the {budget} bytes of {whose} are used or reserved",
        )


def check_count(described: str, present: int, most: int) -> None:
    """One snapshot more is allowed.

    Raises:
        Refused: SNAPSHOTS_TOO_MANY.
    """
    if present >= most:
        raise Refused(ErrorCase.SNAPSHOTS_TOO_MANY, f"{described} has {present}; the limit is {most}")
