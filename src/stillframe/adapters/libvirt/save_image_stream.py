"""Where the RAM blocks lie in a mapped-ram migration stream of QEMU.

The stream up to the blocks, all numbers big-endian (QEMU: docs/devel/migration/main.rst "Stream structure",
docs/devel/migration/mapped-ram.rst, migration/savevm.c, ram_save_setup() in migration/ram.c):

    u32 magic "QEVM", u32 version 3
    u8 0x07 configuration: u32 length, machine type; then subsections u8 0x05, u8 length, name, u32 version, content
    u8 0x01 section start: u32 section, u8 length, "ram", u32 instance, u32 version
    u64 total of used lengths | 0x04
    per block: u8 length, name, u64 used length, {u32 version 1, u64 page size, u64 bitmap offset, u64 pages offset}

Both offsets count from the start of the file; the next block's entry stands right behind the pages of the one before.
Whatever deviates is refused: a guess here would be somebody's memory.
"""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass

from stillframe.domain.errors import ErrorCase, Failed

_MAGIC = 0x5145564D  # "QEVM"
_VERSION = 3
_SECTION_START = 0x01
_SUBSECTION = 0x05
_CONFIGURATION = 0x07
_RAM_VERSION = 4
_FLAG_MEM_SIZE = 0x04
_FLAGS_MASK = 0xFFF  # the total is a multiple of the page size; QEMU keeps flags in the bits below
_MAPPED_RAM_VERSION = 1
_MAX_NAME_BYTES = 255
_MAX_CAPABILITIES = 1024
_PAGE_BYTES_MIN, _PAGE_BYTES_MAX = 1 << 10, 1 << 16
_UUID_BYTES = 16


