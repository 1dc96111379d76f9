"""What a domain's XML says about its identity, assignment and disks; pure functions on text.

Format: libvirt's "Domain XML format" (formatdomain.html). Nothing here reaches libvirt, a file or the network.
Errors never quote the XML: it may carry a graphics password.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from lxml import etree
from lxml.etree import _Element as Element

from stillframe.domain.errors import ErrorCase, Failed
from stillframe.domain.vm import DEFAULT_NAMESPACE, DEFAULT_TENANT, Disk, SourceKind

METADATA_URI = "https://stillframe.dev/xmlns/vm/1"
METADATA_PREFIX = "stillframe"
METADATA_TAG = f"{{{METADATA_URI}}}vm"
# where a running guest came from; libvirt takes one element of each namespace
ORIGIN_URI = "https://stillframe.dev/xmlns/origin/1"
ORIGIN_TAG = f"{{{ORIGIN_URI}}}memory"

# virScaleInteger() in libvirt: a bare letter and the "iB" forms are powers of 1024, the "B" forms powers of 1000.
_BYTES_BY_UNIT: dict[str, int] = {"b": 1, "byte": 1, "bytes": 1} | {
    prefix + suffix: base**power
    for power, prefix in enumerate("kmgtpe", start=1)
    for suffix, base in (("", 1024), ("ib", 1024), ("b", 1000))
}
_BUS_BY_TARGET_PREFIX = {"fd": "fdc", "hd": "ide", "sd": "scsi", "vd": "virtio", "xv": "xen", "ub": "usb"}
_FILE_NAME, _BREAK = re.compile(r" file='[^']*'"), re.compile(r"[\n\r\t]")
_KIND_BY_TYPE = {"file": SourceKind.FILE, "block": SourceKind.BLOCK, "network": SourceKind.NETWORK}


def parse_xml(text: str) -> Element:
    """The root element of any XML that libvirt or a save image gave us.

    It is read without entities, network, DTD or exemptions from the parser's limits on size and depth: whoever may define
    a domain chose much of it.

    Raises:
        Failed: HYPERVISOR_FAILED: not well-formed, or carries a DOCTYPE. The text is not quoted.
    """
    parser = etree.XMLParser(
        encoding="utf-8",  # the text is already decoded; a declaration inside it no longer speaks the truth
        resolve_entities=False,
        no_network=True,
        load_dtd=False,
        huge_tree=False,
        strip_cdata=False,
    )
    try:
        root = etree.fromstring(text.encode(), parser)
    except (etree.XMLSyntaxError, UnicodeEncodeError) as error:
        line = error.lineno if isinstance(error, etree.XMLSyntaxError) else "?"
        # the parser's own words may quote the text, so only the place is told
        raise Failed(ErrorCase.HYPERVISOR_FAILED, f"a domain XML is not well-formed (line {line})") from None
    if root.getroottree().docinfo.internalDTD is not None:
        raise Failed(ErrorCase.HYPERVISOR_FAILED, "a domain XML carries a DOCTYPE")
    return root


def parse_domain(xml: str) -> Element:
    """The root element of a domain's XML; see ``parse_xml``.

    Raises:
        Failed: HYPERVISOR_FAILED: see ``parse_xml``; also when it is no <domain>.
    """
    # libvirt writes a line break in a file's name as it is, and a parser makes a blank of it: that is another file
    root = parse_xml(_FILE_NAME.sub(lambda found: _BREAK.sub(lambda char: f"&#{ord(char[0])};", found[0]), xml))
    if root.tag != "domain":
        raise Failed(ErrorCase.HYPERVISOR_FAILED, "an XML is not a <domain>")
    return root


def text_of(parent: Element, path: str) -> str:
    """The stripped text of a descendant, "" when there is none."""
    return (parent.findtext(path) or "").strip()


def attribute_of(parent: Element, path: str, name: str, default: str = "") -> str:
    """An attribute of a descendant, ``default`` when either is missing."""
    found = parent.find(path)
    return default if found is None else (found.get(name) or default)


def number_of(text: str, default: int = 0) -> int:
    """A decimal number, ``default`` when the text is none."""
    try:
        return int(text)
    except ValueError:
        return default


def bytes_of(element: Element | None, default_unit: str = "KiB") -> int:
    """A size element such as <memory unit='MiB'>512</memory> in bytes; 0 when absent or unreadable.

    Source: formatdomain.html, "Memory Allocation"; KiB is the default unit there.
    """
    if element is None:
        return 0
    scale = _BYTES_BY_UNIT.get((element.get("unit") or default_unit).lower(), 0)
    return number_of((element.text or "").strip()) * scale


def read_memory_bytes(xml: str) -> int:
    """The memory that the guest has now: <currentMemory>, else <memory>."""
    root = parse_domain(xml)
    current = root.find("currentMemory")
    return bytes_of(root.find("memory") if current is None else current)


def disk_elements(root: Element) -> Iterator[tuple[str, Element]]:
    """Every disk device as (target, element), in the XML's order."""
    for element in root.iterfind("devices/disk"):
        yield attribute_of(element, "target", "dev"), element


def find_disk(root: Element, target: str) -> Element:
    """The disk device with this target.

    Raises:
        Failed: HYPERVISOR_FAILED: there is none.
    """
    for name, element in disk_elements(root):
        if name == target:
            return element
    raise Failed(ErrorCase.HYPERVISOR_FAILED, f"the domain XML has no disk {target}")


def _network_path(source: Element) -> str:
    return ":".join(part for part in (source.get("protocol"), source.get("name")) if part)


