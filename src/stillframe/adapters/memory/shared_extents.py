"""What two memory files have in common at the same offset is stored once, by the file system's own means (dedupe.py)."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

from stillframe.adapters.memory.dedupe import CANNOT, share
from stillframe.adapters.memory.own_blocks import OwnBlocks
from stillframe.adapters.memory.sparse_checksum import CHUNK_BYTES, data_chunks, read_fully

_BLOCK_BYTES = 4096  # a guest's page: in larger stretches far less is alike


def can_share(source: int, target: int) -> bool:
    """Whether the file system shares blocks of these two files, as far as it says: it is asked for one, which may come to be shared.

    Raises:
        OSError: it could not be asked.
    """
    block = _block_bytes(target)
    offset = next(iter(data_chunks(target)), 0) * CHUNK_BYTES
    if offset + block > min(os.fstat(source).st_size, os.fstat(target).st_size):
        return True  # there is nothing to ask for
    try:
        share(source, offset, target, offset, block)
    except OSError as error:
        if error.errno in CANNOT:
            return False
        raise
    return True


def share_chunks(source: int, target: int, own: OwnBlocks | None) -> Iterator[int]:
    """Let ``target`` refer to the blocks of ``source`` where both hold the same; yields, for one chunk after the other in
    which both have data, how many bytes of it that are. ``own`` gets the rest of a chunk that is shared for the most part.

    Whoever asks decides when the next one is dealt with. May be given up and repeated at any time. Reading the chunks here
    first keeps it short for how long the kernel holds both files still: it finds them in the page cache.

    Raises:
        OSError: a file could not be read, or the kernel would not share.
    """
    block = _block_bytes(target)
    length = min(os.fstat(source).st_size, os.fstat(target).st_size) // block * block
    in_source = set(data_chunks(source))
    one, two = bytearray(CHUNK_BYTES), bytearray(CHUNK_BYTES)
    for number in data_chunks(target):
        at = number * CHUNK_BYTES
        wanted = min(CHUNK_BYTES, length - at)
        if number not in in_source or wanted <= 0:
            continue
        if wanted < CHUNK_BYTES:  # the last chunk
            one, two = bytearray(wanted), bytearray(wanted)
        read_fully(source, one, at)
        read_fully(target, two, at)
        shared = 0
        for begin, count in equal_runs(one, two, block):
            shared += share(source, at + begin, target, at + begin, count)
        if own is not None and shared > wanted // 2:
            for begin, count in differing_runs(one, two, block):
                own.add(at + begin, two[begin : begin + count])
        yield shared
    if own is not None:
        own.settle()


def equal_runs(one: bytearray, two: bytearray, block: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of the stretches of whole blocks that are equal in both and hold anything: zeroes are holes, mostly."""
    return _runs(one, two, block, lambda mine, other: mine == other)


def differing_runs(one: bytearray, two: bytearray, block: int) -> Iterator[tuple[int, int]]:
    """(offset, bytes) of the stretches of whole blocks in which the second holds anything, and not what the first holds."""
    return _runs(two, one, block, lambda mine, other: mine != other)


def _runs(
    one: bytearray, two: bytearray, block: int, is_meant: Callable[[bytearray, bytearray], bool]
) -> Iterator[tuple[int, int]]:
    zeroes, begin = bytes(block), None
    for at in range(0, len(one), block):
        mine = one[at : at + block]
        if is_meant(mine, two[at : at + block]) and mine != zeroes[: len(mine)]:
            if begin is None:
                begin = at
        elif begin is not None:
            yield begin, at - begin
            begin = None
    if begin is not None:
        yield begin, len(one) - begin


def _block_bytes(descriptor: int) -> int:
    """The smallest stretch that is shared: the kernel takes whole blocks of the file system alone."""
    return max(_BLOCK_BYTES, os.fstatvfs(descriptor).f_bsize)
