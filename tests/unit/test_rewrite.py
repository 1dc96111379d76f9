"""Domain XML with other disks under it."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from lxml import etree

from stillframe.adapters.libvirt.domain_xml import read_assignment, read_chain, read_disks, read_origin
from stillframe.adapters.libvirt.rewrite import disk_targets, for_restore, for_return, for_rollback, with_disk_paths
from stillframe.domain.errors import ErrorCase, Failed

DOMAINS = Path(__file__).parent / "domains"
SAVED_UUID = "4dea22b3-1d52-4f2a-9c1e-7b6b3c1a0001"
CURRENT = """<domain type='kvm'>
  <name>改名后</name>
  <uuid>4dea22b3-1d52-4f2a-9c1e-7b6b3c1a0001</uuid>
  <metadata>
    <stillframe:vm xmlns:stillframe="https://stillframe.dev/xmlns/vm/1" tenant="t-now" tenant_name="now" namespace="n"/>
    <app:note xmlns:app="urn:example:app">today's</app:note>
  </metadata>
  <memory unit='GiB'>1</memory>
</domain>"""


def _load(name: str) -> str:
    return (DOMAINS / f"{name}.xml").read_text(encoding="utf-8")


def _without_quotes(xml: str) -> str:
    """Lxml writes attributes in double quotes; that is all that may differ."""
    return xml.replace("'", '"').strip()


@pytest.mark.parametrize("name", sorted(path.stem for path in DOMAINS.glob("*.xml")))
def test_nothing_changes_when_no_disk_does(name: str) -> None:
    before, after = _load(name), with_disk_paths(_load(name), {})
    assert etree.canonicalize(after, with_comments=True) == etree.canonicalize(before, with_comments=True)


def test_a_switched_disk_forgets_its_old_chain_and_nothing_else() -> None:
    xml = with_disk_paths(_load("live-chain"), {"vda": ("/vm/new <1>.qcow2", "qcow2")})
    expected = (
        '<disk type="file" device="disk">\n'
        '      <driver name="qemu" type="qcow2" cache="none"/>\n'
        '      <source file="/vm/new &lt;1&gt;.qcow2"/>\n'
        '      <target dev="vda" bus="virtio"/>\n'
        "    </disk>"
    )
    assert expected in xml
    assert read_chain(xml, "vda") == ("/vm/new <1>.qcow2",)
    assert read_chain(xml, "vdb") == ("/vm/second.qcow2", "/vm/second-base.qcow2")


def test_command_line_namespaces_comments_and_cdata_stay() -> None:
    before = _load("commandline")
    after = with_disk_paths(before, {"vda": ("/vm/o.qcow2", "qcow2")})
    assert "mirror" not in after
    assert '<driver name="qemu" type="qcow2"/>' in after
    for kept in (
        "<!-- kept by hand -->",
        'xmlns:qemu="http://libvirt.org/schemas/domain/qemu/1.0"',
        "<![CDATA[a < b & c]]>",
        '<app:note xmlns:app="urn:example:app" level="3">text &amp; more</app:note>',
        '<unknown:thing xmlns:unknown="urn:example:unknown" a="1"/>',
    ):
        assert kept in after
    tail = before.index("<unknown")
    assert _without_quotes(before[tail:]) == after[after.index("<unknown") :].strip()


def test_format_of_a_raw_disk_and_what_only_qcow2_may_have() -> None:
    xml = with_disk_paths(_load("q35-uefi"), {"vda": ("/vm/r.img", "raw"), "sda": ("/vm/s.qcow2", "qcow2")})
    disks = {disk.target: (disk.path, disk.format) for disk in read_disks(xml)}
    assert disks == {
        "vda": ("/vm/r.img", "raw"),
        "sda": ("/vm/s.qcow2", "qcow2"),
        "sdb": ("/srv/iso/debian-12.iso", "raw"),
    }
    assert "metadata_cache" not in xml
    assert 'discard="unmap"' in xml


def test_an_empty_drive_gets_a_source_behind_its_driver() -> None:
    xml = with_disk_paths(_load("live-chain"), {"sda": ("/iso/x.iso", "raw")})
    assert re.search(r'<driver name="qemu" type="raw"/>\s*<source file="/iso/x.iso"/>\s*<target dev="sda"', xml)


def test_targets_in_order() -> None:
    assert disk_targets(_load("i440fx-ide")) == ("hda", "hdb", "hdc", "fda")


@pytest.mark.parametrize(
    ("name", "target", "why"),
    [
        ("live-chain", "vdz", "no disk vdz"),
        ("mixed-sources", "vda", "not an image file"),
        ("mixed-sources", "vdj", "slice"),
    ],
)
def test_a_disk_that_cannot_be_switched_is_an_error(name: str, target: str, why: str) -> None:
    with pytest.raises(Failed, match=why) as caught:
        with_disk_paths(_load(name), {target: ("/vm/x", "qcow2")})
    assert caught.value.case is ErrorCase.HYPERVISOR_FAILED


def test_rollback_keeps_todays_name_and_assignment_and_takes_the_rest_from_then() -> None:
    xml = for_rollback(_load("q35-uefi"), CURRENT, {"vda": ("/vm/v.qcow2", "qcow2")})
    root = etree.fromstring(xml)
    assert (root.findtext("name"), root.findtext("uuid")) == ("改名后", SAVED_UUID)
    assert read_assignment(xml) == ("t-now", "now", "n")
    assert len(root.findall("metadata/*")) == 2  # libosinfo's from then, ours from now
    assert root.find("metadata/{*}libosinfo") is not None
    assert root.findtext("memory") == "8388608"
    assert root.find("genid") is not None
    assert not root.findtext("genid")  # libvirt draws a new one


def test_rollback_moves_every_copy_of_the_uuid() -> None:
    root = etree.fromstring(for_rollback(_load("commandline"), CURRENT, {}))
    assert {root.findtext("uuid"), root.findtext("sysinfo/system/entry")} == {SAVED_UUID}


def test_rollback_creates_metadata_where_there_was_none() -> None:
    xml = for_rollback(_load("i440fx-ide"), CURRENT, {})
    assert read_assignment(xml) == ("t-now", "now", "n")
    assert "today" not in xml  # another program's note of today is not of then


def test_rollback_drops_an_assignment_that_is_gone_today() -> None:
    unassigned = "<domain><name>n</name><uuid>4dea22b3-1d52-4f2a-9c1e-7b6b3c1a0001</uuid></domain>"
    xml = for_rollback(_load("q35-uefi"), unassigned, {})
    assert read_assignment(xml) == ("default", "default", "default")
    assert "libosinfo" in xml


def test_rollback_inserts_a_missing_uuid() -> None:
    root = etree.fromstring(for_rollback("<domain><name>old</name></domain>", CURRENT, {}))
    assert [child.tag for child in root][:2] == ["name", "uuid"]
    assert [child.text for child in root][:2] == ["改名后", SAVED_UUID]


def test_rollback_needs_to_know_who_the_vm_is() -> None:
    with pytest.raises(Failed, match="has no uuid"):
        for_rollback(_load("q35-uefi"), "<domain><name>n</name></domain>", {})


def test_restore_keeps_the_generation_id_which_libvirt_compares() -> None:
    root = etree.fromstring(for_restore(_load("q35-uefi"), CURRENT, {"vda": ("/vm/v.qcow2", "qcow2")}, "m"))
    assert root.findtext("genid") == "43dc0cf8-809b-4adb-9bea-a9abb5f3d90e"
    assert root.findtext("name") == "改名后"
    assert root.find("devices/disk/source[@file='/vm/v.qcow2']") is not None


@pytest.mark.parametrize("name", ["q35-uefi", "commandline"])
def test_a_restored_guest_is_told_from_a_booted_one(name: str) -> None:
    """And only the present one: what is restored or defined later from its XML does not come from where it came."""
    restored = for_restore(_load(name), CURRENT, {}, "first")
    assert (read_origin(_load(name)), read_origin(restored)) == ("", "first")
    assert read_assignment(restored) == read_assignment(CURRENT)
    assert read_origin(for_restore(restored, CURRENT, {}, "second")) == "second"
    for defined in (for_rollback(restored, CURRENT, {}), for_return(restored, CURRENT)):
        assert read_origin(defined) == ""
        assert "origin" not in defined


def test_errors_do_not_carry_the_password() -> None:
    with pytest.raises(Failed) as caught:
        for_rollback(_load("commandline").replace("</devices>", ""), CURRENT, {})
    assert "hidden-word" not in f"{caught.value!r} {caught.value.__cause__!r}"
