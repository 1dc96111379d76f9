"""Domains adopted as they are, and their power."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import libvirt

from stillframe.adapters.libvirt import domain_xml
from stillframe.adapters.libvirt.block_nodes import real_chain
from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.ending import ended
from stillframe.adapters.libvirt.inspect_info import InspectFacts, read_inspect
from stillframe.adapters.libvirt.lazy_image import lives_on
from stillframe.adapters.libvirt.owed import Patience, await_answered, owed_s
from stillframe.domain.compute import ComputeInspectInfo
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.domain.vm import Action, Disk, KnownVm, PowerState, SourceKind, Vm

_STATES = {
    libvirt.VIR_DOMAIN_NOSTATE: PowerState.NOSTATE,
    libvirt.VIR_DOMAIN_RUNNING: PowerState.RUNNING,
    libvirt.VIR_DOMAIN_BLOCKED: PowerState.BLOCKED,
    libvirt.VIR_DOMAIN_PAUSED: PowerState.PAUSED,
    libvirt.VIR_DOMAIN_SHUTDOWN: PowerState.SHUTDOWN,
    libvirt.VIR_DOMAIN_SHUTOFF: PowerState.SHUTOFF,
    libvirt.VIR_DOMAIN_CRASHED: PowerState.CRASHED,
    libvirt.VIR_DOMAIN_PMSUSPENDED: PowerState.PMSUSPEND,
}
_SHARED_FILE_SYSTEMS = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "ceph", "gfs2", "ocfs2", "lustre", "gpfs", "beegfs", "9p", "virtiofs", "afs"}
)
_POWER_TIMEOUT_S = 120.0
_LOOK_TIMEOUT_S = 5.0
# how long a list waits for QEMUs that owe libvirt an answer: longer than one that is well makes it wait
_HURRIED_WAIT_S = 1.0
_AGENT_CHANNEL = "org.qemu.guest_agent.0"


class LibvirtInventory:
    """``Inventory`` (ports/hypervisor.py)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list_vms(self, *, hurried: bool = False) -> list[Vm]:
        def act(conn: Any) -> list[Vm]:
            found: list[Vm] = []
            half_s = self._connection.call_timeout_s / 2  # the rest is for those that are well
            patience = Patience(min(_HURRIED_WAIT_S, half_s) if hurried else half_s)
            for domain in conn.listAllDomains(0):
                try:
                    found.append(self._read_or_say_why(domain, patience))
                except libvirt.libvirtError as error:
                    # undefined between the listing and the look: proved absent
                    if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN:
                        raise
            return sorted(found, key=lambda vm: (vm.name, vm.uuid))

        return self._connection.call("list domains", act)

    def check_reachable(self) -> None:
        # of what libvirt can be asked the least that goes all the way to the daemon
        self._connection.call(
            "look whether libvirt answers", lambda conn: conn.getLibVersion(), timeout_s=_LOOK_TIMEOUT_S
        )

    def tenant_of(self, vm_uuid: str) -> str:
        def act(conn: Any) -> str:
            # Metadata is read in the daemon's ordinary queue, a uuid is looked up in its preferred one. Where nothing
            # comes out of the ordinary one any more, that must not tell which of the uuids exist: so a question that
            # every uuid gets goes through it first.
            conn.getCPUMap()
            tenant, _name, _namespace = _read_assignment(conn.lookupByUUIDString(vm_uuid))
            return tenant

        # not as a call about this VM: those wait for one another, and for the VM
        return self._connection.call(f"look up (VM {vm_uuid})", act)

    def find_vm(self, vm_uuid: str) -> Vm:
        return self._connection.domain_call("look up", vm_uuid, self._read_or_say_why, patient=False)

    def know_vm(self, vm_uuid: str) -> KnownVm:
        def act(domain: Any) -> KnownVm:
            owed = owed_s(domain)
            if owed is not None:
                self._connection.check_answers(f"look up (VM {vm_uuid})", owed)
                return self._read_or_say_why(domain).known
            try:
                tenant, _name, _namespace = domain_xml.read_assignment(domain.XMLDesc(0))
            except (Failed, libvirt.libvirtError):
                return self._read_or_say_why(domain).known  # it knows what to say of one that cannot be read
            return KnownVm(domain.UUIDString(), domain.name(), tenant)

        return self._connection.domain_call("look up", vm_uuid, act, patient=False, asks_itself=True)

    def get_vm(self, vm_uuid: str) -> Vm:
        return self._connection.domain_call("look up", vm_uuid, self._read_one)

    def inspect(self, vm_uuid: str) -> ComputeInspectInfo:
        def act(domain: Any) -> ComputeInspectInfo:
            vm = self._read_one(domain)
            xml = domain.XMLDesc(0)
            files = [disk for disk in vm.disks if disk.source is not SourceKind.EMPTY]
            return read_inspect(
                xml,
                InspectFacts(
                    state=vm.state,
                    action=Action.NOACTION,
                    ga_state=_agent_state(xml),
                    create_time=0,  # libvirt does not keep it
                    modify_time=0,
                    capacities={disk.target: self._capacity_bytes(domain, disk) for disk in files},
                    is_shared={
                        disk.target: is_on_shared_file_system(disk.path)
                        for disk in files
                        if disk.source is SourceKind.FILE
                    },
                ),
            )

        return self._connection.domain_call("inspect", vm_uuid, act, patient=False)

    def assign(self, vm_uuid: str, tenant: str, tenant_name: str, namespace: str) -> None:
        element = domain_xml.assignment_element(tenant, tenant_name, namespace)

        def act(domain: Any) -> None:
            flags = libvirt.VIR_DOMAIN_AFFECT_CONFIG if domain.isPersistent() else 0
            if domain.isActive():
                flags |= libvirt.VIR_DOMAIN_AFFECT_LIVE
            domain.setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT,
                element,
                domain_xml.METADATA_PREFIX,
                domain_xml.METADATA_URI,
                flags,
            )

        self._connection.domain_call("assign tenant", vm_uuid, act)

    def active_chain(self, vm_uuid: str, target: str) -> tuple[str, ...]:
        def act(domain: Any) -> tuple[str, ...]:
            if not domain.isActive():
                return ()
            xml = domain.XMLDesc(0)
            if target not in {disk.target for disk in domain_xml.read_disks(xml)}:
                return ()
            return real_chain(domain, target)

        return self._connection.domain_call(f"read the chain of {target}", vm_uuid, act)

    def _read_one(self, domain: Any) -> Vm:
        vm = self._read_or_say_why(domain)
        vm.check_readable()
        return vm

    def _read_or_say_why(self, domain: Any, patience: Patience | None = None) -> Vm:
        """The VM, or what is known of it without its XML.

        Its XML cannot be had while its QEMU owes libvirt an answer; that is waited for, with ``patience`` if there is an end to
        it beside the call's own. And whoever may define a domain may give it one that libvirt takes and nobody can read again: metadata with an entity of a DTD
        that libvirt drops, or so much of it that no reply can hold it.
        """
        try:
            owed = await_answered(domain, self._connection.check_wanted, patience or Patience())
            if owed is None:
                return _read_vm(domain)
            why = f"its QEMU has not answered libvirt for {owed:.1f} s"
        except Failed as error:
            why = error.desc
        except libvirt.libvirtError as error:
            if error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
                raise
            why = error.get_error_message()
        return _sketch(domain, why)

    def _capacity_bytes(self, domain: Any, disk: Disk) -> int:
        # of a VM that is off libvirt opens the file itself: it would wait for ever at a FIFO, and wake a device
        if disk.source is SourceKind.FILE and not Path(disk.path).is_file():
            return 0
        self._connection.check_wanted()  # each disk of a QEMU that stands still takes half a minute
        try:
            return int(domain.blockInfo(disk.target, 0)[0])
        except libvirt.libvirtError:
            return 0  # a source that cannot be opened has no capacity to show; the call that needs it will say why


