"""Spares the start of a QEMU libvirt's several hundred questions about its processor.

libvirt 11.3 reads the features of a guest's CPU one by one, each with a question to QEMU's monitor (qom-get): of 500 ms from the
request to the guest's first tick these were 283. From a QEMU that has no property "unavailable-features" it reads the words of
CPUID instead, with two questions, and decides the same by them. One of the guest's capabilities is withdrawn for that, in the XML
of this start alone (<qemu:capabilities>, as <qemu:commandline> is a word to libvirt's QEMU driver that its owner answers for).

It is done only where nothing can be lost by it: where libvirt itself makes sure that the guest gets exactly the CPU that it had
(check "full"), or takes it as it comes. The words of CPUID hold no features of MSRs: a CPU that is to have some is refused by that
check, before the guest runs, and whoever restores it asks again, in full. What QEMU would give of MSRs beyond the saved CPU is not
seen; it gives what that CPU's model says, as it did when the guest was started first.

The word is taken out of what a snapshot stores of a guest that lives on its file, also an owner's own of the same kind; whoever defines
the XML of the running guest defines it with its words.

Sources: libvirt's src/qemu/qemu_process.c (qemuProcessFetchGuestCPU, qemuProcessStartUpdateCustomCaps),
src/cpu/cpu_x86.c (virCPUx86UpdateLive); formatdomain.html, "QEMU capabilities override".
"""

from __future__ import annotations

from lxml import etree
from lxml.etree import _Element as Element

from stillframe.adapters.libvirt.domain_xml import parse_domain, parse_xml

_QEMU_URI = "http://libvirt.org/schemas/domain/qemu/1.0"
_CAPABILITIES, _DEL = f"{{{_QEMU_URI}}}capabilities", f"{{{_QEMU_URI}}}del"
_WITHDRAWN = "cpu-unavailable-features"
_UNLOOKED_AT = ("host-passthrough", "maximum")


def can_be_spared(runtime_xml: str, cookie_xml: str) -> bool:
    """A guest of this XML, saved with this cookie ("": none), gets the same CPU with or without them."""
    root = parse_domain(runtime_xml)
    machine = root.find("os/type")
    if machine is None or machine.get("arch") not in ("x86_64", "i686") or root.find(_CAPABILITIES) is not None:
        return False
    # libvirt looks for those in every mode, and QEMU has no such words of CPUID any more
    if root.find("features/hyperv") is not None:
        return False
    # the cookie has the CPU as it was really started; libvirt starts it so again
    cpu = parse_xml(cookie_xml).find("cpu") if cookie_xml else root.find("cpu")
    return cpu is not None and (cpu.get("check") == "full" or cpu.get("mode") in _UNLOOKED_AT)


def spare(xml: str) -> str:
    """The XML with which libvirt asks less."""
    root = parse_domain(xml)
    element = etree.SubElement(root, _CAPABILITIES, nsmap={"qemu": _QEMU_URI})
    etree.SubElement(element, _DEL, capability=_WITHDRAWN)
    return etree.tostring(root.getroottree(), encoding="unicode")


def forget(root: Element) -> None:
    """Take our word out of the XML of a guest that was started with it."""
    element = root.find(_CAPABILITIES)
    if element is not None and [(one.tag, one.get("capability")) for one in element] == [(_DEL, _WITHDRAWN)]:
        root.remove(element)
