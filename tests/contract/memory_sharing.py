"""What a memory store must keep of files that it stores together; part of ``memory_contract.CHECKS``' promises.

A store that cannot share keeps it, too: then nothing happens.
"""

from __future__ import annotations

import os
from collections.abc import Callable

from contract.memory_bench import MIB, MemoryBench, ends_with, new_uuid
from stillframe.domain.errors import ErrorCase, Failed, Refused

LENGTH_BYTES = 12 * MIB + 512
Extents = tuple[tuple[int, bytes], ...]


def two_moments() -> tuple[Extents, Extents]:
    """Memory of a guest, and later: of four pieces one has changed, one has moved, one is gone and one is as it was."""
    changed, moved, gone, same = (os.urandom(MIB) for _ in range(4))
    one = ((MIB, changed), (3 * MIB, moved), (5 * MIB, gone), (7 * MIB, same + same))
    later = bytearray(changed)
    later[5000] ^= 1
    return one, ((MIB, bytes(later)), (3 * MIB + 4096, moved), (7 * MIB, same + same))


def sealed_pair(bench: MemoryBench, moments: tuple[Extents, Extents]) -> tuple[tuple[str, str], tuple[str, str]]:
    """(uuid, checksum) of the earlier and of the later one."""
    one, two = (bench.captured(*extents, length_bytes=LENGTH_BYTES) for extents in moments)
    return (one, bench.store.seal(one)[0]), (two, bench.store.seal(two)[0])


def always() -> bool:
    return True


def check_sharing_changes_no_byte(bench: MemoryBench) -> None:
    (one, first), (two, second) = sealed_pair(bench, two_moments())
    before = [bench.file(uuid).read_bytes() for uuid in (one, two)]
    listed = [file.uuid for file in bench.store.list_owned()]
    for _ in range(2):
        assert 0 <= bench.store.share(two, one, goes_on=always) <= LENGTH_BYTES
        assert [bench.file(uuid).read_bytes() for uuid in (one, two)] == before
    assert [file.uuid for file in bench.store.list_owned()] == listed
    assert [bench.store.is_unchanged(uuid) for uuid in (one, two)] == [True, True], "a rollback would hash them anew"
    for uuid, checksum in ((one, first), (two, second)):
        bench.store.verify(uuid, checksum)
        bench.anew().store.verify(uuid, checksum)


def check_sharing_leaves_either_without_the_other(bench: MemoryBench) -> None:
    for dropped in (0, 1):
        pair = sealed_pair(bench, two_moments())
        bench.store.share(pair[1][0], pair[0][0], goes_on=always)
        bench.store.ensure_dropped(pair[dropped][0])
        bench.store.verify(*pair[1 - dropped])
        assert bench.store.check_slowly(*pair[1 - dropped], goes_on=always)


def check_damage_to_one_is_none_of_the_other(bench: MemoryBench) -> None:
    """Somebody writes into one behind the store's back."""
    (one, first), (two, second) = sealed_pair(bench, two_moments())
    bench.store.share(two, one, goes_on=always)
    bench.damage(two, 8 * MIB)
    with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, two):
        bench.store.verify(two, second)
    bench.store.verify(one, first)
    bench.store.share(two, one, goes_on=always)
    with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, two):
        bench.store.verify(two, second)
    bench.store.verify(one, first)


def check_captures_are_not_shared(bench: MemoryBench) -> None:
    """QEMU may still write to them."""
    extents = two_moments()[0]
    capture, sealed = (bench.captured(*extents, length_bytes=LENGTH_BYTES) for _ in range(2))
    bench.store.seal(sealed)
    before = bench.file(capture).read_bytes()
    assert bench.store.share(capture, sealed, goes_on=always) == 0
    assert bench.store.share(sealed, capture, goes_on=always) == 0
    assert bench.file(capture).read_bytes() == before


def check_sharing_ends_when_it_is_told_to(bench: MemoryBench) -> None:
    extents = two_moments()[0]
    (one, _), (two, second) = sealed_pair(bench, (extents, extents))
    assert bench.store.share(two, one, goes_on=lambda: False) <= MIB, "a chunk at a time"
    bench.store.verify(two, second)


def check_empty_files_share_nothing(bench: MemoryBench) -> None:
    one, two, filled = bench.captured(length_bytes=0), bench.captured(length_bytes=0), bench.captured((0, b"x" * MIB))
    for uuid in (one, two, filled):
        bench.store.seal(uuid)
    for pair in ((one, two), (one, filled), (filled, one)):
        assert bench.store.share(*pair, goes_on=always) == 0


def check_sharing_needs_both_files(bench: MemoryBench) -> None:
    (one, first), _ = sealed_pair(bench, two_moments())
    for pair in ((one, new_uuid()), (new_uuid(), one)):
        with ends_with(Failed, ErrorCase.STORAGE_FAILED):
            bench.store.share(*pair, goes_on=always)
    bench.store.verify(one, first)


def check_no_path_to_share_is_made_of_anything_but_a_uuid(bench: MemoryBench) -> None:
    for pair in ((f"../{new_uuid()}", new_uuid()), (new_uuid(), f"../{new_uuid()}")):
        with ends_with(Refused, ErrorCase.PARAMETER_MALFORMED):
            bench.store.share(*pair, goes_on=always)


SHARING_CHECKS: dict[str, Callable[[MemoryBench], None]] = {
    name: value for name, value in globals().items() if name.startswith("check_")
}
