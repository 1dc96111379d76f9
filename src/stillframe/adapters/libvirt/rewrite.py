"""Domain XML with other disks under it, for rolling a VM back; pure functions on text.

Everything that is not named here stays as it was: unknown elements, comments, <qemu:commandline>, whitespace.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy

from lxml import etree
from lxml.etree import _Element as Element

from stillframe.adapters.libvirt.domain_xml import (
    METADATA_TAG,
    ORIGIN_TAG,
    ORIGIN_URI,
    disk_elements,
    find_assignment,
    find_disk,
    parse_domain,
)
from stillframe.domain.errors import ErrorCase, Failed

DiskPaths = Mapping[str, tuple[str, str]]
"""target -> (path, format)"""


def disk_targets(xml: str) -> tuple[str, ...]:
    """The targets of all disk devices, CD-ROMs and floppies among them, in the XML's order.

    Raises:
        Failed: HYPERVISOR_FAILED: the XML cannot be read.
    """
    return tuple(target for target, _ in disk_elements(parse_domain(xml)))


def with_disk_paths(xml: str, disk_paths: DiskPaths) -> str:
    """The XML with these file disks on these files; what it said about their old chains is gone.

    libvirt finds the new chain in the image headers when <backingStore> is missing (formatdomain.html).

    Raises:
        Failed: HYPERVISOR_FAILED: a target is absent or not an image file, or the XML cannot be read.
    """
    root = parse_domain(xml)
    _switch_disks(root, disk_paths)
    return _serialise(root)


def for_rollback(saved_xml: str, current_xml: str, disk_paths: DiskPaths) -> str:
    """A saved definition for today's VM: name, uuid and assignment are the current ones, the rest is as saved.

    <genid> is emptied, so that libvirt draws a new one: the guest's clock went back and its directory services and
    databases must be able to notice (formatdomain.html, "genid").

    Args:
        saved_xml: the definition of the moment to go back to.
        current_xml: the VM's definition now.
        disk_paths: target -> (path, format) of the disks.

    Raises:
        Failed: HYPERVISOR_FAILED: see ``with_disk_paths``.
    """
    root = _adopted(saved_xml, current_xml, disk_paths)
    genid = root.find("genid")
    if genid is not None:
        genid.text = None
    return _serialise(root)


def for_return(earlier_xml: str, current_xml: str) -> str:
    """A definition of a moment ago, to be defined again; name and assignment are today's.

    Raises:
        Failed: HYPERVISOR_FAILED: see ``with_disk_paths``.
    """
    return _serialise(_adopted(earlier_xml, current_xml, {}))


def for_restore(runtime_xml: str, current_xml: str, disk_paths: DiskPaths, origin: str) -> str:
    """The XML for a save image's header: a migratable live XML with current name, uuid, assignment and given disks.

    <genid> is kept: libvirt itself draws a new one when it restores (VIR_QEMU_PROCESS_START_GEN_VMID).

    Args:
        runtime_xml: from XMLDesc(SECURE | MIGRATABLE) at the moment of the capture.
        current_xml: the VM's definition now.
        disk_paths: target -> (path, format) of the disks.
        origin: the uuid of the memory state, which ``domain_xml.read_origin`` finds in the running guest.

    Raises:
        Failed: HYPERVISOR_FAILED: see ``with_disk_paths``.
    """
    root = _adopted(runtime_xml, current_xml, disk_paths)
    metadata = _metadata(root)
    metadata.append(etree.Element(ORIGIN_TAG, {"uuid": origin}, nsmap={"origin": ORIGIN_URI}))
    return _serialise(root)


def _adopted(saved_xml: str, current_xml: str, disk_paths: DiskPaths) -> Element:
    root, current = parse_domain(saved_xml), parse_domain(current_xml)
    _copy_identity(root, current)
    _copy_assignment(root, current)
    # a guest that is defined or restored now does not come from where an earlier one came
    for old in root.findall(f"metadata/{ORIGIN_TAG}"):
        _drop(old)
    _switch_disks(root, disk_paths)
    return root


def _serialise(root: Element) -> str:
    # the tree, not the root: comments around the root are kept
    return etree.tostring(root.getroottree(), encoding="unicode")


def _copy_identity(root: Element, current: Element) -> None:
    for position, tag in enumerate(("name", "uuid")):
        wanted = current.findtext(tag)
        if not wanted:
            raise Failed(ErrorCase.HYPERVISOR_FAILED, f"the domain XML has no {tag}")
        found = root.find(tag)
        if found is None:
            found = etree.Element(tag)
            root.insert(position, found)
        found.text = wanted
    # both ids repeat the uuid; libvirt refuses a definition where they differ
    for entry in root.iterfind("sysinfo/system/entry[@name='uuid']"):
        entry.text = current.findtext("uuid")


def _copy_assignment(root: Element, current: Element) -> None:
    for metadata in root.findall("metadata"):
        for old in metadata.findall(METADATA_TAG):
            _drop(old)
    assignment = find_assignment(current)
    if assignment is None:
        return
    copied = deepcopy(assignment)
    copied.tail = None
    _metadata(root).append(copied)


def _metadata(root: Element) -> Element:
    """Its <metadata>, made when there is none."""
    found = root.find("metadata")
    if found is None:
        found = etree.Element("metadata")
        root.insert(2, found)  # behind name and uuid
    return found


def _switch_disks(root: Element, disk_paths: DiskPaths) -> None:
    for target, (path, image_format) in disk_paths.items():
        disk = find_disk(root, target)
        _check_switchable(disk, target)
        for stale in ("backingStore", "mirror"):
            for element in disk.findall(stale):
                _drop(element)
        _set_source(disk, path)
        _set_format(disk, image_format)


def _check_switchable(disk: Element, target: str) -> None:
    if disk.get("type", "file") != "file":
        raise Failed(ErrorCase.HYPERVISOR_FAILED, f"disk {target} is not an image file in the domain XML")
    if disk.find("source/slices") is not None:
        raise Failed(ErrorCase.HYPERVISOR_FAILED, f"disk {target} is a slice of a file in the domain XML")


def _set_source(disk: Element, path: str) -> None:
    source = disk.find("source")
    if source is None:
        source = etree.Element("source")
        driver = disk.find("driver")
        disk.insert(0 if driver is None else disk.index(driver) + 1, source)
    source.set("file", path)
    # these belong to the file that was there: its node in the running QEMU, its passed descriptors, its data file
    for name in ("index", "fdgroup"):
        source.attrib.pop(name, None)
    for element in source.findall("dataStore"):
        _drop(element)


def _set_format(disk: Element, image_format: str) -> None:
    driver = disk.find("driver")
    if driver is None:
        driver = etree.Element("driver", {"name": "qemu"})
        disk.insert(0, driver)
    driver.set("type", image_format)
    if image_format != "qcow2":
        for element in driver.findall("metadata_cache"):  # libvirt allows it on qcow2 alone
            _drop(element)


def _drop(element: Element) -> None:
    """Remove an element so that the indentation around it stays what a reader expects."""
    parent, before = element.getparent(), element.getprevious()
    if parent is None:
        return
    if element.getnext() is None:  # the closing tag's indentation stands behind the last child
        if before is not None:
            before.tail = element.tail
        elif not (parent.text or "").strip():
            parent.text = None
    parent.remove(element)
