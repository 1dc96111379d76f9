"""ComputeInspectInfo from a domain's XML; pure functions on text.

Format: libvirt's "Domain XML format" (formatdomain.html). Field names: the platform's, see domain/compute.py.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath

from lxml.etree import _Element as Element

from stillframe.adapters.libvirt.domain_xml import (
    assignment_of,
    attribute_of,
    bytes_of,
    disk_elements,
    number_of,
    parse_domain,
    read_disk,
    text_of,
)
from stillframe.domain.compute import (
    ComputeInspectInfo,
    DiskBlockSource,
    DiskInfo,
    DiskPassthroughSource,
    DiskVolumeSource,
    DiskVsdSource,
    DriveMedium,
    Interface,
    Video,
)
from stillframe.domain.vm import Action, Disk, PowerState, SourceKind

_TYPE = "GUS"  # the platform's word for an ordinary VM
_LIBOSINFO_OS = "metadata/{http://libosinfo.org/xmlns/libvirt/domain/1.0}libosinfo/{*}os"
_BOOT_DEVICES = {"hd": "disk", "cdrom": "cdrom", "fd": "floppy"}


@dataclass(frozen=True)
class InspectFacts:
    """What the XML does not know.

    ``capacities`` (bytes) and ``is_shared`` (the file lies on a network or cluster file system) go by target device;
    a target that is missing there has 0 bytes and a local file. ``ga_state``: connected | disconnected | pending.
    """

    state: PowerState
    capacities: Mapping[str, int] = field(default_factory=dict)
    is_shared: Mapping[str, bool] = field(default_factory=dict)
    ga_state: str = "disconnected"
    action: Action = Action.NOACTION
    create_time: int = 0
    modify_time: int = 0


def read_inspect(xml: str, facts: InspectFacts) -> ComputeInspectInfo:
    """The full configuration of one VM; ``volume_uuid`` of the disks and the cluster are left "" for the caller.

    Ports come from a running domain's XML; a saved definition has none yet (0).

    Raises:
        Failed: HYPERVISOR_FAILED: the XML cannot be read.
    """
    root = parse_domain(xml)
    tenant, tenant_name, namespace = assignment_of(root)
    disks = [(element, read_disk(element)) for _, element in disk_elements(root)]
    mem_now, mem_max = _memory(root)
    vcpu_now, vcpu_max, sockets, cores = _cpu(root)
    return ComputeInspectInfo(
        tenant=tenant,
        tenant_name=tenant_name,
        uuid=text_of(root, "uuid"),
        name=text_of(root, "name"),
        type=_TYPE,
        create_time=facts.create_time,
        modify_time=facts.modify_time,
        state=facts.state.value,
        ga_state=facts.ga_state,
        action=facts.action.value,
        os=_os(root),
        namespace=namespace,
        mem_size=mem_now,
        mem_max=mem_max,
        memory_huge_pages_enable=root.find("memoryBacking/hugepages") is not None,
        os_loader_path=_firmware(root),
        video=[_video(model) for model in root.iterfind("devices/video/model")],
        vnc_enable=root.find("devices/graphics[@type='vnc']") is not None,
        vnc_port=_port(root, "vnc"),
        spice_port=_port(root, "spice"),
        cpu_current=str(vcpu_now),
        cpu_max_count=vcpu_max,
        cpu_sockets=sockets,
        cpu_socket_cores=cores,
        baseline=text_of(root, "cpu/model") or attribute_of(root, "cpu", "mode"),
        interfaces=[_interface(element) for element in root.iterfind("devices/interface")],
        cdrom=_drives(disks, "cdrom"),
        floppy=_drives(disks, "floppy"),
        disks=_disks(disks, facts),
        device_order=_device_order(root),
        is_external_disk=any(
            disk.source is SourceKind.NETWORK or facts.is_shared.get(disk.target, False)
            for _, disk in disks
            if not disk.is_removable
        ),
        has_passthrough_disk=any(disk.source is SourceKind.PASSTHROUGH for _, disk in disks),
        pci_devices=_pci_devices(root),
        mdev_devices=_mdev_devices(root),
        tpm_devices=_tpm_devices(root),
    )


def _memory(root: Element) -> tuple[int, int]:
    """(now, at most) in bytes; <maxMemory> counts the slots for plugging, <memory> what the guest booted with."""
    boot = bytes_of(root.find("memory"))
    return bytes_of(root.find("currentMemory")) or boot, bytes_of(root.find("maxMemory")) or boot


def _cpu(root: Element) -> tuple[int, int, int, int]:
    """(vCPUs now, at most, sockets, cores a socket)."""
    most = number_of(text_of(root, "vcpu"), 1)
    now = number_of(attribute_of(root, "vcpu", "current"), most)
    topology = root.find("cpu/topology")
    if topology is None:
        return now, most, most, 1  # libvirt's default: a socket for every vCPU
    cores = 1
    for level in ("dies", "clusters", "cores"):
        cores *= number_of(topology.get(level, "1"), 1)
    return now, most, number_of(topology.get("sockets", "1"), 1), cores


def _os(root: Element) -> str:
    """The system that virt-manager and virt-install noted: "debian/12" of "http://debian.org/debian/12"."""
    return attribute_of(root, _LIBOSINFO_OS, "id").removeprefix("http://").partition("/")[2]


def _firmware(root: Element) -> str:
    is_uefi = (
        attribute_of(root, "os", "firmware") == "efi"
        or attribute_of(root, "os/loader", "type") == "pflash"
        or root.find("os/nvram") is not None
    )
    return "UEFI" if is_uefi else "BIOS"


def _video(model: Element) -> Video:
    return Video(
        model_type=model.get("type", ""),
        heads=number_of(model.get("heads", "1"), 1),
        ram_size=number_of(model.get("ram", "0")),
        vga_mem=number_of(model.get("vgamem") or model.get("vram") or "0"),
    )


def _port(root: Element, kind: str) -> int:
    """The port of a display; 0 while libvirt has not chosen one (-1 in the XML) or the display has none."""
    found = root.find(f"devices/graphics[@type='{kind}']")
    if found is None:
        return 0
    ports = (number_of(found.get(name, "0")) for name in ("port", "tlsPort"))
    return next((port for port in ports if port > 0), 0)


def _interface(element: Element) -> Interface:
    return Interface(
        interface_id=attribute_of(element, "virtualport/parameters", "interfaceid")
        or attribute_of(element, "alias", "name"),
        interface_model_type=attribute_of(element, "model", "type"),
        interface_type=element.get("type", ""),
        mac_address=attribute_of(element, "mac", "address"),
        target_dev=attribute_of(element, "target", "dev"),
        port_group=attribute_of(element, "source", "portgroup"),
        vlan_tag_ids=[number_of(tag.get("id", "")) for tag in element.iterfind("vlan/tag")],
        # the address that a filter binds the guest to, else the one that libvirt configures
        bound_ip=attribute_of(element, "filterref/parameter[@name='IP']", "value")
        or attribute_of(element, "ip", "address"),
        name=next(
            (value for key in ("network", "bridge", "dev") if (value := attribute_of(element, "source", key))), ""
        ),
    )


def _drives(disks: list[tuple[Element, Disk]], device: str) -> dict[str, DriveMedium]:
    return {disk.target: DriveMedium(disk.target, disk.bus, disk.path) for _, disk in disks if disk.device == device}


def _boot_order(device: Element) -> int | None:
    order = number_of(attribute_of(device, "boot", "order"))
    return order if order > 0 else None


def _disks(disks: list[tuple[Element, Disk]], facts: InspectFacts) -> list[DiskInfo]:
    fixed = [(element, disk) for element, disk in disks if not disk.is_removable]
    ordered = [(order, disk.target) for element, disk in fixed if (order := _boot_order(element)) is not None]
    system = min(ordered)[1] if ordered else next((disk.target for _, disk in fixed), "")
    return [_disk_info(element, disk, facts, is_system=disk.target == system) for element, disk in fixed]


def _disk_info(element: Element, disk: Disk, facts: InspectFacts, *, is_system: bool) -> DiskInfo:
    is_file = disk.source is SourceKind.FILE
    shared = facts.is_shared.get(disk.target, False)
    capacity = facts.capacities.get(disk.target, 0)
    return DiskInfo(
        disk_target_device=disk.target,
        disk_target_bus=disk.bus,
        disk_cache_mode=attribute_of(element, "driver", "cache"),
        disks_serial=text_of(element, "serial"),
        wwn=text_of(element, "wwn"),
        disk_is_system=is_system,
        disk_vsd_source=_local_source(disk.path, capacity) if is_file and not shared else None,
        disk_volume_source=_shared_source(disk.path, capacity) if is_file and shared else None,
        disk_block_source=DiskBlockSource(disk.path) if disk.source is SourceKind.BLOCK else None,
        disk_source_passthrough=DiskPassthroughSource(disk.path) if disk.source is SourceKind.PASSTHROUGH else None,
    )


def _local_source(path: str, capacity: int) -> DiskVsdSource:
    """A file of this host: its directory is the pool, and there is one copy of it."""
    file = PurePosixPath(path)
    return DiskVsdSource(
        volume_uuid="",
        volume_name=file.name,
        disk_capacity=capacity,
        pool_uuid="",
        pool_name=str(file.parent),
        replica=1,
        drive_type="",
        redundancy="",
        vsd_vendor="",
    )


def _shared_source(path: str, capacity: int) -> DiskVolumeSource:
    file = PurePosixPath(path)
    return DiskVolumeSource(
        pool=str(file.parent),
        volume=file.name,
        volume_uuid="",
        disk_capacity=capacity,
        pool_name=file.parent.name,
    )


def _device_name(device: Element) -> str:
    """How device_order names it: the target device, else the MAC address, else libvirt's alias."""
    return (
        attribute_of(device, "target", "dev")
        or attribute_of(device, "mac", "address")
        or attribute_of(device, "alias", "name")
    )


