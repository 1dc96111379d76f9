"""Save images on handmade streams, whole and broken. The real QEMU is asked in integration/test_save_image.py."""

from __future__ import annotations

import os
import struct
from pathlib import Path

import pytest

from stillframe.adapters.libvirt import save_image
from stillframe.adapters.libvirt.save_image import (
    SAVE_IMAGE_OFFSET,
    find_ram,
    is_save_image,
    read_header_xml,
    settle_pages,
    write_header,
)
from stillframe.adapters.libvirt.save_image_stream import RamBlock, read_blocks
from stillframe.domain.errors import ErrorCase, Failed
from support.streams import MIB, PAGE, Stream, capabilities, name_of, subsection

ROOM = SAVE_IMAGE_OFFSET - 92


def _bits(path: Path, block: RamBlock) -> list[int]:
    raw = path.read_bytes()[block.bitmap_offset :][: block.bitmap_bytes]
    return [8 * index + bit for index, byte in enumerate(raw) for bit in range(8) if byte >> bit & 1]


def _refused(path: Path, why: str) -> None:
    before = path.read_bytes()
    with pytest.raises(Failed, match=why) as caught:
        settle_pages(str(path))
    assert caught.value.case is ErrorCase.HYPERVISOR_FAILED
    assert caught.value.desc.startswith("not a mapped-ram stream: ")
    assert path.read_bytes() == before


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "memory"