def source_path(source: Element | None) -> str:
    """What a <source> names: a file, a device, or a readable description; "" for none."""
    if source is None:
        return ""
    for name in ("file", "dev", "dir", "path"):
        if value := source.get(name):
            return value
    if source.get("protocol"):
        return _network_path(source)
    if source.get("volume"):
        return f"{source.get('pool', '')}/{source.get('volume')}"
    if source.get("type"):  # nvme, vhost-user, vhost-vdpa
        return str(source.get("type"))
    return ""


def _source_kind(disk: Element) -> SourceKind:
    source = disk.find("source")
    if source is None or not source_path(source):
        return SourceKind.EMPTY
    if disk.get("device") == "lun":  # libvirt allows rawio and sgio on these alone
        return SourceKind.PASSTHROUGH
    if source.find("slices") is not None:
        return SourceKind.OTHER  # a window of a file: an overlay on the whole file would show other bytes
    return _KIND_BY_TYPE.get(disk.get("type", "file"), SourceKind.OTHER)


def read_disk(element: Element) -> Disk:
    """One <disk>. A driver without a type is "raw", libvirt's default (formatdomain.html, "driver")."""
    target = attribute_of(element, "target", "dev")
    return Disk(
        target=target,
        bus=attribute_of(element, "target", "bus") or _BUS_BY_TARGET_PREFIX.get(target[:2], ""),
        device=element.get("device", "disk"),
        source=_source_kind(element),
        path=source_path(element.find("source")),
        format=attribute_of(element, "driver", "type", "raw"),
        read_only=element.find("readonly") is not None,
        shareable=element.find("shareable") is not None,
        transient=element.find("transient") is not None,
        # anywhere below: an overlay on an encrypted file needs the secret just as well
        encrypted=next(element.iter("encryption"), None) is not None,
        snapshot_mode=element.get("snapshot", ""),
    )


def read_disks(xml: str) -> tuple[Disk, ...]:
    """All disk devices, CD-ROMs and floppies among them, in the XML's order.

    Raises:
        Failed: HYPERVISOR_FAILED: see ``parse_domain``.
    """
    return tuple(read_disk(element) for _, element in disk_elements(parse_domain(xml)))


def find_assignment(root: Element) -> Element | None:
    """Stillframe's own element in <metadata>."""
    return root.find(f"metadata/{METADATA_TAG}")


def assignment_of(root: Element) -> tuple[str, str, str]:
    """(tenant, tenant_name, namespace) of a parsed domain; see ``read_assignment``."""
    return _assignment_in(find_assignment(root))


def _assignment_in(found: Element | None) -> tuple[str, str, str]:
    if found is None:
        return DEFAULT_TENANT, DEFAULT_TENANT, DEFAULT_NAMESPACE
    tenant = found.get("tenant") or DEFAULT_TENANT
    return tenant, found.get("tenant_name") or tenant, found.get("namespace") or DEFAULT_NAMESPACE


def read_assignment(xml: str) -> tuple[str, str, str]:
    """(tenant, tenant_name, namespace) of a domain; the defaults where nothing was assigned.

    Raises:
        Failed: HYPERVISOR_FAILED: see ``parse_domain``.
    """
    return assignment_of(parse_domain(xml))


def read_assignment_element(xml: str) -> tuple[str, str, str]:
    """The same, of the element alone, as ``virDomainGetMetadata`` gives it; the defaults of "", which is none.

    Raises:
        Failed: HYPERVISOR_FAILED: see ``parse_xml``.
    """
    return _assignment_in(parse_xml(xml) if xml else None)


def assignment_element(tenant: str, tenant_name: str, namespace: str) -> str:
    """The element for ``virDomainSetMetadata`` with METADATA_PREFIX as key and METADATA_URI as uri.

    It carries no namespace of its own: libvirt injects uri and key, and refuses an element that has them already
    (virXMLInjectNamespace).
    """
    attributes = {"tenant": tenant, "tenant_name": tenant_name, "namespace": namespace}
    return etree.tostring(etree.Element("vm", attributes), encoding="unicode")


def read_origin(xml: str) -> str:
    """The memory state that a running guest was restored from, as ``rewrite.for_restore`` noted it; "" for a booted one.

    Raises:
        Failed: HYPERVISOR_FAILED: see ``parse_domain``.
    """
    return attribute_of(parse_domain(xml), f"metadata/{ORIGIN_TAG}", "uuid")


def cpu_cookie(live_xml: str) -> str:
    """What libvirt keeps beside the XML of a saved guest: the CPU as it was really started.

    Without it a ``host-model`` CPU would be expanded anew at the restore, on a host that may have changed.
    Source: libvirt's qemuDomainSaveCookieFormat.
    """
    cpu = parse_domain(live_xml).find("cpu")
    if cpu is None:
        return ""
    return f"<cookie>\n  {etree.tostring(cpu, encoding='unicode', with_tail=False)}\n</cookie>\n"


def read_chain(xml: str, target: str) -> tuple[str, ...]:
    """The files of a disk's chain, topmost first, as far as the XML lists them; () for an empty drive.

    The live XML of a running domain lists the whole chain (formatdomain.html, "backingStore"); a saved definition
    mostly has the active file alone.

    Raises:
        Failed: HYPERVISOR_FAILED: no such disk, or see ``parse_domain``.
    """
    level: Element | None = find_disk(parse_domain(xml), target)
    chain: list[str] = []
    while level is not None and (path := source_path(level.find("source"))):
        chain.append(path)
        level = level.find("backingStore")
    return tuple(chain)
