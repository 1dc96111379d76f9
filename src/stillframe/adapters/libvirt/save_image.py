"""A memory file that libvirt can restore: QEMU's mapped-ram stream behind libvirt's save-image header.

    0        "LibvirtQemudSave", five little-endian u32, 56 unused bytes         libvirt, qemu_saveimage.h
    92       domain XML, NUL, then (optional) the cookie, NUL, zeroes
    1 MiB    QEMU's migration stream with fixed places for pages                 docs/devel/migration/mapped-ram.rst

A background snapshot leaves the page bitmaps of that stream empty (QEMU writes them at the end of an ordinary
migration only), and a restore then finds no memory. ``settle_pages`` fills them from the file's own holes. The other way
round, an ordinary migration leaves old versions of pages in the file that have become zero since, and only its bitmap says
so: those are cleared, so that the file is the memory, byte for byte, for whoever maps it (lazy_image.py).
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager

from stillframe.adapters.libvirt.save_image_stream import RamBlock, malformed, read_blocks
from stillframe.domain.errors import ErrorCase, Failed

SAVE_IMAGE_OFFSET = 1 << 20
"""Where QEMU's stream begins: the offset to give to ``migrate``."""

_MAGIC = b"LibvirtQemudSave"
_HEADER = struct.Struct("<16s5I")  # magic, version, data_len, was_running, format, cookieOffset
_HEADER_BYTES = 92
_VERSION = 2
_FORMAT_SPARSE = 6
_DATA_BYTES = SAVE_IMAGE_OFFSET - _HEADER_BYTES
# In the header's unused bytes, which libvirt neither reads nor changes: "these bitmaps are ours to fill".
_MARK = b"stillframe-bg-1\0"
_MARK_SETTLED = b"stillframe-lv-1\0"  # QEMU's own bitmaps, and nothing in the file that they do not name
_MARK_OFFSET = _HEADER.size