@dataclass(frozen=True)
class RamBlock:
    """One block of guest memory and its places in the file (offsets from the file's start)."""

    name: str
    used_bytes: int
    page_bytes: int
    bitmap_offset: int
    pages_offset: int
    name_offset: int = 0

    @property
    def bitmap_bytes(self) -> int:
        """A bit a page, in whole 64-bit words."""
        return -(-(self.used_bytes // self.page_bytes) // 64) * 8


def malformed(why: str) -> Failed:
    """The refusal of a file that is not what it should be."""
    return Failed(ErrorCase.HYPERVISOR_FAILED, f"not a mapped-ram stream: {why}")


class _Cursor:
    """Reads forward; running out of file is a refusal, never a short answer."""

    def __init__(self, fd: int, position: int) -> None:
        self._fd = fd
        self.position = position
        self.file_bytes = os.fstat(fd).st_size

    def take(self, size: int) -> bytes:
        data = os.pread(self._fd, size, self.position)
        if len(data) != size:
            raise malformed(f"cut short at {self.position}")
        self.position += size
        return data

    def u8(self) -> int:
        return self.take(1)[0]

    def u32(self) -> int:
        return int.from_bytes(self.take(4), "big")

    def u64(self) -> int:
        return int.from_bytes(self.take(8), "big")

    def name(self, size: int) -> str:
        if not 0 < size <= _MAX_NAME_BYTES:
            raise malformed(f"a name of {size} bytes at {self.position}")
        raw = self.take(size)
        if not all(0x20 <= byte < 0x7F for byte in raw):  # noqa: PLR2004 -- printable ASCII
            raise malformed(f"an unreadable name at {self.position - size}")
        return raw.decode("ascii")


def read_blocks(fd: int, offset: int) -> tuple[RamBlock, ...]:
    """The RAM blocks of the stream that begins at ``offset``, in its order; nothing is written.

    Raises:
        Failed: HYPERVISOR_FAILED "not a mapped-ram stream": what was unexpected, and where.
        OSError: the file could not be read.
    """
    cursor = _Cursor(fd, offset)
    if (magic := cursor.u32()) != _MAGIC:
        raise malformed(f"magic {magic:#x}")
    if (version := cursor.u32()) != _VERSION:
        raise malformed(f"stream version {version}")
    section = _skip_configuration(cursor)
    if section != _SECTION_START:
        raise malformed(f"section type {section:#x} where memory should begin")
    cursor.u32()  # section id
    if (name := cursor.name(cursor.u8())) != "ram":
        raise malformed(f'section "{name}" where "ram" should be')
    cursor.u32()  # instance id
    if (version := cursor.u32()) != _RAM_VERSION:
        raise malformed(f"ram section version {version}")
    return _read_all_blocks(cursor)


def _skip_configuration(cursor: _Cursor) -> int:
    """Reads the configuration section and answers the type byte behind it."""
    if (section := cursor.u8()) != _CONFIGURATION:
        raise malformed(f"section type {section:#x} where the configuration should be")
    cursor.name(cursor.u32())
    capabilities: list[str] = []
    while (section := cursor.u8()) == _SUBSECTION:
        name, version = cursor.name(cursor.u8()), cursor.u32()
        if version != 1:
            raise malformed(f"subsection {name} of version {version}")
        if name == "configuration/capabilities":
            capabilities = _read_capabilities(cursor)
        elif name == "configuration/target-page-bits":
            cursor.u32()
        elif name == "configuration/uuid":
            cursor.take(_UUID_BYTES)
        else:
            raise malformed(f'unknown subsection "{name}"')
    if "mapped-ram" not in capabilities:
        raise malformed("it was written without the capability mapped-ram")
    if "x-ignore-shared" in capabilities:  # changes the blocks' layout and leaves memory out
        raise malformed("it was written with the capability x-ignore-shared")
    return section


def _read_capabilities(cursor: _Cursor) -> list[str]:
    count = cursor.u32()
    if count > _MAX_CAPABILITIES:
        raise malformed(f"{count} capabilities")
    return [cursor.name(cursor.u8()) for _ in range(count)]


def _read_all_blocks(cursor: _Cursor) -> tuple[RamBlock, ...]:
    total = cursor.u64()
    if total & _FLAGS_MASK != _FLAG_MEM_SIZE:
        raise malformed(f"memory size {total:#x}")
    remaining = total & ~_FLAGS_MASK
    if not 0 < remaining <= cursor.file_bytes:
        raise malformed(f"{remaining} bytes of memory in a file of {cursor.file_bytes}")
    blocks: list[RamBlock] = []
    while remaining:
        block = _read_block(cursor)
        if not 0 < block.used_bytes <= remaining:
            raise malformed(f"block {block.name} has {block.used_bytes} bytes of {remaining} that are left")
        remaining -= block.used_bytes
        cursor.position = block.pages_offset + block.used_bytes
        blocks.append(block)
    cursor.u64()  # the stream goes on; a file that ends here has lost its devices
    return tuple(blocks)


def _read_block(cursor: _Cursor) -> RamBlock:
    name_offset = cursor.position + 1  # behind its length
    name, used_bytes = cursor.name(cursor.u8()), cursor.u64()
    version, page_bytes, bitmap_offset, pages_offset = struct.unpack(">IQQQ", cursor.take(28))
    if version != _MAPPED_RAM_VERSION:
        raise malformed(f"block {name} of mapped-ram version {version}")
    block = RamBlock(name, used_bytes, page_bytes, bitmap_offset, pages_offset, name_offset)
    if page_bytes & (page_bytes - 1) or not _PAGE_BYTES_MIN <= page_bytes <= _PAGE_BYTES_MAX:
        raise malformed(f"block {name} has a page size of {page_bytes}")
    if used_bytes % page_bytes:
        raise malformed(f"block {name} has {used_bytes} bytes, not a multiple of its page size")
    in_order = cursor.position <= bitmap_offset <= bitmap_offset + block.bitmap_bytes <= pages_offset
    if not in_order or pages_offset + used_bytes > cursor.file_bytes:
        raise malformed(f"block {name}: bitmap at {bitmap_offset}, pages at {pages_offset} do not fit")
    return block
