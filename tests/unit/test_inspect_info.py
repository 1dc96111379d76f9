"""ComputeInspectInfo from domain XML."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from stillframe.adapters.libvirt.inspect_info import InspectFacts, read_inspect
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
from stillframe.domain.vm import Action, PowerState

DOMAINS = Path(__file__).parent / "domains"
GIB = 1 << 30


def _load(name: str) -> str:
    return (DOMAINS / f"{name}.xml").read_text(encoding="utf-8")


@pytest.fixture
def web() -> ComputeInspectInfo:
    facts = InspectFacts(
        state=PowerState.RUNNING,
        capacities={"vda": 20 * GIB, "sda": 100 * GIB},
        is_shared={"vda": False, "sda": True},
        ga_state="connected",
        action=Action.SAVE,
        create_time=1629783924,
        modify_time=1629783999,
    )
    return read_inspect(_load("q35-uefi"), facts)


@pytest.fixture
def legacy() -> ComputeInspectInfo:
    return read_inspect(_load("i440fx-ide"), InspectFacts(state=PowerState.SHUTOFF))


def test_identity_and_facts(web: ComputeInspectInfo) -> None:
    assert (web.tenant, web.tenant_name, web.namespace) == ("t-100", "研发部", "prod")
    assert (web.uuid, web.name, web.type) == ("4dea22b3-1d52-4f2a-9c1e-7b6b3c1a0001", "web-01", "GUS")
    assert (web.state, web.ga_state, web.action) == ("running", "connected", "save")
    assert (web.create_time, web.modify_time, web.os) == (1629783924, 1629783999, "debian/12")
    assert (web.cluster_uuid, web.cluster_name) == ("", "")


def test_memory_cpu_and_firmware(web: ComputeInspectInfo) -> None:
    assert (web.mem_size, web.mem_max, web.memory_huge_pages_enable) == (4 * GIB, 32 * GIB, True)
    assert (web.cpu_current, web.cpu_max_count, web.cpu_sockets, web.cpu_socket_cores) == ("4", 8, 2, 2)
    assert (web.baseline, web.os_loader_path) == ("Cascadelake-Server", "UEFI")


def test_defaults_of_a_plain_vm(legacy: ComputeInspectInfo) -> None:
    assert (legacy.mem_size, legacy.mem_max, legacy.memory_huge_pages_enable) == (512 << 20, 512 << 20, False)
    assert (legacy.cpu_current, legacy.cpu_max_count, legacy.cpu_sockets, legacy.cpu_socket_cores) == ("2", 2, 2, 1)
    assert (legacy.baseline, legacy.os_loader_path, legacy.os) == ("host-model", "BIOS", "")
    assert (legacy.tenant, legacy.action, legacy.ga_state) == ("default", "noaction", "disconnected")
    assert (legacy.vnc_enable, legacy.vnc_port, legacy.spice_port) == (True, 0, 0)
    assert legacy.video == [Video("cirrus", 1, 0, 16384)]


def test_displays(web: ComputeInspectInfo) -> None:
    assert (web.vnc_enable, web.vnc_port, web.spice_port) == (True, 5903, 5904)
    assert web.video == [Video("qxl", 2, 65536, 16384)]
    assert "hidden" not in repr(web)


def test_interfaces(web: ComputeInspectInfo) -> None:
    assert web.interfaces == [
        Interface(
            interface_id="09b11c53-8b5c-4eeb-8f00-d84eaa0aaa4f",
            interface_model_type="virtio",
            interface_type="bridge",
            mac_address="52:54:00:6b:3c:58",
            target_dev="vnet5",
            port_group="",
            vlan_tag_ids=[42, 123],
            bound_ip="192.0.2.17",
            name="br0",
        ),
        Interface(
            interface_id="net1",
            interface_model_type="e1000e",
            interface_type="network",
            mac_address="52:54:00:6b:3c:59",
            target_dev="vnet6",
            port_group="engineering",
            vlan_tag_ids=[],
            bound_ip="",
            name="default",
        ),
    ]


def test_disks_have_exactly_one_source(web: ComputeInspectInfo) -> None:
    local = DiskVsdSource("", "web-01.qcow2", 20 * GIB, "", "/var/lib/libvirt/images", 1, "", "", "")
    shared = DiskVolumeSource("/mnt/shared/data", "web-01-data.qcow2", "", 100 * GIB, "data")
    assert web.disks == [
        DiskInfo("vda", "virtio", "none", "WEB01SYS", "", disk_is_system=True, disk_vsd_source=local),
        DiskInfo("sda", "scsi", "writeback", "", "5000c50015ea71aa", disk_is_system=False, disk_volume_source=shared),
    ]
    assert (web.is_external_disk, web.has_passthrough_disk) == (True, False)


def test_drives(web: ComputeInspectInfo, legacy: ComputeInspectInfo) -> None:
    assert web.cdrom == {"sdb": DriveMedium("sdb", "sata", "/srv/iso/debian-12.iso")}
    assert web.floppy == {}
    assert legacy.cdrom == {"hdc": DriveMedium("hdc", "ide", "")}
    assert legacy.floppy == {"fda": DriveMedium("fda", "fdc", "/vm/boot.flp")}


def test_boot_order(web: ComputeInspectInfo, legacy: ComputeInspectInfo) -> None:
    assert web.device_order == ["sdb", "vda", "vnet5"]
    assert legacy.device_order == ["52:54:00:00:00:02", "hda", "hdb", "hdc", "fda"]
    assert [disk.disk_target_device for disk in legacy.disks if disk.disk_is_system] == ["hda"]


def test_the_system_disk_is_the_first_to_boot_not_the_first_listed() -> None:
    xml = _load("i440fx-ide").replace("<target dev='hdb'/>", "<target dev='hdb'/><boot order='1'/>")
    disks = read_inspect(xml, InspectFacts(state=PowerState.SHUTOFF)).disks
    assert [disk.disk_target_device for disk in disks if disk.disk_is_system] == ["hdb"]


def test_host_devices(web: ComputeInspectInfo) -> None:
    assert web.pci_devices == ["0000:3b:00.1"]
    assert web.mdev_devices == ["vfio-pci c2177883-f1bb-47f0-914d-32a22e3a8804"]
    assert web.tpm_devices == ["tpm-crb emulator 2.0"]


def test_sources_that_cannot_be_snapshotted() -> None:
    info = read_inspect(_load("mixed-sources"), InspectFacts(state=PowerState.SHUTOFF))
    disks = {disk.disk_target_device: disk for disk in info.disks}
    assert disks["vda"].disk_block_source == DiskBlockSource("/dev/vg0/mixed")
    assert disks["sda"].disk_source_passthrough == DiskPassthroughSource("/dev/disk/by-id/wwn-0x5000c50015ea71aa")
    assert disks["sdb"].disk_source_passthrough == DiskPassthroughSource("/dev/sdx")
    assert (info.is_external_disk, info.has_passthrough_disk) == (True, True)
    assert info.mem_max == 2 * 10**9
    sources = ("disk_vsd_source", "disk_volume_source", "disk_block_source", "disk_source_passthrough")
    for disk in disks.values():
        assert sum(getattr(disk, source) is not None for source in sources) <= 1


def test_a_vm_with_nothing_is_still_described() -> None:
    info = read_inspect("<domain/>", InspectFacts(state=PowerState.NOSTATE))
    assert (info.cpu_current, info.vnc_enable, info.disks, info.device_order) == ("1", False, [], [])
    assert dataclasses.asdict(info)["state"] == "nostate"


def test_a_tls_only_display_and_a_stateless_firmware() -> None:
    xml = (
        "<domain><os><loader type='pflash'>x</loader></os><devices>"
        "<graphics type='spice' port='-1' tlsPort='5910'/></devices></domain>"
    )
    info = read_inspect(xml, InspectFacts(state=PowerState.RUNNING))
    assert (info.spice_port, info.os_loader_path) == (5910, "UEFI")
