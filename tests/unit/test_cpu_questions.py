"""When libvirt's questions about a CPU are spared, and that nothing of it stays in the XML."""

from __future__ import annotations

import pytest
from lxml import etree

from stillframe.adapters.libvirt import cpu_questions, lazy_image
from stillframe.adapters.libvirt.save_image import read_header, read_header_xml, write_header
from stillframe.adapters.libvirt.save_image_stream import RamBlock

RAM = RamBlock("pc.ram", 512 << 20, 4096, 1 << 20, 2 << 20, 100)
MEMORY = "/var/lib/stillframe/memory/0b7a4f0e-6f1e-4a5e-8d39-3f9a5a1b2c3d.mem"
CAPABILITIES = "<qemu:capabilities xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>{}</qemu:capabilities>"
FULL = "<cpu mode='custom' match='exact' check='full'><model>EPYC</model></cpu>"
PARTIAL = "<cpu mode='custom' match='exact' check='partial'><model>EPYC</model></cpu>"
HOST_MODEL = "<cpu mode='host-model' check='partial'/>"
PASSED_THROUGH = "<cpu mode='host-passthrough' check='none' migratable='on'/>"
MAXIMUM = "<cpu mode='maximum' check='none'/>"


def domain(cpu: str = "", rest: str = "", arch: str = "x86_64") -> str:
    return f"<domain type='kvm'><name>vm</name><os><type arch='{arch}'>hvm</type></os>{cpu}{rest}<devices/></domain>"


def cookie(cpu: str) -> str:
    return f"<cookie>{cpu}</cookie>"


@pytest.mark.parametrize(
    ("xml", "saved_with", "can"),
    [
        (domain(PARTIAL), cookie(FULL), True),
        (domain(HOST_MODEL), cookie(FULL), True),
        (domain(), cookie(FULL), True),
        (domain(FULL), "", True),
        (domain(PASSED_THROUGH), cookie(PASSED_THROUGH), True),
        (domain(MAXIMUM), cookie(MAXIMUM), True),
        (domain(PASSED_THROUGH), "", True),
        (domain(PARTIAL), "", False),
        (domain(HOST_MODEL), "", False),
        (domain(PARTIAL), cookie(PARTIAL), False),
        (domain(FULL), cookie(PARTIAL), False),
        (domain(), "", False),
        (domain(), "<cookie/>", False),
        (domain(FULL, arch="aarch64"), "", False),
        (domain(FULL, "<features><acpi/><hyperv mode='custom'><vpindex state='on'/></hyperv></features>"), "", False),
        (domain(FULL, "<features><acpi/></features>"), "", True),
        (domain(FULL, CAPABILITIES.format("")), "", False),
        ("<domain type='kvm'><name>vm</name></domain>", cookie(FULL), False),
    ],
)
def test_they_are_spared_where_libvirt_makes_sure_of_the_cpu(xml: str, saved_with: str, *, can: bool) -> None:
    assert cpu_questions.can_be_spared(xml, saved_with) is can


def test_the_word_comes_and_goes() -> None:
    plain = domain(FULL)
    lazy = lazy_image.with_words(plain, MEMORY, RAM)
    spared = cpu_questions.spare(lazy)
    assert [one.get("capability") for one in etree.fromstring(spared).iterfind("{*}capabilities/{*}del")] == [
        "cpu-unavailable-features"
    ]
    assert lazy_image.lives_on(spared) == lazy_image.lives_on(lazy) != ""
    assert etree.canonicalize(lazy_image.without_words(spared)) == etree.canonicalize(plain)


@pytest.mark.parametrize(
    "words",
    [
        "<qemu:add capability='blockdev'/>",
        "<qemu:del capability='cpu-unavailable-features'/><qemu:del capability='x'/>",
    ],
)
def test_words_of_its_owner_s_stay(words: str) -> None:
    plain = domain(FULL, CAPABILITIES.format(words))
    lazy = lazy_image.with_words(plain, MEMORY, RAM)
    assert etree.canonicalize(lazy_image.without_words(lazy)) == etree.canonicalize(plain)


@pytest.mark.parametrize("saved_with", ["", cookie(FULL)])
def test_the_cookie_is_read_as_it_was_written(tmp_path_factory: pytest.TempPathFactory, saved_with: str) -> None:
    path = tmp_path_factory.mktemp("memory") / "image"
    path.write_bytes(bytes(2 << 20))
    write_header(str(path), domain(FULL), saved_with)
    assert read_header(str(path)) == (domain(FULL), saved_with)
    assert read_header_xml(str(path)) == domain(FULL)