class LibvirtPower:
    """``Power`` (ports/hypervisor.py)."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def start(self, vm_uuid: str) -> None:
        def act(domain: Any) -> None:
            if domain.isActive():
                raise Refused(ErrorCase.VM_NOT_SHUTOFF, f"VM {vm_uuid} is running")
            domain.create()

        self._connection.domain_call("start", vm_uuid, act, timeout_s=_POWER_TIMEOUT_S)

    def request_shutdown(self, vm_uuid: str) -> None:
        self._connection.domain_call("ask to shut down", vm_uuid, lambda domain: domain.shutdown())

    def ensure_off(self, vm_uuid: str) -> None:
        def act(domain: Any) -> None:
            try:
                if domain.isActive():
                    with ended(vm_uuid):
                        domain.destroy()
            except libvirt.libvirtError:
                if domain.isActive():
                    raise
            # a state that libvirt saved belongs to the disks as they were; it may not come back on others
            if domain.isPersistent() and domain.hasManagedSaveImage(0):
                domain.managedSaveRemove(0)

        with self._connection.hurried_reaping():
            self._connection.domain_call("power off", vm_uuid, act, timeout_s=_POWER_TIMEOUT_S)

    def ensure_resumed(self, vm_uuid: str) -> bool:
        def act(domain: Any) -> bool:
            if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                return False
            domain.resume()
            return True

        return self._connection.domain_call("resume", vm_uuid, act)

    def ensure_paused(self, vm_uuid: str, memory_uuid: str) -> bool:
        def act(domain: Any) -> bool:
            if not domain.isActive() or lives_on(domain.XMLDesc(0)) != memory_uuid:
                return False
            if domain.state()[0] != libvirt.VIR_DOMAIN_PAUSED:
                domain.suspend()
            return True

        return self._connection.domain_call("pause", vm_uuid, act)


def _read_vm(domain: Any) -> Vm:
    xml = domain.XMLDesc(0)
    tenant, tenant_name, namespace = domain_xml.read_assignment(xml)
    persistent = bool(domain.isPersistent())
    # read before it is looked for a saved state: a guest that is being saved meanwhile is found in one of the two
    memory_uuid, is_unknown = lives_on(xml), False
    has_managed_save = persistent and bool(domain.hasManagedSaveImage(0))
    state = _STATES[domain.state()[0]]
    if has_managed_save and not memory_uuid:
        memory_uuid, is_unknown = _saved_on(domain)
    elif state.has_process and " id=" not in xml.partition(">")[0]:
        memory_uuid = lives_on(domain.XMLDesc(0))  # it was started from a saved state between the two looks
    return Vm(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=state,
        persistent=persistent,
        tenant=tenant,
        tenant_name=tenant_name,
        namespace=namespace,
        memory_bytes=domain.maxMemory() * 1024,
        has_managed_save=has_managed_save,
        disks=domain_xml.read_disks(xml),
        saved_disks=domain_xml.read_disks(domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)),
        lives_on=memory_uuid,
        may_live_on_any=is_unknown,
    )


def _saved_on(domain: Any) -> tuple[str, bool]:
    """The memory state that a state which libvirt saved needs, and whether that cannot be told: libvirt does not read a
    damaged one, and drops it at the next start.
    """
    try:
        return lives_on(domain.managedSaveGetXMLDesc(0)), False
    except (Failed, libvirt.libvirtError) as error:
        if isinstance(error, libvirt.libvirtError) and error.get_error_code() == libvirt.VIR_ERR_NO_DOMAIN:
            raise
        return "", True


def _read_assignment(domain: Any) -> tuple[str, str, str]:
    """(tenant, tenant_name, namespace), from what libvirt holds in memory: it waits for nothing that the VM is at, and is
    there also when the rest of the XML cannot be read. All "" when it cannot be had: then the VM is no tenant's.
    """
    try:
        element = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, domain_xml.METADATA_URI)
    except libvirt.libvirtError as error:
        match error.get_error_code():
            case libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                element = ""
            case libvirt.VIR_ERR_NO_DOMAIN:
                raise
            case _:
                domain.state()  # where this is answered, it is the element alone that cannot be had
                return "", "", ""
    try:
        return domain_xml.read_assignment_element(element)
    except Failed:
        return "", "", ""  # whoever wrote it there may not choose whose the VM is by that


def _sketch(domain: Any, why: str) -> Vm:
    """What libvirt tells of a domain whatever its QEMU and its XML are like."""
    # where these calls are answered, it is this domain's XML alone that cannot be had
    tenant, tenant_name, namespace = _read_assignment(domain)
    return Vm(
        uuid=domain.UUIDString(),
        name=domain.name(),
        state=_STATES[domain.state()[0]],
        persistent=bool(domain.isPersistent()),
        tenant=tenant,
        tenant_name=tenant_name,
        namespace=namespace,
        memory_bytes=0,
        has_managed_save=False,
        disks=(),
        saved_disks=(),
        unreadable=why,
    )


def _agent_state(xml: str) -> str:
    """The guest agent's channel as the live XML shows it: connected, disconnected, or pending without a channel."""
    for channel in re.findall(r"<target type='virtio'[^>]*>", xml):
        if _AGENT_CHANNEL in channel:
            return "connected" if "state='connected'" in channel else "disconnected"
    return "pending"


def is_on_shared_file_system(path: str, mounts: Callable[[], str] | None = None) -> bool:
    """True when the file lies on a file system that several hosts mount (the kernel's own list of mounts tells)."""
    text = mounts() if mounts is not None else Path("/proc/self/mounts").read_text(encoding="utf-8")
    best, kind = "", ""
    for line in text.splitlines():
        _device, mount_point, fs_type, *_rest = line.split()
        point = mount_point.encode().decode("unicode_escape")
        inside = path == point or path.startswith(point.rstrip("/") + "/")
        if inside and len(point) >= len(best):
            best, kind = point, fs_type
    return kind in _SHARED_FILE_SYSTEMS or kind.startswith("fuse.gluster") or kind == "fuse.sshfs"


def wait_until(condition: Callable[[], bool], timeout_s: float, poll_s: float = 0.05) -> bool:
    """True as soon as the condition holds; False when time is up."""
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(poll_s)
    return condition()
