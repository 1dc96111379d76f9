"""What a memory store must keep of files that guests live on; part of ``memory_contract.CHECKS``' promises."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from contract.memory_bench import MIB, MemoryBench, ends_with, new_uuid, some_extents
from stillframe.domain.errors import ErrorCase, Failed, Refused


def _check_slowly(bench: MemoryBench, memory_uuid: str, checksum: str, most: int = 1000) -> tuple[int, bool]:
    """How often it was asked whether it is to go on, and what was said in the end."""
    asked = 0

    def goes_on() -> bool:
        nonlocal asked
        asked += 1
        return asked < most

    said = bench.store.check_slowly(memory_uuid, checksum, goes_on=goes_on)
    return asked, said


def _sealed_and_damaged(bench: MemoryBench, offset: int) -> tuple[str, str]:
    """(uuid, checksum) of a file in which a bit has flipped since."""
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    bench.damage(memory_uuid, offset)
    return memory_uuid, checksum


def check_slowly_reads_all_of_a_whole_file(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    assert _check_slowly(bench, memory_uuid, checksum) == (4, True), "a chunk at a time, and no hole"


def check_slowly_ends_when_it_is_told_to(bench: MemoryBench) -> None:
    memory_uuid, checksum = _sealed_and_damaged(bench, 4 * MIB)  # in the last of the chunks
    assert _check_slowly(bench, memory_uuid, checksum, most=2) == (2, False)


def check_slowly_finds_one_flipped_bit(bench: MemoryBench) -> None:
    in_data, in_hole, at_the_end = 2 * MIB, 3 * MIB + 77, 5 * MIB + 511
    for offset in (0, in_data, in_hole, at_the_end):
        memory_uuid, checksum = _sealed_and_damaged(bench, offset)
        with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid, "contents"):
            _check_slowly(bench, memory_uuid, checksum)


def check_slowly_finds_what_is_cut_off(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    bench.file(memory_uuid).chmod(0o600)
    with bench.file(memory_uuid).open("r+b") as file:
        file.truncate(4 * MIB)
    with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid):
        _check_slowly(bench, memory_uuid, checksum)


def check_slowly_without_having_read_it_before(bench: MemoryBench) -> None:
    """As a service that was started anew does: it knows the checksum alone."""
    for offset in (None, 2 * MIB, 3 * MIB + 77):
        memory_uuid = bench.captured(*some_extents())
        checksum, _ = bench.store.seal(memory_uuid)
        anew = bench.anew()
        assert _check_slowly(anew, memory_uuid, checksum, most=2) == (2, False)
        if offset is None:
            assert _check_slowly(anew, memory_uuid, checksum) == (4, True)
            assert anew.store.is_unchanged(memory_uuid)
            continue
        bench.damage(memory_uuid, offset)
        with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid, "contents"):
            _check_slowly(anew, memory_uuid, checksum)


def check_what_was_found_damaged_is_not_taken_for_right(bench: MemoryBench) -> None:
    """Also where the file system says that nobody has touched it."""
    memory_uuid, other = bench.captured(*some_extents()), bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    another, _ = bench.store.seal(other)
    for check in (bench.store.verify, partial(bench.store.check_slowly, goes_on=lambda: True)):
        bench.store.verify(memory_uuid, checksum)
        assert bench.store.is_unchanged(memory_uuid)
        with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid, "contents"):
            check(memory_uuid, another)
        assert not bench.store.is_unchanged(memory_uuid)


def check_slowly_takes_a_missing_file_for_no_damage(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    bench.file(memory_uuid).unlink()
    with ends_with(Failed, ErrorCase.STORAGE_FAILED):
        _check_slowly(bench, memory_uuid, checksum)


def check_lent_files_stay_until_they_are_dropped(bench: MemoryBench) -> None:
    assert bench.store.lent() == {}
    kept, lent = sorted((bench.captured(*some_extents()), bench.captured(*some_extents())))
    checksum, _ = bench.store.seal(lent)
    for _ in range(2):
        bench.store.lend(lent, checksum)
        assert bench.store.lent() == {lent: checksum}
    bench.store.verify(lent, checksum)
    for _ in range(2):
        bench.store.ensure_dropped(lent)
        assert bench.store.lent() == {}
    assert {file.uuid for file in bench.store.list_owned()} == {kept}


def check_what_was_lent_can_be_taken_back(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    bench.store.lend(memory_uuid, checksum)
    for _ in range(2):
        bench.store.take_back(memory_uuid)
        assert bench.store.lent() == {}
    assert bench.store.verify(memory_uuid, checksum) == str(bench.file(memory_uuid))


def check_what_a_lazy_restore_needs_goes_alone_or_with_the_file(bench: MemoryBench) -> None:
    one, two = bench.captured(*some_extents()), bench.captured(*some_extents())
    for memory_uuid in (one, two):
        Path(bench.store.lazy_path(memory_uuid)).write_bytes(b"an image")
    assert not [file for file in bench.store.list_owned() if file.unfinished], "they are no memory"
    for _ in range(2):
        bench.store.drop_lazy_file(one)
    assert Path(bench.store.lazy_path(two)).exists()
    bench.store.drop_lazy_files()
    assert not Path(bench.store.lazy_path(two)).exists()
    Path(bench.store.lazy_path(two)).write_bytes(b"an image")
    bench.store.ensure_dropped(two)
    assert [(file.uuid, file.path, file.unfinished) for file in bench.store.list_owned()] == [
        (one, str(bench.file(one)), False)
    ]
    assert not Path(bench.store.lazy_path(two)).exists()


def check_no_path_beside_is_made_of_anything_but_a_uuid(bench: MemoryBench) -> None:
    for act in (
        bench.store.lazy_path,
        bench.store.drop_lazy_file,
        bench.store.take_back,
        partial(bench.store.lend, checksum=""),
    ):
        with ends_with(Refused, ErrorCase.PARAMETER_MALFORMED):
            act(f"../{new_uuid()}")


LENDING_CHECKS: dict[str, Callable[[MemoryBench], None]] = {
    name: value for name, value in globals().items() if name.startswith("check_")
}
