"""The hypervisor where nobody may ask it: every question ends with why."""

from __future__ import annotations

from typing import NoReturn

from stillframe.domain.errors import ErrorCase, Failed
from stillframe.domain.vm import KnownVm, Vm


class Unasked:
    """``Sighting`` (ports/hypervisor.py) that sees nothing: each call raises ``Failed`` HOST_UNREACHABLE."""

    def __init__(self, why: str) -> None:
        self._why = why

    def list_vms(self, *, hurried: bool = False) -> list[Vm]:  # noqa: ARG002 -- the port has it
        self._refuse("which VMs there are")

    def tenant_of(self, vm_uuid: str) -> str:
        self._refuse(f"VM {vm_uuid}")

    def find_vm(self, vm_uuid: str) -> Vm:
        self._refuse(f"VM {vm_uuid}")

    def know_vm(self, vm_uuid: str) -> KnownVm:
        self._refuse(f"VM {vm_uuid}")

    def get_vm(self, vm_uuid: str) -> Vm:
        self._refuse(f"VM {vm_uuid}")

    def active_chain(self, vm_uuid: str, target: str) -> tuple[str, ...]:
        self._refuse(f"the chain of {target} of VM {vm_uuid}")

    def _refuse(self, what: str) -> NoReturn:
        raise Failed(ErrorCase.HOST_UNREACHABLE, f"{what}: {self._why}")
