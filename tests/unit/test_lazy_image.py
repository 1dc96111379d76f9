"""What a guest that lives on a file is started from: words for QEMU, and an image without its RAM."""

from __future__ import annotations

import json
from pathlib import Path
from tempfile import mkdtemp

import pytest
from lxml import etree

from stillframe.adapters.libvirt import lazy_image
from stillframe.adapters.libvirt.save_image import SAVE_IMAGE_OFFSET, settle_pages, write_header
from stillframe.adapters.libvirt.save_image_stream import RamBlock, read_blocks
from stillframe.domain.errors import ErrorCase, Failed
from support.streams import PAGE, Stream

UUID = "0b7a4f0e-6f1e-4a5e-8d39-3f9a5a1b2c3d"
MEMORY = f"/var/lib/still,frame/memory/{UUID}.mem"
RAM = RamBlock("pc.ram", 512 << 20, PAGE, 1 << 20, 2 << 20, 100)
PLAIN = "<domain type='kvm'><name>vm</name><memory unit='MiB'>512</memory><devices/></domain>"
OTHERS = (
    "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>vm</name><devices/>"
    "<qemu:commandline><qemu:arg value='-object'/><qemu:arg value='{&quot;qom-type&quot;: "
    "&quot;memory-backend-file&quot;, &quot;id&quot;: &quot;mine&quot;}'/></qemu:commandline></domain>"
)


def canonical(xml: str) -> str:
    return etree.canonicalize(xml)


@pytest.mark.parametrize("xml", [PLAIN, OTHERS], ids=["plain", "with words of its owner's"])
def test_words_come_and_go(xml: str) -> None:
    lazy = lazy_image.with_words(xml, MEMORY, RAM)
    assert lazy_image.lives_on(lazy) == UUID
    assert lazy_image.lives_on(xml) == ""
    assert canonical(lazy_image.without_words(lazy)) == canonical(lazy_image.without_words(xml)) == canonical(xml)
    words = [arg.get("value") for arg in etree.fromstring(lazy).iterfind(".//{*}arg")][-4:]
    assert json.loads(words[1]) == {
        "qom-type": "memory-backend-file", "id": "Pc.ram", "size": 512 << 20, "mem-path": MEMORY, "offset": 2 << 20,
        "share": False, "readonly": True, "rom": "off",
    }  # fmt: skip
    assert words[::2] == ["-object", "-machine"]
    assert words[3] == "memory-backend=Pc.ram"


def test_under_emulation_alone_writes_are_lost() -> None:
    lazy = lazy_image.with_words(PLAIN, MEMORY, RAM)
    assert not lazy_image.loses_writes(lazy)
    assert lazy_image.loses_writes(lazy.replace("'kvm'", "'qemu'").replace('"kvm"', '"qemu"'))
    assert not lazy_image.loses_writes(PLAIN.replace("kvm", "qemu"))


@pytest.mark.parametrize(
    "part",
    [
        "<memoryBacking><hugepages/></memoryBacking>",
        "<memoryBacking><source type='memfd'/><access mode='shared'/></memoryBacking>",
        "<maxMemory slots='2' unit='GiB'>4</maxMemory>",
        "<numatune/>",
        "<cpu><numa><cell id='0'/></numa></cpu>",
        "<launchSecurity type='sev'/>",
        "<seclabel type='static' model='dac'/>",
        "<devices><memory model='dimm'/></devices>",
        "<devices><hostdev mode='subsystem' type='pci'/></devices>",
        "<devices><filesystem type='mount'><driver type='virtiofs'/></filesystem></devices>",
        "<devices><interface type='vhostuser'/></devices>",
        "<devices><memballoon model='virtio' freePageReporting='on'/></devices>",
    ],
)
def test_who_needs_memory_of_another_kind_does_not_live_on_a_file(part: str) -> None:
    assert lazy_image.why_not(f"<domain type='kvm'>{part}</domain>") != ""


@pytest.mark.parametrize(
    "part",
    [
        "",
        "<seclabel type='dynamic' model='dac'><label>+0:+0</label></seclabel>",
        "<devices><interface type='network'/><memballoon model='virtio'/></devices>",
    ],
)
def test_every_other_guest_does(part: str) -> None:
    assert lazy_image.why_not(f"<domain type='kvm'>{part}</domain>") == ""
    assert lazy_image.why_not(f"<domain type='xen'>{part}</domain>") == "a domain of type xen"


def test_the_image_is_all_but_the_ram(tmp_path: Path) -> None:
    memory, image = tmp_path / "memory", tmp_path / "image"
    placed = Stream(blocks={"pc.ram": 700 * PAGE, "vga.vram": 3 * PAGE}).write(
        memory, {"pc.ram": {0: b"a", 9: b"b", 699: b"c"}, "vga.vram": {1: b"d"}}
    )
    settle_pages(str(memory))
    write_header(str(memory), PLAIN)
    before, ram = memory.read_bytes(), placed["pc.ram"]
    image.write_bytes(b"left by a crash")
    lazy_image.write_image(str(memory), str(image), ram)
    wanted = bytearray(before)
    wanted[ram.bitmap_offset : ram.bitmap_offset + ram.bitmap_bytes] = bytes(ram.bitmap_bytes)
    wanted[ram.pages_offset : ram.pages_offset + ram.used_bytes] = bytes(ram.used_bytes)
    wanted[ram.name_offset : ram.name_offset + 6] = b"Pc.ram"
    assert image.read_bytes() == wanted
    assert memory.read_bytes() == before
    assert image.stat().st_mode & 0o777 == 0o600
    assert image.stat().st_blocks * 512 < ram.used_bytes // 2
    with image.open("rb") as file:
        assert [block.name for block in read_blocks(file.fileno(), SAVE_IMAGE_OFFSET)] == ["Pc.ram", "vga.vram"]


def test_an_image_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "memory").write_bytes(b"x" * PAGE)
    with pytest.raises(Failed) as caught:
        lazy_image.write_image(str(tmp_path / "memory"), str(tmp_path / "no" / "image"), RAM)
    assert caught.value.case is ErrorCase.STORAGE_FAILED
    assert "image" in caught.value.desc


CAPABILITIES = "<capabilities><host>{}</host></capabilities>"
DAC = "<secmodel><model>dac</model><doi>0</doi><baselabel type='kvm'>{}</baselabel></secmodel>"


@pytest.mark.parametrize(
    ("models", "mode", "may"),
    [
        (DAC.format("+0:+0"), 0o400, True),
        ("<secmodel><model>none</model></secmodel>" + DAC.format("+0:+0"), 0o400, True),
        ("<secmodel><model>apparmor</model></secmodel>" + DAC.format("+0:+0"), 0o444, False),
        (DAC.format("+12345:+12345"), 0o400, False),
        (DAC.format("+12345:+12345"), 0o444, True),
    ],
)
def test_whether_qemu_may_open_the_file(models: str, mode: int, *, may: bool) -> None:
    directory = Path(mkdtemp())  # pytest's own lets nobody through
    directory.chmod(0o755)
    try:
        file = directory / "memory"
        file.touch(mode=mode)
        assert lazy_image.may_open(CAPABILITIES.format(models), str(file)) is may
        directory.chmod(0o700)
        assert lazy_image.may_open(CAPABILITIES.format(models), str(file)) is (may and "+0" in models)
    finally:
        (directory / "memory").unlink()
        directory.rmdir()
