"""Reading disks, chains and assignment from domain XML."""

from __future__ import annotations

from pathlib import Path

import pytest

from stillframe.adapters.libvirt.domain_xml import (
    METADATA_PREFIX,
    METADATA_URI,
    assignment_element,
    bytes_of,
    parse_domain,
    read_assignment,
    read_chain,
    read_disks,
    read_memory_bytes,
)
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.domain.rules import why_disk_unsupported
from stillframe.domain.vm import Disk, SourceKind

DOMAINS = Path(__file__).parent / "domains"
GIB = 1 << 30
# a billion laughs: 10^9 words, if somebody expanded it
LAUGHS = (
    "<!DOCTYPE domain [<!ENTITY a 'hidden-word'>"
    + "".join(f"<!ENTITY {one} '{f'&{before};' * 10}'>" for before, one in zip("abcdefghi", "bcdefghij", strict=True))
    + "]><domain><name>&j;</name></domain>"
)


def _load(name: str) -> str:
    return (DOMAINS / f"{name}.xml").read_text(encoding="utf-8")


def _disks(name: str) -> dict[str, Disk]:
    return {disk.target: disk for disk in read_disks(_load(name))}


def test_ordinary_disks_are_read_with_format_and_path() -> None:
    assert read_disks(_load("q35-uefi")) == (
        Disk("vda", "virtio", "disk", SourceKind.FILE, "/var/lib/libvirt/images/web-01.qcow2", "qcow2"),
        Disk("sda", "scsi", "disk", SourceKind.FILE, "/mnt/shared/data/web-01-data.qcow2", "qcow2"),
        Disk("sdb", "sata", "cdrom", SourceKind.FILE, "/srv/iso/debian-12.iso", "raw", read_only=True),
    )


def test_what_the_xml_leaves_out_is_libvirts_default() -> None:
    disks = _disks("i440fx-ide")
    assert disks["hda"].format == "raw"  # no <driver>
    assert (disks["hdb"].bus, disks["hdb"].device) == ("ide", "disk")
    assert (disks["fda"].bus, disks["fda"].is_removable) == ("fdc", True)
    assert (disks["hdc"].source, disks["hdc"].path) == (SourceKind.EMPTY, "")


@pytest.mark.parametrize(
    ("target", "kind", "path"),
    [
        ("vda", SourceKind.BLOCK, "/dev/vg0/mixed"),
        ("sda", SourceKind.PASSTHROUGH, "/dev/disk/by-id/wwn-0x5000c50015ea71aa"),
        ("sdb", SourceKind.PASSTHROUGH, "/dev/sdx"),
        ("vdb", SourceKind.NETWORK, "rbd:pool/image"),
        ("vdc", SourceKind.FILE, "/vm/luks.qcow2"),
        ("vdg", SourceKind.OTHER, "blk-pool0/blk-pool0-vol0"),
        ("vdh", SourceKind.OTHER, "pci"),
        ("vdi", SourceKind.OTHER, "/run/vhost-blk.sock"),
        ("vdj", SourceKind.OTHER, "/vm/container.img"),
    ],
)
def test_source_kinds(target: str, kind: SourceKind, path: str) -> None:
    disk = _disks("mixed-sources")[target]
    assert (disk.source, disk.path) == (kind, path)


def test_disk_properties() -> None:
    disks = _disks("mixed-sources")
    assert [t for t, d in disks.items() if d.encrypted] == ["vdc"]
    assert [t for t, d in disks.items() if d.shareable] == ["vdd"]
    assert [t for t, d in disks.items() if d.transient] == ["vde"]
    assert [t for t, d in disks.items() if d.read_only] == ["vdf"]
    assert {t: d.snapshot_mode for t, d in disks.items() if d.snapshot_mode} == {"vda": "no", "vdf": "internal"}
    assert disks["sda"].device == "lun"


def test_every_disk_of_the_odd_vm_is_refused_by_the_rules() -> None:
    assert all(why_disk_unsupported(disk) for disk in _disks("mixed-sources").values())


def test_a_declared_encoding_does_not_matter_to_decoded_text() -> None:
    xml = _load("chinese-name")
    assert "UTF-8" in xml
    for encoding in ("UTF-8", "GB18030", "UTF-16"):
        assert read_disks(xml.replace("UTF-8", encoding))[0].path == "/虚拟机/数据库.qcow2"


def test_an_encrypted_backing_file_makes_the_disk_encrypted() -> None:
    disks = _disks("live-chain")
    assert (disks["vda"].encrypted, disks["vdb"].encrypted) == (False, True)


def test_chains_are_read_topmost_first() -> None:
    xml = _load("live-chain")
    assert read_chain(xml, "vda") == ("/vm/top.qcow2", "/vm/middle.qcow2", "/dev/vg0/base")
    assert read_chain(xml, "vdb") == ("/vm/second.qcow2", "/vm/second-base.qcow2")
    assert read_chain(xml, "sda") == ()
    assert read_chain(_load("i440fx-ide"), "hda") == ("/vm/legacy-a.img",)


