"""Handmade mapped-ram streams."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from pathlib import Path

from stillframe.adapters.libvirt.save_image import SAVE_IMAGE_OFFSET
from stillframe.adapters.libvirt.save_image_stream import RamBlock

PAGE = 4096
MIB = 1 << 20


def name_of(text: str) -> bytes:
    return bytes([len(text)]) + text.encode()


def subsection(name: str, content: bytes) -> bytes:
    return b"\x05" + name_of(name) + struct.pack(">I", 1) + content


def capabilities(*names: str) -> bytes:
    content = struct.pack(">I", len(names)) + b"".join(name_of(name) for name in names)
    return subsection("configuration/capabilities", content)


@dataclass
class Stream:
    """A mapped-ram stream; each field can be bent for a test."""

    magic: bytes = b"QEVM"
    version: int = 3
    machine: bytes = b"pc-q35-10.0"
    subsections: bytes = capabilities("mapped-ram")
    section: bytes = b"\x01" + struct.pack(">I", 2) + name_of("ram") + struct.pack(">II", 0, 4)
    total: int | None = None
    flags: int = 4
    blocks: dict[str, int] = field(default_factory=lambda: {"pc.ram": 100 * PAGE, "vga.vram": PAGE})
    page_bytes: int = PAGE
    mapped_version: int = 1
    bitmap_shift: int = 0
    pages_shift: int = 0
    trailer: bytes = b"\0" * 64

    def write(self, path: Path, data: dict[str, dict[int, bytes]] | None = None) -> dict[str, RamBlock]:
        """Writes the file, with page -> content of each block; answers where the blocks are."""
        total = sum(self.blocks.values()) if self.total is None else self.total
        head = self.magic + struct.pack(">I", self.version)
        head += b"\x07" + struct.pack(">I", len(self.machine)) + self.machine + self.subsections + self.section
        head += struct.pack(">Q", total | self.flags)
        placed: dict[str, RamBlock] = {}
        with path.open("wb") as file:
            file.seek(SAVE_IMAGE_OFFSET)
            file.write(head)
            for name, used in self.blocks.items():
                entry, at = name_of(name) + struct.pack(">Q", used), file.tell()
                bitmap = file.tell() + len(entry) + 28 + self.bitmap_shift
                words = -(-(used // PAGE) // 64)
                pages = -(-(bitmap + words * 8) // MIB) * MIB + self.pages_shift
                file.write(entry + struct.pack(">IQQQ", self.mapped_version, self.page_bytes, bitmap, pages))
                placed[name] = RamBlock(name, used, PAGE, bitmap, pages, at + 1)
                for page, content in (data or {}).get(name, {}).items():
                    file.seek(pages + page * PAGE)
                    file.write(content.ljust(PAGE, b"\0"))
                file.seek(pages + used)
            file.write(self.trailer)
            file.truncate()
        return placed
