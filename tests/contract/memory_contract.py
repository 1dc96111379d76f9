"""What every ``ports.memory_store.MemoryStore`` must keep. Each ``check_*`` gets a fresh bench.

A check fails by ``AssertionError``. An adapter passes when ``CHECKS`` pass; ``test_contract_catches.py`` proves that
broken ones do not.
"""

from __future__ import annotations

import os
import stat
import uuid
from collections.abc import Callable
from functools import partial
from pathlib import Path

from contract.memory_bench import MIB, PNG, MemoryBench, ends_with, flip_bit, new_uuid, some_extents
from contract.memory_lending import LENDING_CHECKS
from contract.memory_sharing import SHARING_CHECKS
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.ports.memory_store import StoredKind

# --- captures


def check_capture_file_is_empty_and_private(bench: MemoryBench) -> None:
    memory_uuid = new_uuid()
    path = bench.store.ensure_capture_file(memory_uuid, MIB)
    assert path == bench.store.capture_path(memory_uuid)
    found = Path(path).stat()
    assert (found.st_size, stat.S_IMODE(found.st_mode)) == (0, 0o600)
    assert stat.S_IMODE(Path(path).parent.stat().st_mode) == 0o700


def check_capture_path_makes_nothing(bench: MemoryBench) -> None:
    assert not Path(bench.store.capture_path(new_uuid())).parent.exists()


