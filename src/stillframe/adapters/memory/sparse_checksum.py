"""The checksum of a sparse file: the whole file counts, how the file system lays it out does not.

Format of the checksum, "blake3:" and 80 hexadecimal digits:

    digest (32 bytes)  BLAKE3 over the context, the length (u64, big-endian) and, for every chunk of 1 MiB that is
                       not all zero, in ascending order: its number (u64, big-endian) and its own BLAKE3 digest
    length (8 bytes)   of the file, big-endian; so that a truncated file is found without reading it

A hole and zeroes that are written out are the same: neither is hashed, and the numbers say where they are. So a
holey 1 GiB file costs no more than its data, and a copy that lost its holes still verifies.
"""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from blake3 import blake3

PREFIX = "blake3:"
CHUNK_BYTES = 1 << 20  # with one buffer a thread it stays in the processor's cache
_DIGEST_BYTES = 32
_ENTRY = struct.Struct(f">Q{_DIGEST_BYTES}s")  # a chunk's number and digest
_HEX_DIGITS = 2 * (_DIGEST_BYTES + 8)
_CONTEXT = b"stillframe memory state 1\0"
_ZEROES = bytes(CHUNK_BYTES)
# BLAKE3 and pread both release the GIL. Beyond a few threads the memory bus is the limit, and guests want cores too.
_MAX_THREADS = 4


@dataclass(frozen=True)
class Checksum:
    """A parsed checksum."""

    digest: bytes
    length_bytes: int

    def __str__(self) -> str:
        return PREFIX + (self.digest + struct.pack(">Q", self.length_bytes)).hex()


def parse_checksum(text: str) -> Checksum:
    """The checksum that ``str`` gave.

    Raises:
        ValueError: it is none.
    """
    if not text.startswith(PREFIX) or len(text) != len(PREFIX) + _HEX_DIGITS:
        raise ValueError(f'"{text}" is not the checksum of a memory state')
    raw = bytes.fromhex(text.removeprefix(PREFIX))
    return Checksum(raw[:_DIGEST_BYTES], int.from_bytes(raw[_DIGEST_BYTES:], "big"))


def checksum_of(descriptor: int, *, max_threads: int | None = None) -> tuple[Checksum, bytes]:
    """The checksum of an open file that nobody writes to, and what it was made of: for ``check_chunks``.

    Holes are not read. Moves the descriptor's offset.

    Raises:
        OSError: it could not be read; EIO also when it became shorter meanwhile.
    """
    length = os.fstat(descriptor).st_size
    numbers = data_chunks(descriptor)
    threads = min(max_threads or _MAX_THREADS, os.cpu_count() or 1, max(1, len(numbers)))
    share = -(-len(numbers) // threads)
    parts = [numbers[at : at + share] for at in range(0, len(numbers), share or 1)]
    with ThreadPoolExecutor(threads) as pool:
        digests = b"".join(pool.map(lambda part: _hash_chunks(descriptor, part, length), parts))
    return checksum_from(digests, length), digests


def checksum_from(digests: bytes, length: int) -> Checksum:
    return Checksum(blake3(_CONTEXT + struct.pack(">Q", length) + digests).digest(), length)


def digest_chunks(descriptor: int) -> Iterator[bytes]:
    """What ``checksum_of`` makes of one chunk after the other; whoever asks decides when the next one is read.

    Raises:
        OSError: it could not be read.
    """
    length = os.fstat(descriptor).st_size
    for number in data_chunks(descriptor):
        yield _hash_chunks(descriptor, [number], length)


def check_chunks(descriptor: int, digests: bytes) -> Iterator[bool]:
    """One chunk after the other of a file whose checksum was made of these digests: whether it is what it was.

    Whoever asks decides when the next one is read. It is over at the first that differs.

    Raises:
        OSError: it could not be read.
    """
    length = os.fstat(descriptor).st_size
    expected = dict(_ENTRY.iter_unpack(digests))
    for number in sorted(expected.keys() | set(data_chunks(descriptor))):
        if number * CHUNK_BYTES >= length:
            yield False
            return
        found = _hash_chunks(descriptor, [number], length)
        known = expected.get(number)
        if found != (_ENTRY.pack(number, known) if known is not None else b""):
            yield False
            return
        yield True


def data_chunks(descriptor: int) -> list[int]:
    """The numbers, ascending, of the chunks that are not entirely holes."""
    numbers: list[int] = []
    offset = 0
    while True:
        try:
            start = os.lseek(descriptor, offset, os.SEEK_DATA)
        except OSError as error:
            if error.errno == errno.ENXIO:  # no more data
                return numbers
            raise
        offset = os.lseek(descriptor, start, os.SEEK_HOLE)
        first = start // CHUNK_BYTES
        if numbers and numbers[-1] == first:  # two extents share a chunk
            first += 1
        numbers.extend(range(first, (offset - 1) // CHUNK_BYTES + 1))


def _hash_chunks(descriptor: int, numbers: list[int], length: int) -> bytes:
    buffer = bytearray(CHUNK_BYTES)
    digests = bytearray()
    for number in numbers:
        at = number * CHUNK_BYTES
        wanted = min(CHUNK_BYTES, length - at)
        if wanted < CHUNK_BYTES:  # the last chunk
            buffer = bytearray(wanted)
        read_fully(descriptor, buffer, at)
        # one memcmp, which ends at the first byte that differs
        if buffer == (_ZEROES if wanted == CHUNK_BYTES else bytes(wanted)):
            continue
        digests += _ENTRY.pack(number, blake3(buffer).digest())
    return bytes(digests)


def read_fully(descriptor: int, buffer: bytearray, offset: int) -> None:
    """The buffer is full of what lies there.

    Raises:
        OSError: it could not be read; EIO also when the file ends before.
    """
    view = memoryview(buffer)
    while view:
        count = os.preadv(descriptor, [view], offset)
        if count == 0:
            raise OSError(errno.EIO, "the file became shorter while it was read")
        view = view[count:]
        offset += count