def _device_order(root: Element) -> list[str]:
    """The boot order by device; libvirt allows either <boot order=> in devices or <boot dev=> in <os>, never both."""
    ordered = [(order, device) for device in root.iterfind("devices/*") if (order := _boot_order(device)) is not None]
    if ordered:
        named = [_device_name(device) for _, device in sorted(ordered, key=lambda pair: pair[0])]
    else:
        named = [name for boot in root.iterfind("os/boot") for name in _boot_class(root, boot.get("dev", ""))]
    return [name for name in named if name]


def _boot_class(root: Element, boot_device: str) -> Iterator[str]:
    """The devices that <os><boot dev=> means, in the XML's order."""
    if boot_device == "network":
        for element in root.iterfind("devices/interface"):
            yield _device_name(element)
    for target, element in disk_elements(root):
        device = element.get("device", "disk")
        if _BOOT_DEVICES.get(boot_device) == ("disk" if device == "lun" else device):
            yield target


def _pci_address(address: Element) -> str:
    """Spelt as lspci does: 0000:05:00.0."""
    domain, bus, slot, function = (int(address.get(name) or "0", 0) for name in ("domain", "bus", "slot", "function"))
    return f"{domain:04x}:{bus:02x}:{slot:02x}.{function:x}"


def _pci_devices(root: Element) -> list[str]:
    return [_pci_address(address) for address in root.iterfind("devices/hostdev[@type='pci']/source/address")]


def _mdev_devices(root: Element) -> list[str]:
    return [
        f"{device.get('model', '')} {attribute_of(device, 'source/address', 'uuid')}".strip()
        for device in root.iterfind("devices/hostdev[@type='mdev']")
    ]


def _tpm_devices(root: Element) -> list[str]:
    return [
        " ".join(
            part
            for part in (
                device.get("model", ""),
                attribute_of(device, "backend", "type"),
                attribute_of(device, "backend", "version"),
            )
            if part
        )
        for device in root.iterfind("devices/tpm")
    ]
