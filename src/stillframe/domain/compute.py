"""ComputeInspectInfo and ComputeInfo: a VM's configuration in the platform's own field names.

Field names and types are the platform's (see the API reference of the calls); what a libvirt VM cannot have is empty.
Sizes are bytes unless the name says kB.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Video:
    model_type: str
    heads: int
    ram_size: int  # kB
    vga_mem: int  # kB


@dataclass(frozen=True)
class Interface:
    interface_id: str
    interface_model_type: str
    interface_type: str
    mac_address: str
    target_dev: str
    port_group: str
    vlan_tag_ids: list[int]
    bound_ip: str
    name: str


@dataclass(frozen=True)
class DriveMedium:
    """A CD-ROM or floppy drive and what is in it."""

    disk_target_device: str
    disk_target_bus: str
    path: str


@dataclass(frozen=True)
class DiskVsdSource:
    """Built-in storage: a file on the host's own file system."""

    volume_uuid: str
    volume_name: str
    disk_capacity: int  # bytes
    pool_uuid: str
    pool_name: str
    replica: int
    drive_type: str
    redundancy: str
    vsd_vendor: str


@dataclass(frozen=True)
class DiskVolumeSource:
    """Shared storage: a file on a file system that several hosts mount."""

    pool: str
    volume: str
    volume_uuid: str
    disk_capacity: int  # bytes
    pool_name: str


@dataclass(frozen=True)
class DiskBlockSource:
    path: str


@dataclass(frozen=True)
class DiskPassthroughSource:
    path: str


@dataclass(frozen=True)
class DiskInfo:
    """One disk; of the four sources exactly one is set (none where the kind is unknown to the platform)."""

    disk_target_device: str
    disk_target_bus: str
    disk_cache_mode: str
    disks_serial: str
    wwn: str
    disk_is_system: bool
    disk_vsd_source: DiskVsdSource | None = None
    disk_volume_source: DiskVolumeSource | None = None
    disk_block_source: DiskBlockSource | None = None
    disk_source_passthrough: DiskPassthroughSource | None = None


@dataclass(frozen=True)
class ComputeInfo:
    """One row of the VM list."""

    tenant: str
    tenant_name: str
    uuid: str
    name: str
    type: str
    create_time: int
    modify_time: int
    state: str
    ga_state: str
    action: str
    os: str
    namespace: str
    is_external_disk: bool
    has_passthrough_disk: bool
    cluster_uuid: str
    cluster_name: str


@dataclass(frozen=True)
class ComputeInspectInfo:
    """The full configuration of one VM."""

    tenant: str
    tenant_name: str
    uuid: str
    name: str
    type: str
    create_time: int
    modify_time: int
    state: str
    ga_state: str
    action: str
    os: str
    namespace: str
    mem_size: int  # bytes
    mem_max: int  # bytes
    memory_huge_pages_enable: bool
    os_loader_path: str  # BIOS | UEFI
    video: list[Video]
    vnc_enable: bool
    vnc_port: int
    spice_port: int
    cpu_current: str
    cpu_max_count: int
    cpu_sockets: int
    cpu_socket_cores: int
    baseline: str
    interfaces: list[Interface]
    cdrom: dict[str, DriveMedium]  # by target device
    floppy: dict[str, DriveMedium]  # by target device
    disks: list[DiskInfo]
    device_order: list[str]
    is_external_disk: bool
    has_passthrough_disk: bool
    pci_devices: list[str] = field(default_factory=list)
    mdev_devices: list[str] = field(default_factory=list)
    tpm_devices: list[str] = field(default_factory=list)
    cluster_uuid: str = ""
    cluster_name: str = ""