@contextmanager
def _opened(path: str, flags: int) -> Iterator[int]:
    """A descriptor; the storage's own refusals become STORAGE_FAILED."""
    try:
        fd = os.open(path, flags | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            os.close(fd)
    except OSError as error:
        raise Failed(ErrorCase.STORAGE_FAILED, f"memory file: {error.strerror}") from error


def settle_pages(path: str) -> None:
    """Every page that the file holds is marked present, so that QEMU loads it; every other one reads as zeroes.

    Bitmaps that QEMU wrote itself (ordinary migration) stay as they are, and what they do not name is cleared. Which of the
    two it is gets decided once and is noted in the file, durably, before the first bit changes; so repeating is safe, also
    after a crash in between. A file system that reports no holes gets every bit set, which is right: zero pages are read
    as zeroes. Blocks have the names that QEMU gives them by itself afterwards, whatever they had in the guest.

    Raises:
        Failed: HYPERVISOR_FAILED: not a mapped-ram stream, nothing was written; STORAGE_FAILED: repeat.
    """
    with _opened(path, os.O_RDWR) as fd:
        blocks = read_blocks(fd, SAVE_IMAGE_OFFSET)
        for block in blocks:
            if is_alias(block.name):
                _write_all(fd, original_of(block.name).encode(), block.name_offset)
        mark = os.pread(fd, len(_MARK), _MARK_OFFSET)
        if mark == _MARK_SETTLED:
            return
        if mark != _MARK:
            if any(_has_bits(fd, block) for block in blocks):
                for block in blocks:
                    _clear_unnamed_pages(fd, block)
                os.fdatasync(fd)
                _write_all(fd, _MARK_SETTLED, _MARK_OFFSET)
                return
            _write_all(fd, _MARK, _MARK_OFFSET)
            os.fdatasync(fd)
        for block in blocks:
            _write_all(fd, _present_pages(fd, block), block.bitmap_offset)


def alias_of(name: str) -> str:
    """Another name of a RAM block, as long: of one that QEMU reads from a file, beside the empty one of libvirt's."""
    return name[:1].upper() + name[1:]


def original_of(alias: str) -> str:
    return alias[:1].lower() + alias[1:]


def is_alias(name: str) -> bool:
    return name.endswith(".ram") and name[:1].isupper()


def find_ram(path: str, memory_bytes: int) -> RamBlock | None:
    """The block with all of the guest's memory in a finished file that is that memory byte for byte; None: there is none.

    Raises:
        Failed: STORAGE_FAILED; HYPERVISOR_FAILED: not a mapped-ram stream.
    """
    with _opened(path, os.O_RDONLY) as fd:
        if os.pread(fd, len(_MARK), _MARK_OFFSET) not in (_MARK, _MARK_SETTLED):
            return None  # of a version that did not clear pages
        found = [block for block in read_blocks(fd, SAVE_IMAGE_OFFSET) if block.used_bytes == memory_bytes]
    if len(found) != 1 or not found[0].name.endswith(".ram") or is_alias(found[0].name):
        return None
    return found[0]


def write_header(path: str, domain_xml: str, cookie_xml: str = "") -> None:
    """The file begins with libvirt's save-image header and is restored from by ``virDomainRestore``, running.

    Without a cookie libvirt takes the XML's <cpu> as it stands (qemuSaveImageReadHeader: cookieOffset 0 means that
    the XML has all the room). Safe to repeat, also with another XML; the magic comes last.

    Raises:
        Failed: HYPERVISOR_FAILED: the XML does not fit in front of the stream; STORAGE_FAILED.
    """
    xml = domain_xml.encode() + b"\0"
    cookie = cookie_xml.encode() + b"\0" if cookie_xml else b""
    # one more byte than libvirt asks for, so that the text always ends in a NUL
    if len(xml) + len(cookie) >= _DATA_BYTES:
        raise Failed(
            ErrorCase.HYPERVISOR_FAILED,
            f"the domain XML has {len(xml)} bytes; a save image has room for {_DATA_BYTES}",
        )
    header = _HEADER.pack(_MAGIC, _VERSION, _DATA_BYTES, 1, _FORMAT_SPARSE, len(xml) if cookie else 0)
    with _opened(path, os.O_WRONLY) as fd:
        _write_all(fd, (xml + cookie).ljust(_DATA_BYTES, b"\0"), _HEADER_BYTES)
        _write_all(fd, header, 0)


def is_save_image(path: str) -> bool:
    """The file begins with a finished save-image header, whoever wrote it.

    Raises:
        Failed: STORAGE_FAILED: it could not be looked at.
    """
    with _opened(path, os.O_RDONLY) as fd:
        return os.pread(fd, len(_MAGIC), 0) == _MAGIC


def read_header_xml(path: str) -> str:
    """The domain XML in a header as ``write_header`` writes it; raises as ``read_header`` does."""
    return read_header(path)[0]


def read_header(path: str) -> tuple[str, str]:
    """The domain XML and the cookie ("": none) in a header as ``write_header`` writes it.

    Raises:
        Failed: HYPERVISOR_FAILED: no such header; STORAGE_FAILED: it could not be read.
    """
    with _opened(path, os.O_RDONLY) as fd:
        raw = os.pread(fd, SAVE_IMAGE_OFFSET, 0)
    if len(raw) < SAVE_IMAGE_OFFSET or not raw.startswith(_MAGIC):
        raise _not_a_header("no magic, or cut short")
    _, version, data_bytes, _, image_format, cookie_offset = _HEADER.unpack_from(raw)
    if version != _VERSION or image_format != _FORMAT_SPARSE or data_bytes != _DATA_BYTES:
        raise _not_a_header(f"version {version}, format {image_format}, {data_bytes} bytes of data")
    if cookie_offset > data_bytes:
        raise _not_a_header(f"cookie at {cookie_offset}")
    text, end, _ = raw[_HEADER_BYTES : _HEADER_BYTES + (cookie_offset or data_bytes)].partition(b"\0")
    if not end:
        raise _not_a_header("the XML has no end")
    cookie = raw[_HEADER_BYTES + cookie_offset :].partition(b"\0")[0] if cookie_offset else b""
    try:
        return text.decode(), cookie.decode()
    except UnicodeDecodeError:
        raise _not_a_header("the XML is not UTF-8") from None


def _not_a_header(why: str) -> Failed:
    return Failed(ErrorCase.HYPERVISOR_FAILED, f"not a save image of Stillframe: {why}")


def _has_bits(fd: int, block: RamBlock) -> bool:
    return any(_read_all(fd, block.bitmap_bytes, block.bitmap_offset))


def _clear_unnamed_pages(fd: int, block: RamBlock) -> None:
    """Whatever the file holds of pages that the bitmap does not name becomes zeroes."""
    named = _read_all(fd, block.bitmap_bytes, block.bitmap_offset)
    zeroes = bytes(block.page_bytes)
    for number, (held, wanted) in enumerate(zip(_present_pages(fd, block), named, strict=True)):
        if stale := held & ~wanted:
            for bit in range(8):
                at = block.pages_offset + (number * 8 + bit) * block.page_bytes
                # a page that reads as zeroes already may be a hole, where the file system does not tell
                if stale >> bit & 1 and _read_all(fd, block.page_bytes, at) != zeroes:
                    _write_all(fd, zeroes, at)


def _present_pages(fd: int, block: RamBlock) -> bytes:
    """The block's bitmap: a bit for every page of which the file holds a byte; little-endian 64-bit words."""
    bits = bytearray(block.bitmap_bytes)
    for start, end in _data_extents(fd, block.pages_offset, block.pages_offset + block.used_bytes):
        first = (start - block.pages_offset) // block.page_bytes
        behind = -(-(end - block.pages_offset) // block.page_bytes)
        _set_bits(bits, first, behind)
    return bytes(bits)


def _data_extents(fd: int, start: int, end: int) -> Iterator[tuple[int, int]]:
    """(start, end) of everything between two offsets that is not a hole; lseek(2), SEEK_DATA."""
    position = start
    while position < end:
        try:
            data = os.lseek(fd, position, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # nothing but a hole up to the end of the file
                return
            raise
        if data >= end:
            return
        position = min(os.lseek(fd, data, os.SEEK_HOLE), end)
        yield data, position


def _set_bits(bits: bytearray, first: int, behind: int) -> None:
    """Set the bits first <= n < behind; whole bytes at once, since a large guest has millions of pages."""
    whole_first, whole_behind = -(-first // 8), behind // 8
    if whole_first > whole_behind:  # all within one byte
        for bit in range(first, behind):
            bits[bit >> 3] |= 1 << (bit & 7)
        return
    bits[whole_first:whole_behind] = b"\xff" * (whole_behind - whole_first)
    for bit in (*range(first, whole_first * 8), *range(whole_behind * 8, behind)):
        bits[bit >> 3] |= 1 << (bit & 7)


def _read_all(fd: int, size: int, offset: int) -> bytes:
    """Pread of exactly this many bytes; the kernel may give less at a time."""
    parts: list[bytes] = []
    while size:
        part = os.pread(fd, size, offset)
        if not part:
            raise malformed(f"cut short at {offset}")
        parts.append(part)
        size, offset = size - len(part), offset + len(part)
    return b"".join(parts)


def _write_all(fd: int, data: bytes, offset: int) -> None:
    """Pwrite of all of it; the kernel may take less at a time."""
    view = memoryview(data)
    while view:
        written = os.pwrite(fd, view, offset)
        view, offset = view[written:], offset + written
