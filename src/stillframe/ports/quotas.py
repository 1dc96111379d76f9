"""Tenants' limits and what they use, as rows; part of a transaction (ports/metadata.py).

What is used is the sum of what rows say that their files occupy. What an operation may come to need is reserved in its own
row from before its first side effect until the rows of what it made are written, or it is undone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stillframe.domain.quota import Demand, TenantLimits, Used


@dataclass(frozen=True)
class Unmeasured:
    """A layer below a head of which no row says what it occupies."""

    layer_uuid: str
    path: str


class QuotaRows(Protocol):
    """Limits, use and reservations."""

    def limits(self, tenant: str) -> TenantLimits:
        """What was set for the tenant; nothing but None where nothing was."""
        ...

    def set_limits(self, limits: TenantLimits) -> None:
        """Replaces what was set."""
        ...

    def tenants(self) -> list[str]:
        """Every tenant that something was set for, or that has a virtual machine with snapshots, by name."""
        ...

    def largest(self, most: int) -> list[str]:
        """The tenants whose layers and memory states occupy most, at most so many, the largest first.

        Those of which no virtual machine has rows are not among them.
        """
        ...

    def used(self, *, tenant: str = "", vm_uuid: str = "", without: str = "") -> Used:
        """What rows say of one tenant or one VM, reservations of unfinished operations but ``without`` included."""
        ...

    def reserve(self, operation_uuid: str, demand: Demand) -> None:
        """The operation may come to need this. Nothing is checked here."""
        ...

    def release(self, operation_uuid: str) -> None:
        """It needs nothing beyond what the rows say any more. Repeatable."""
        ...

    def layer_bytes(self, vm_uuid: str) -> dict[str, int]:
        """Layer uuid -> what it occupies, of the VM's layers that were measured."""
        ...

    def set_layer_bytes(self, layer_uuid: str, disk_bytes: int) -> None: ...

    def set_vm(self, vm_uuid: str, tenant: str, capacities: dict[str, int]) -> None:
        """Whose the VM is, and the virtual size of its volumes (uuid -> bytes); a VM without rows gets none."""
        ...

    def vm_tenants(self) -> dict[str, str]:
        """VM uuid -> whose it was at its last change, of every VM that has rows."""
        ...

    def unmeasured(self) -> list[Unmeasured]:
        """Layers that an older version froze without measuring them."""
        ...

    def busy(self, tenant: str) -> tuple[int, int]:
        """How many operations are under way now, those that save memory among them: of the tenant, and of all."""
        ...
