"""Giving a VM its configuration and its memory back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import libvirt

from stillframe.adapters.libvirt import migration, rewrite, save_image
from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.domain_xml import parse_domain, read_origin, text_of
from stillframe.adapters.libvirt.qmp import Qmp
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.ports.hypervisor import SavedConfiguration

_RESTORE_TIMEOUT_S = 900.0


class LibvirtRestorer:
    """The restoring half of ``CaptureKeeper`` (ports/hypervisor.py)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def finish_image(self, memory_path: str, runtime_xml: str, runtime_cookie: str) -> None:
        save_image.repair_bitmaps(memory_path)
        save_image.write_header(memory_path, runtime_xml, runtime_cookie)

    def check_restorable(self, memory_path: str, vm_uuid: str) -> None:
        """Libvirt restores an image only under the name that the VM had (its ABI check compares names)."""
        saved_name = text_of(parse_domain(save_image.read_header_xml(memory_path)), "name")
        name = self._connection.domain_call("look up", vm_uuid, lambda domain: str(domain.name()))
        if name != saved_name:
            raise Refused(ErrorCase.VM_RENAMED, f'VM {vm_uuid} is named "{name}" and was "{saved_name}"')

    def restore(self, memory_path: str, configuration: SavedConfiguration) -> None:
        """Libvirt restores from the untouched file; only the XML that is used differs, in its disks and by a mark.

        The mark is in the running domain's XML alone, never in its definition: who boots the VM boots it without. libvirt
        keeps it over its own restarts, as it does not keep how a domain came to run.
        Source: libvirt's virDomainRestoreFlags (dxml).
        """
        if not Path(memory_path).is_absolute():
            raise Failed(ErrorCase.HYPERVISOR_FAILED, "the memory file's path is not absolute")
        runtime_xml = save_image.read_header_xml(memory_path)

        def act(conn: Any) -> None:
            current = conn.lookupByUUIDString(configuration.vm_uuid)
            xml = rewrite.for_restore(
                runtime_xml, _inactive_xml(current), configuration.disk_paths, Path(memory_path).stem
            )
            conn.restoreFlags(memory_path, xml, libvirt.VIR_DOMAIN_SAVE_RUNNING)
            # libvirt leaves the capabilities of a sparse restore on; its own next snapshot would fail on them
            migration.set_capabilities(Qmp(conn.lookupByUUIDString(configuration.vm_uuid)))

        self._connection.call("restore memory", act, vm_uuid=configuration.vm_uuid, timeout_s=_RESTORE_TIMEOUT_S)

    def was_restored(self, vm_uuid: str, memory_path: str) -> bool:
        def act(domain: Any) -> bool:
            return bool(domain.isActive()) and read_origin(domain.XMLDesc(0)) == Path(memory_path).stem

        return self._connection.domain_call("look where the guest came from", vm_uuid, act)

    def definition(self, vm_uuid: str) -> str:
        return self._connection.domain_call("read the definition", vm_uuid, _inactive_xml)

    def redefine(self, vm_uuid: str, definition_xml: str) -> None:
        def act(conn: Any) -> None:
            current = conn.lookupByUUIDString(vm_uuid)
            # one that somebody has undefined while it runs does not come back by our doing
            if current.isPersistent():
                conn.defineXML(rewrite.for_return(definition_xml, _inactive_xml(current)))

        self._connection.call("define as before", act, vm_uuid=vm_uuid)

    def define(self, configuration: SavedConfiguration) -> None:
        def act(conn: Any) -> None:
            current = conn.lookupByUUIDString(configuration.vm_uuid)
            conn.defineXML(
                rewrite.for_rollback(configuration.definition_xml, _inactive_xml(current), configuration.disk_paths)
            )

        self._connection.call("define the saved configuration", act, vm_uuid=configuration.vm_uuid)


def _inactive_xml(domain: Any) -> str:
    return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE))
