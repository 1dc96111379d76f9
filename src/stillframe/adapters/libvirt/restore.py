"""Giving a VM its configuration and its memory back."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import libvirt

from stillframe.adapters.libvirt import cpu_questions, lazy_image, migration, rewrite, save_image
from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.domain_xml import parse_domain, read_origin, text_of
from stillframe.adapters.libvirt.qmp import Qmp
from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.ports.hypervisor import SavedConfiguration

log = logging.getLogger(__name__)
_RESTORE_TIMEOUT_S = 900.0


class LibvirtRestorer:
    """The restoring half of ``CaptureKeeper`` (ports/hypervisor.py)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._asked_in_full: set[str] = set()
        self._capabilities: tuple[object, str] = (None, "")  # of which connection to libvirt, and what it said

    def finish_image(self, memory_path: str, runtime_xml: str, runtime_cookie: str) -> None:
        save_image.settle_pages(memory_path)  # before it is sealed: whoever maps the file relies on it
        save_image.write_header(memory_path, runtime_xml, runtime_cookie)

    def check_restorable(self, memory_path: str, vm_uuid: str) -> None:
        """Libvirt restores an image only under the name that the VM had (its ABI check compares names)."""
        saved_name = text_of(parse_domain(save_image.read_header_xml(memory_path)), "name")
        name = self._connection.domain_call("look up", vm_uuid, lambda domain: str(domain.name()))
        if name != saved_name:
            raise Refused(ErrorCase.VM_RENAMED, f'VM {vm_uuid} is named "{name}" and was "{saved_name}"')

    def prepare_lazily(self, memory_path: str, image_path: str, configuration: SavedConfiguration) -> bool:
        saved_xml = save_image.read_header_xml(memory_path)
        ram = save_image.find_ram(memory_path, lazy_image.memory_bytes(saved_xml))
        why_not = "its file has no RAM to map" if ram is None else lazy_image.why_not(saved_xml)
        if not why_not and not lazy_image.may_open(self._libvirt_s_capabilities(), memory_path):
            why_not = "QEMU may not open its file"
        if why_not or ram is None:
            log.info("the memory of VM %s is going to be loaded as a whole: %s", configuration.vm_uuid, why_not)
            return False
        lazy_image.write_image(memory_path, image_path, ram)
        return True

    def warm_up(self) -> threading.Thread:
        """What a first restore would ask is asked, in a thread of its own: libvirt looks at every QEMU of the host for it.

        Who ends the process waits for it: an embedded libvirt that is cut off leaves the QEMU that it looks at.
        """

        def ask() -> None:
            try:
                self._libvirt_s_capabilities()
            except StillframeError as error:
                log.info("what libvirt can do is asked again by the first restore: %s", error)

        thread = threading.Thread(target=ask, name="warm-up", daemon=True)
        thread.start()
        return thread

    def _libvirt_s_capabilities(self) -> str:
        """They are the same as long as the daemon is, and libvirt takes its time to tell them."""

        def act(conn: Any) -> tuple[object, str]:
            known = self._capabilities
            return known if known[0] is conn else (conn, str(conn.getCapabilities()))

        self._capabilities = self._connection.call("read the capabilities", act)
        return self._capabilities[1]

    def restore(self, memory_path: str, configuration: SavedConfiguration, image_path: str | None = None) -> None:
        """Libvirt restores from the untouched file; only the XML that is used differs, in its disks and by a mark.

        The mark is in the running domain's XML alone, never in its definition: who boots the VM boots it without. libvirt
        keeps it over its own restarts, as it does not keep how a domain came to run.
        Source: libvirt's virDomainRestoreFlags (dxml).
        """
        if not Path(memory_path).is_absolute():
            raise Failed(ErrorCase.HYPERVISOR_FAILED, "the memory file's path is not absolute")
        runtime_xml, cookie_xml = save_image.read_header(memory_path)

        def act(conn: Any) -> None:
            current = conn.lookupByUUIDString(configuration.vm_uuid)
            xml = rewrite.for_restore(
                runtime_xml, _inactive_xml(current), configuration.disk_paths, Path(memory_path).stem
            )
            if image_path is not None:
                ram = save_image.find_ram(memory_path, lazy_image.memory_bytes(runtime_xml))
                if ram is None:
                    raise Failed(ErrorCase.HYPERVISOR_FAILED, "the memory file has no RAM to map")
                xml = lazy_image.with_words(xml, memory_path, ram)
            spared = image_path is not None and cpu_questions.can_be_spared(runtime_xml, cookie_xml)
            self._start(conn, image_path or memory_path, xml, configuration.vm_uuid, spared=spared)
            # libvirt leaves the capabilities of a sparse restore on; its own next snapshot would fail on them
            migration.set_capabilities(Qmp(conn.lookupByUUIDString(configuration.vm_uuid)))

        self._connection.call("restore memory", act, vm_uuid=configuration.vm_uuid, timeout_s=_RESTORE_TIMEOUT_S)

    def _start(self, conn: Any, image_path: str, xml: str, vm_uuid: str, *, spared: bool) -> None:
        """``spared``: without libvirt's questions about the CPU. A VM that did not start so is asked all of them the next time.

        That is for who restores to try: a guest that has run for a moment may not be started again.
        """
        if not spared or vm_uuid in self._asked_in_full:
            conn.restoreFlags(image_path, xml, libvirt.VIR_DOMAIN_SAVE_RUNNING)
            return
        try:
            conn.restoreFlags(image_path, cpu_questions.spare(xml), libvirt.VIR_DOMAIN_SAVE_RUNNING)
        except libvirt.libvirtError:
            self._asked_in_full.add(vm_uuid)
            raise

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
                lazy_image.without_words(
                    rewrite.for_rollback(configuration.definition_xml, _inactive_xml(current), configuration.disk_paths)
                )
            )

        self._connection.call("define the saved configuration", act, vm_uuid=configuration.vm_uuid)


def _inactive_xml(domain: Any) -> str:
    return str(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_SECURE | libvirt.VIR_DOMAIN_XML_INACTIVE))