def test_chain_of_an_absent_disk_is_an_error() -> None:
    with pytest.raises(Failed, match="no disk vdz") as caught:
        read_chain(_load("live-chain"), "vdz")
    assert caught.value.case is ErrorCase.HYPERVISOR_FAILED


def test_assignment_is_read_or_defaulted() -> None:
    assert read_assignment(_load("q35-uefi")) == ("t-100", "研发部", "prod")
    assert read_assignment(_load("chinese-name")) == ("t-7", "t-7", "default")
    assert read_assignment(_load("i440fx-ide")) == ("default", "default", "default")
    assert read_assignment(_load("commandline")) == ("default", "default", "default")


def test_assignment_element_survives_libvirts_namespace_injection() -> None:
    element = assignment_element("t<1>", '租户 "甲" & co', "ns")
    # what virXMLInjectNamespace makes of it
    injected = element.replace("<vm ", f'<{METADATA_PREFIX}:vm xmlns:{METADATA_PREFIX}="{METADATA_URI}" ')
    assert "xmlns" not in element
    assert read_assignment(f"<domain><metadata>{injected}</metadata></domain>") == ("t<1>", '租户 "甲" & co', "ns")


@pytest.mark.parametrize(
    ("unit", "size"),
    [
        ("b", 1), ("bytes", 1), ("KB", 1000), ("k", 1024), ("KiB", 1024), ("MB", 10**6), ("M", 1 << 20),
        ("MiB", 1 << 20), ("GB", 10**9), ("G", GIB), ("GiB", GIB), ("TB", 10**12), ("TiB", 1 << 40), ("furlong", 0),
    ],
)  # fmt: skip
def test_memory_units(unit: str, size: int) -> None:
    memory = parse_domain(f"<domain><memory unit='{unit}'>3</memory></domain>").find("memory")
    assert bytes_of(memory) == 3 * size


def test_memory_is_the_current_one() -> None:
    assert read_memory_bytes(_load("q35-uefi")) == 4 * GIB
    assert read_memory_bytes(_load("i440fx-ide")) == 512 << 20
    assert read_memory_bytes("<domain/>") == 0
    assert read_memory_bytes("<domain><memory>many</memory></domain>") == 0


@pytest.mark.parametrize(
    "xml",
    [
        "",
        "<domain><graphics passwd='hidden-word'</domain>",
        "<pool><name>hidden-word</name></pool>",
        "<!DOCTYPE domain><domain><name>hidden-word</name></domain>",
        "<!DOCTYPE domain [<!ENTITY x 'hidden-word'>]><domain><name>&x;</name></domain>",
        "<!DOCTYPE domain [<!ENTITY x SYSTEM 'file:///etc/hostname'>]><domain><name>&x;</name></domain>",
        "<!DOCTYPE domain SYSTEM 'http://localhost:1/x.dtd'><domain/>",
        "<domain>\ud800hidden-word</domain>",
        "<domain>&hidden-word;</domain>",
        "<domain>hidden-word\0</domain>",
        "<domain>hidden-word&#1;</domain>",
        LAUGHS,
        "<!DOCTYPE domain [<!ENTITY % x SYSTEM 'file:///etc/hostname'>%x;]><domain>hidden-word</domain>",
        "<!DOCTYPE domain [<!ATTLIST domain hidden-word CDATA 'hidden-word'>]><domain/>",
        "<x>" * 100_000,
        "<domain>" + "<x>" * 5_000 + "</x>" * 5_000 + "</domain>",
        "<domain><name>" + "hidden-word" * 1_000_000 + "</name></domain>",
        "<domain name='" + "hidden-word" * 1_000_000 + "'/>",
    ],
    ids=lambda xml: f"{len(xml)}-bytes",
)
def test_unreadable_xml_is_refused_without_quoting_it(xml: str) -> None:
    with pytest.raises(Failed) as caught:
        read_disks(xml)
    assert caught.value.case is ErrorCase.HYPERVISOR_FAILED
    assert "hidden-word" not in str(caught.value)


def test_an_include_is_not_followed() -> None:
    included = "<i:include xmlns:i='http://www.w3.org/2001/XInclude' href='/etc/hostname' parse='text'/>"
    root = parse_domain(f"<?xml-stylesheet href='file:///etc/hostname'?><domain><name>{included}</name></domain>")
    assert "".join(root.itertext()) == ""


def test_a_line_break_in_a_files_name_stays_one() -> None:
    """As it is libvirt writes it, and a parser makes a blank of it, which would be another file."""
    disk = "<disk type='file'><source file='/vm/a{}b.img' index='1'/><target dev='vda'/></disk>"
    for char in "\n\r\t":
        found = read_disks(f"<domain><devices>{disk.format(char)}</devices></domain>")[0]
        assert found.path == f"/vm/a{char}b.img"
        assert "control character" in why_disk_unsupported(found)