def test_blocks_are_found(path: Path) -> None:
    placed = Stream().write(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert read_blocks(fd, SAVE_IMAGE_OFFSET) == tuple(placed.values())
    finally:
        os.close(fd)
    assert placed["pc.ram"].bitmap_bytes == 16  # 100 pages in two 64-bit words


def test_pages_with_data_are_marked_and_no_others(path: Path) -> None:
    pages = [0, 1, 2, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 63, 64, 99]
    placed = Stream().write(path, {"pc.ram": dict.fromkeys(pages, b"x")})
    settle_pages(str(path))
    assert _bits(path, placed["pc.ram"]) == pages
    assert _bits(path, placed["vga.vram"]) == []


def test_repair_changes_bitmaps_and_its_mark_and_nothing_else(path: Path) -> None:
    placed = Stream().write(path, {"pc.ram": {3: b"x"}, "vga.vram": {0: b"y"}})
    before = bytearray(path.read_bytes())
    settle_pages(str(path))
    after = bytearray(path.read_bytes())
    for block in placed.values():
        span = slice(block.bitmap_offset, block.bitmap_offset + block.bitmap_bytes)
        before[span] = after[span] = b"\0" * block.bitmap_bytes
    before[36:92] = after[36:92] = bytes(56)
    assert before == after


def test_repeating_is_safe_also_after_a_half_done_repair(path: Path) -> None:
    placed = Stream().write(path, {"pc.ram": {3: b"x"}, "vga.vram": {0: b"y"}})
    settle_pages(str(path))
    write_header(str(path), "<domain/>")
    whole = path.read_bytes()
    settle_pages(str(path))
    assert path.read_bytes() == whole
    with path.open("r+b") as file:  # as if the second block had not been reached
        file.seek(placed["vga.vram"].bitmap_offset)
        file.write(b"\0" * placed["vga.vram"].bitmap_bytes)
    settle_pages(str(path))
    assert path.read_bytes() == whole


def test_bitmaps_that_qemu_wrote_stay_and_what_they_do_not_name_goes(path: Path) -> None:
    """A page that became zero during an ordinary migration keeps its old content in the file: for whoever maps it, it is zero."""
    placed = Stream().write(path, {"pc.ram": {3: b"x", 4: b"stale", 99: b"stale"}, "vga.vram": {0: b"stale"}})
    bits = placed["pc.ram"].bitmap_offset
    with path.open("r+b") as file:
        file.seek(bits)
        file.write(bytes([1 << 3]))
    assert find_ram(str(path), 100 * PAGE) is None, "not yet"
    for _ in range(2):
        settle_pages(str(path))
        raw = path.read_bytes()
        assert _bits(path, placed["pc.ram"]) == [3]
        assert _bits(path, placed["vga.vram"]) == []
        for block, pages in ((placed["pc.ram"], {3: b"x"}), (placed["vga.vram"], {})):
            wanted = b"".join(pages.get(n, b"").ljust(PAGE, b"\0") for n in range(block.used_bytes // PAGE))
            assert raw[block.pages_offset :][: block.used_bytes] == wanted
        assert find_ram(str(path), 100 * PAGE) == placed["pc.ram"]


def test_a_block_gets_its_own_name_back(path: Path) -> None:
    """Of a guest that lived on a file, whose RAM has another name in QEMU."""
    Stream(blocks={"Pc.ram": 100 * PAGE, "vga.vram": PAGE}).write(path, {"Pc.ram": {3: b"x"}})
    assert find_ram(str(path), 100 * PAGE) is None
    settle_pages(str(path))
    ram = find_ram(str(path), 100 * PAGE)
    assert ram is not None
    assert ram.name == "pc.ram"
    assert _bits(path, ram) == [3]


@pytest.mark.parametrize(
    ("blocks", "memory_pages"),
    [
        ({"pc.ram": 100 * PAGE}, 99),
        ({"pc.ram": PAGE, "vga.vram": PAGE}, 1),  # which of them?
        ({"ram-node0": 100 * PAGE}, 100),
    ],
)
def test_ram_that_is_not_to_be_told_is_not_found(path: Path, blocks: dict[str, int], memory_pages: int) -> None:
    Stream(blocks=blocks).write(path)
    settle_pages(str(path))
    assert find_ram(str(path), memory_pages * PAGE) is None


def test_a_file_system_without_holes_marks_every_page(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = Stream().write(path)
    size = path.stat().st_size
    monkeypatch.setattr(
        save_image.os, "lseek", lambda _fd, position, whence: position if whence == os.SEEK_DATA else size
    )
    settle_pages(str(path))
    assert _bits(path, placed["pc.ram"]) == list(range(100))
    assert _bits(path, placed["vga.vram"]) == [0]


def test_short_writes_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = Stream(blocks={"pc.ram": 1000 * PAGE}).write(path, {"pc.ram": {3: b"x", 999: b"z"}})
    pwrite = os.pwrite
    monkeypatch.setattr(save_image.os, "pwrite", lambda fd, data, at: pwrite(fd, bytes(data[:50]), at))
    settle_pages(str(path))
    assert _bits(path, placed["pc.ram"]) == [3, 999]


def test_short_reads_are_continued(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    placed = Stream(blocks={"pc.ram": 1000 * PAGE}).write(path, {"pc.ram": {3: b"stale"}})
    with path.open("r+b") as file:  # QEMU's own bitmap, whose only bit lies behind the first short read
        file.seek(placed["pc.ram"].bitmap_offset + 124)
        file.write(bytes([1 << 7]))
    pread = os.pread
    monkeypatch.setattr(save_image.os, "pread", lambda fd, size, at: pread(fd, min(size, 50), at))
    settle_pages(str(path))
    assert _bits(path, placed["pc.ram"]) == [999]


@pytest.mark.parametrize(("first", "behind"), [(0, 0), (3, 3), (2, 5), (0, 8), (7, 9), (5, 40), (8, 16), (15, 17)])
def test_bit_runs(first: int, behind: int) -> None:
    bits = bytearray(8)
    save_image._set_bits(bits, first, behind)
    assert int.from_bytes(bits, "little") == sum(1 << bit for bit in range(first, behind))


def test_other_known_subsections_are_skipped(path: Path) -> None:
    bits, uuid = subsection("configuration/target-page-bits", b"\0\0\0\x0c"), bytes(range(16))
    stream = Stream(subsections=bits + capabilities("multifd", "mapped-ram") + subsection("configuration/uuid", uuid))
    placed = stream.write(path, {"pc.ram": {5: b"x"}})
    settle_pages(str(path))
    assert _bits(path, placed["pc.ram"]) == [5]


@pytest.mark.parametrize(
    ("stream", "why"),
    [
        (Stream(magic=b"QEVm"), "magic 0x5145566d"),
        (Stream(version=2), "stream version 2"),
        (Stream(machine=b""), "a name of 0 bytes"),
        (Stream(machine=b"x" * 300), "a name of 300 bytes"),
        (Stream(machine=b"pc\xff"), "an unreadable name"),
        (Stream(subsections=b""), "without the capability mapped-ram"),
        (Stream(subsections=capabilities("multifd")), "without the capability mapped-ram"),
        (Stream(subsections=capabilities("mapped-ram", "x-ignore-shared")), "x-ignore-shared"),
        (Stream(subsections=capabilities() + subsection("configuration/new", b"")), "unknown subsection"),
        (
            Stream(subsections=subsection("configuration/capabilities", b"\xff\xff\xff\xff")),
            "4294967295 capabilities",
        ),
        (Stream(subsections=capabilities("mapped-ram").replace(b"\0\0\0\x01", b"\0\0\0\x02", 1)), "of version 2"),
        (Stream(section=b"\x04"), "section type 0x4"),
        (Stream(section=b"\x01" + bytes(4) + name_of("block") + bytes(8)), 'section "block"'),
        (Stream(section=b"\x01" + bytes(4) + name_of("ram") + struct.pack(">II", 0, 5)), "ram section version 5"),
        (Stream(flags=0), "memory size"),
        (Stream(flags=4 | 0x80), "memory size"),
        (Stream(total=0), "0 bytes of memory"),
        (Stream(total=1 << 60), "1152921504606846976 bytes of memory"),
        (Stream(total=99 * PAGE), "block pc.ram has 409600 bytes of 405504"),
        (Stream(total=102 * PAGE), "a name of 0 bytes"),
        (Stream(blocks={"pc.ram": PAGE, "none": 0, "b": PAGE}), "block none has 0 bytes"),
        (Stream(blocks={"pc.ram": PAGE + 1}, total=2 * PAGE), "not a multiple of its page size"),
        (Stream(page_bytes=0), "page size of 0"),
        (Stream(page_bytes=4095), "page size of 4095"),
        (Stream(page_bytes=1 << 62), "page size of"),
        (Stream(mapped_version=2), "mapped-ram version 2"),
        (Stream(bitmap_shift=-100), "do not fit"),
        (Stream(bitmap_shift=MIB, pages_shift=-MIB), "do not fit"),
        (Stream(pages_shift=-MIB), "do not fit"),
        (Stream(trailer=b""), "cut short"),
    ],
)
def test_whatever_is_unexpected_is_refused_and_nothing_is_written(path: Path, stream: Stream, why: str) -> None:
    stream.write(path)
    _refused(path, why)


def test_offsets_beyond_the_file_are_refused(path: Path) -> None:
    placed = Stream().write(path)
    at = placed["pc.ram"].bitmap_offset - 16  # the two offsets in the block's header
    for offset in range(2):
        Stream().write(path)
        with path.open("r+b") as file:
            file.seek(at + 8 * offset)
            file.write(b"\xff" * 8)
        _refused(path, "do not fit")


def test_a_file_cut_anywhere_is_refused(path: Path) -> None:
    Stream(trailer=b"12345678").write(path)
    whole = path.stat().st_size
    for size in (0, 10, MIB, MIB + 3, MIB + 9, MIB + 60, MIB + 120, 2 * MIB, 2 * MIB + PAGE, whole - 9, whole - 1):
        os.truncate(path, size)
        _refused(path, "cut short|do not fit|bytes of memory")
        Stream(trailer=b"12345678").write(path)


def test_a_missing_file_is_a_failure_of_the_storage(path: Path) -> None:
    for act in (settle_pages, is_save_image, read_header_xml, lambda name: write_header(name, "<domain/>")):
        with pytest.raises(Failed, match="No such file") as caught:
            act(str(path))
        assert caught.value.case is ErrorCase.STORAGE_FAILED
        assert str(path) not in caught.value.desc


def test_a_device_that_fails_is_a_failure_of_the_storage(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Stream().write(path)

    def broken(_fd: int, _position: int, _whence: int) -> int:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(save_image.os, "lseek", broken)
    with pytest.raises(Failed, match="Input/output error") as caught:
        settle_pages(str(path))
    assert caught.value.case is ErrorCase.STORAGE_FAILED


def test_header_is_libvirts(path: Path) -> None:
    Stream().write(path)
    stream = path.read_bytes()[SAVE_IMAGE_OFFSET:]
    write_header(str(path), "<domain><name>名</name></domain>")
    raw = path.read_bytes()
    assert raw[:36] == b"LibvirtQemudSave" + struct.pack("<5I", 2, ROOM, 1, 6, 0)
    assert raw[36:92] == bytes(56)
    assert raw[92:SAVE_IMAGE_OFFSET].rstrip(b"\0").decode() == "<domain><name>名</name></domain>"
    assert raw[SAVE_IMAGE_OFFSET:] == stream


def test_header_can_be_replaced_by_a_shorter_one_and_read_back(path: Path) -> None:
    Stream().write(path)
    assert not is_save_image(str(path))
    write_header(str(path), "<domain>long</domain>", "<cookie/>")
    raw = path.read_bytes()
    assert struct.unpack_from("<I", raw, 32) == (22,)
    assert raw[92 + 22 :].startswith(b"<cookie/>\0\0")
    assert read_header_xml(str(path)) == "<domain>long</domain>"
    write_header(str(path), "<domain/>")
    assert read_header_xml(str(path)) == "<domain/>"
    assert b"cookie" not in path.read_bytes()
    assert is_save_image(str(path))


def test_header_has_room_for_a_megabyte_and_not_more(path: Path) -> None:
    Stream().write(path)
    write_header(str(path), "x" * (ROOM - 2))
    assert len(read_header_xml(str(path))) == ROOM - 2
    before = path.read_bytes()
    for xml, cookie in (("x" * (ROOM - 1), ""), ("名" * (ROOM // 2), ""), ("x" * (ROOM - 10), "y" * 10)):
        with pytest.raises(Failed, match="has room for") as caught:
            write_header(str(path), xml, cookie)
        assert caught.value.case is ErrorCase.HYPERVISOR_FAILED
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("at", "content", "why"),
    [
        (0, b"LibvirtQemudPart", "no magic"),
        (16, struct.pack("<I", 3), "version 3"),
        (20, struct.pack("<I", 100), "100 bytes of data"),
        (28, struct.pack("<I", 0), "format 0"),
        (32, struct.pack("<I", MIB), "cookie at"),
        (32, struct.pack("<I", 3), "no end"),
        (92, b"\xff\xfe", "not UTF-8"),
    ],
)
def test_a_damaged_header_is_refused(path: Path, at: int, content: bytes, why: str) -> None:
    Stream().write(path)
    write_header(str(path), "<domain/>")
    with path.open("r+b") as file:
        file.seek(at)
        file.write(content)
    with pytest.raises(Failed, match=why) as caught:
        read_header_xml(str(path))
    assert caught.value.case is ErrorCase.HYPERVISOR_FAILED


def test_a_file_that_ends_within_the_header_is_refused(path: Path) -> None:
    path.write_bytes(b"LibvirtQemudSave")
    with pytest.raises(Failed, match="cut short"):
        read_header_xml(str(path))