def check_capture_again_starts_empty(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    with bench.file(memory_uuid).open("r+b") as crashed:
        bench.store.ensure_capture_file(memory_uuid, MIB)
        crashed.write(b"a QEMU that still writes to the file of the crashed attempt")
    assert bench.file(memory_uuid).stat().st_size == 0


def check_capture_never_empties_a_sealed_file(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    with ends_with(Failed, ErrorCase.STORAGE_FAILED):
        bench.store.ensure_capture_file(memory_uuid, MIB)
    bench.store.verify(memory_uuid, checksum)


def check_no_space_is_said_and_leaves_nothing(bench: MemoryBench) -> None:
    memory_uuid = bench.captured((0, b"left by a crash"))
    for candidate in (memory_uuid, new_uuid()):
        with ends_with(Refused, ErrorCase.SPACE_EXHAUSTED, str(1 << 60)):
            bench.store.ensure_capture_file(candidate, 1 << 60)
        assert not bench.file(candidate).exists()
    assert bench.store.list_owned() == []


# --- sealing and checking


def check_sealed_file_verifies(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    before = bench.file(memory_uuid).read_bytes()
    checksum, size_bytes = bench.store.seal(memory_uuid)
    assert checksum.startswith("blake3:")
    assert size_bytes == bench.file(memory_uuid).stat().st_blocks * 512
    assert bench.store.verify(memory_uuid, checksum) == str(bench.file(memory_uuid))
    assert bench.file(memory_uuid).read_bytes() == before


def check_flush_changes_nothing(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    before = bench.file(memory_uuid).read_bytes()
    bench.store.flush(memory_uuid)
    bench.store.flush(memory_uuid)
    assert bench.file(memory_uuid).read_bytes() == before


def check_unchanged_is_said_only_of_what_was_hashed(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    assert not bench.store.is_unchanged(memory_uuid), "never hashed"
    checksum, _size = bench.store.seal(memory_uuid)
    assert bench.store.is_unchanged(memory_uuid)
    bench.file(memory_uuid).chmod(0o600)
    assert not bench.store.is_unchanged(memory_uuid), "somebody touched it"
    bench.store.verify(memory_uuid, checksum)
    assert bench.store.is_unchanged(memory_uuid)
    flip_bit(bench.file(memory_uuid), 5000)
    assert not bench.store.is_unchanged(memory_uuid)
    assert not bench.store.is_unchanged(new_uuid())


def check_empty_file_seals(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(length_bytes=0)
    checksum, _ = bench.store.seal(memory_uuid)
    bench.store.verify(memory_uuid, checksum)


def check_seal_is_repeatable_and_read_only(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    assert bench.store.seal(memory_uuid) == bench.store.seal(memory_uuid)
    assert stat.S_IMODE(bench.file(memory_uuid).stat().st_mode) == 0o400


def check_seal_needs_the_file(bench: MemoryBench) -> None:
    with ends_with(Failed, ErrorCase.STORAGE_FAILED):
        bench.store.seal(new_uuid())


def check_checksum_ignores_how_holes_are_stored(bench: MemoryBench) -> None:
    extents = some_extents()
    sparse = bench.captured(*extents)
    contents = bench.file(sparse).read_bytes()
    filled = bench.captured((0, contents), length_bytes=len(contents))
    assert bench.file(filled).stat().st_blocks > bench.file(sparse).stat().st_blocks
    assert bench.store.seal(sparse)[0] == bench.store.seal(filled)[0]
    assert bench.file(sparse).stat().st_blocks < bench.file(filled).stat().st_blocks, "sealing filled the holes"


def check_checksum_knows_where_data_lies(bench: MemoryBench) -> None:
    chunk, other = os.urandom(MIB), os.urandom(MIB)
    files = [
        bench.captured((MIB, chunk), (2 * MIB, other)),
        bench.captured((MIB, other), (2 * MIB, chunk)),
        bench.captured((MIB, chunk), (3 * MIB, other)),
        bench.captured((2 * MIB, chunk), (3 * MIB, other)),
        bench.captured((MIB, chunk), (2 * MIB, other), length_bytes=6 * MIB),
        bench.captured((MIB + 512, chunk), (2 * MIB + 512, other)),
    ]
    assert len({bench.store.seal(memory_uuid)[0] for memory_uuid in files}) == len(files)


def check_verify_finds_one_flipped_bit(bench: MemoryBench) -> None:
    in_data, in_hole, at_the_end = 2 * MIB, 3 * MIB + 77, 5 * MIB + 511
    for offset in (0, in_data, in_hole, at_the_end):
        memory_uuid = bench.captured(*some_extents())
        checksum, _ = bench.store.seal(memory_uuid)
        bench.damage(memory_uuid, offset)
        with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid, "contents"):
            bench.store.verify(memory_uuid, checksum)
        assert bench.store.seal(memory_uuid)[0] != checksum, "sealing it again does not see the bit"


def check_verify_finds_a_truncated_file(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    for length, word in ((5 * MIB, "truncated"), (0, "truncated"), (6 * MIB, "too long")):
        os.truncate(bench.file(memory_uuid), length)  # the end is a hole: no data is lost or won
        with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid, word):
            bench.store.verify(memory_uuid, checksum)


def check_length_is_looked_at_alone(bench: MemoryBench) -> None:
    """It is cheap: damage inside is not its business."""
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    bench.damage(memory_uuid, 2 * MIB)
    bench.store.check_length(memory_uuid, checksum)
    for length, word in ((5 * MIB, "truncated"), (6 * MIB, "too long")):
        os.truncate(bench.file(memory_uuid), length)
        with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid, word):
            bench.store.check_length(memory_uuid, checksum)
    with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid):
        bench.store.check_length(memory_uuid, "blake3:00")


def check_length_of_a_missing_file_is_damage(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    bench.file(memory_uuid).unlink()
    with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid, "missing"):
        bench.store.check_length(memory_uuid, checksum)


def check_length_failure_is_not_damage(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    path = bench.file(memory_uuid)
    path.unlink()
    path.symlink_to(path)
    with ends_with(Failed, ErrorCase.STORAGE_FAILED):
        bench.store.check_length(memory_uuid, checksum)


def check_verify_finds_a_missing_file(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    bench.file(memory_uuid).unlink()
    with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, memory_uuid, "missing"):
        bench.store.verify(memory_uuid, checksum)


def check_verify_trusts_no_other_checksum(bench: MemoryBench) -> None:
    one, two = bench.captured(*some_extents()), bench.captured(*some_extents())
    checksum, _ = bench.store.seal(one)
    bench.store.seal(two)
    for wrong in (checksum, "", "blake3:", "blake3:" + "0" * 64, checksum[:-1]):
        with ends_with(Failed, ErrorCase.MEMORY_DAMAGED, two):
            bench.store.verify(two, wrong)


def check_verify_failure_is_not_damage(bench: MemoryBench) -> None:
    memory_uuid = bench.captured(*some_extents())
    checksum, _ = bench.store.seal(memory_uuid)
    path = bench.file(memory_uuid)
    path.unlink()
    path.symlink_to(path)
    with ends_with(Failed, ErrorCase.STORAGE_FAILED):
        bench.store.verify(memory_uuid, checksum)


# --- the rest of its life


def check_drop_takes_this_one_only(bench: MemoryBench) -> None:
    capture, sealed, other = (bench.captured((0, b"x")) for _ in range(3))
    checksum, _ = bench.store.seal(sealed)
    bench.store.seal(other)
    for memory_uuid in (capture, sealed, sealed, new_uuid()):
        bench.store.ensure_dropped(memory_uuid)
    assert [file.uuid for file in bench.store.list_owned()] == [other]
    with ends_with(Failed, ErrorCase.MEMORY_DAMAGED):
        bench.store.verify(sealed, checksum)


def check_list_owned_takes_only_names_of_the_store(bench: MemoryBench) -> None:
    assert bench.store.list_owned() == []
    made = sorted(bench.captured((0, b"x")) for _ in range(3))
    for name in ("notes.txt", "x.mem", new_uuid(), new_uuid().upper() + ".mem"):
        (bench.file(made[0]).parent / name).write_bytes(b"")
    (bench.file(made[0]).parent / f"{new_uuid()}.mem").mkdir()
    (bench.file(made[0]).parent / f"{new_uuid()}.mem").symlink_to(bench.file(made[0]))
    assert [file.uuid for file in bench.store.list_owned()] == made
    assert {(file.kind, file.unfinished) for file in bench.store.list_owned()} == {(StoredKind.MEMORY, False)}
    assert [file.path for file in bench.store.list_owned()] == [str(bench.file(one)) for one in made]


def check_list_owned_says_what_is_occupied(bench: MemoryBench) -> None:
    memory_uuid = bench.captured((0, os.urandom(MIB)), length_bytes=64 * MIB)
    (file,) = bench.store.list_owned()
    assert file.size_bytes == bench.file(memory_uuid).stat().st_blocks * 512
    assert MIB <= file.size_bytes < 2 * MIB


def check_list_owned_has_screenshots_and_unfinished_ones(bench: MemoryBench) -> None:
    memory_uuid, (one, two) = bench.captured((0, b"x")), sorted([new_uuid(), new_uuid()])
    bench.store.put_screenshot(one, PNG)
    picture = bench.screenshot_file(one)
    unfinished = picture.with_name(f"{two}.png.part")
    unfinished.write_bytes(b"half")
    (picture.parent / "notes.png").write_bytes(b"")
    found = [(file.kind, file.uuid, file.path, file.unfinished) for file in bench.store.list_owned()]
    assert found == [
        (StoredKind.MEMORY, memory_uuid, str(bench.file(memory_uuid)), False),
        (StoredKind.SCREENSHOT, one, str(picture), False),
        (StoredKind.SCREENSHOT, two, str(unfinished), True),
    ]
    bench.store.drop_screenshot(two)
    assert [file.uuid for file in bench.store.list_owned()] == [memory_uuid, one]


def check_location_is_a_url(bench: MemoryBench) -> None:
    memory_uuid = new_uuid()
    assert bench.store.location(memory_uuid) == Path(bench.store.capture_path(memory_uuid)).as_uri()


def check_no_path_is_made_of_anything_but_a_uuid(bench: MemoryBench) -> None:
    store = bench.store
    for wrong in ("", "..", "../" + new_uuid(), new_uuid().upper(), new_uuid() + "\n", uuid.uuid4().hex):
        calls: tuple[Callable[[], object], ...] = (
            partial(store.capture_path, wrong),
            partial(store.ensure_capture_file, wrong, 0),
            partial(store.seal, wrong),
            partial(store.verify, wrong, ""),
            partial(store.check_length, wrong, ""),
            partial(store.ensure_dropped, wrong),
            partial(store.location, wrong),
            partial(store.put_screenshot, wrong, PNG),
            partial(store.get_screenshot, wrong, ""),
            partial(store.drop_screenshot, wrong),
        )
        for call in calls:
            with ends_with(Refused, ErrorCase.PARAMETER_MALFORMED):
                call()


# --- screenshots


def check_screenshot_comes_back(bench: MemoryBench) -> None:
    snapshot_uuid = new_uuid()
    assert bench.store.get_screenshot(snapshot_uuid, "blake3:00") is None
    checksum = bench.store.put_screenshot(snapshot_uuid, PNG)
    assert checksum.startswith("blake3:")
    assert bench.store.put_screenshot(snapshot_uuid, PNG) == checksum
    assert bench.store.get_screenshot(snapshot_uuid, checksum) == PNG
    file = bench.screenshot_file(snapshot_uuid)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    for _ in range(2):
        bench.store.drop_screenshot(snapshot_uuid)
        assert bench.store.get_screenshot(snapshot_uuid, checksum) is None
    assert list(file.parent.iterdir()) == []


def check_screenshot_never_changes(bench: MemoryBench) -> None:
    snapshot_uuid = new_uuid()
    checksum = bench.store.put_screenshot(snapshot_uuid, PNG)
    with ends_with(Failed, ErrorCase.STORAGE_FAILED):
        bench.store.put_screenshot(snapshot_uuid, PNG + b"!")
    assert bench.store.get_screenshot(snapshot_uuid, checksum) == PNG


def check_screenshot_damage_is_found(bench: MemoryBench) -> None:
    snapshot_uuid = new_uuid()
    checksum = bench.store.put_screenshot(snapshot_uuid, PNG)
    flip_bit(bench.screenshot_file(snapshot_uuid), 100)
    with ends_with(Failed, ErrorCase.STORAGE_FAILED, snapshot_uuid):
        bench.store.get_screenshot(snapshot_uuid, checksum)


def check_screenshot_failure_is_not_absence(bench: MemoryBench) -> None:
    snapshot_uuid = new_uuid()
    checksum = bench.store.put_screenshot(snapshot_uuid, PNG)
    file = bench.screenshot_file(snapshot_uuid)
    file.unlink()
    file.symlink_to(file)
    with ends_with(Failed, ErrorCase.STORAGE_FAILED):
        bench.store.get_screenshot(snapshot_uuid, checksum)


Check = Callable[[MemoryBench], None]
CHECKS: dict[str, Check] = {
    **{name: value for name, value in globals().items() if name.startswith("check_")},
    **LENDING_CHECKS,
    **SHARING_CHECKS,
}
