"""``CaptureKeeper`` (ports/hypervisor.py), put together from capturing and restoring."""

from __future__ import annotations

from stillframe.adapters.libvirt.capture import LibvirtPointInTime
from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.restore import LibvirtRestorer
from stillframe.ports.hypervisor import CaptureProgress


class LibvirtKeeper(LibvirtRestorer):
    """Restoring, and the end of captures that ``fixer`` began (it holds their descriptors)."""

    def __init__(self, connection: Connection, fixer: LibvirtPointInTime) -> None:
        super().__init__(connection)
        self._fixer = fixer

    def probe_capture(self, vm_uuid: str) -> CaptureProgress:
        return self._fixer.probe_capture(vm_uuid)

    def release_capture(self, vm_uuid: str, memory_path: str) -> None:
        self._fixer.release_capture(vm_uuid, memory_path)

    def abandon_capture(self, vm_uuid: str, memory_path: str) -> None:
        self._fixer.abandon_capture(vm_uuid, memory_path)
