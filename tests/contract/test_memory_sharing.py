"""LocalMemoryStore on file systems that share blocks of files, and on those that cannot."""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contract.memory_bench import MIB, MemoryBench, ends_with, new_uuid
from contract.memory_contract import CHECKS, Check
from contract.memory_sharing import always, sealed_pair, two_moments
from contract.test_memory import bench_in
from stillframe.adapters.memory.shared_extents import differing_runs, equal_runs
from stillframe.domain.errors import ErrorCase, Failed
from support.loop_mount import KINDS, mounted, used_bytes
from support.service import eventually

_PIECE = 8 * MIB
_BLOCK = 4096


@pytest.fixture(scope="module", params=KINDS)
def file_system(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    directory = tmp_path_factory.mktemp(request.param)
    with mounted(request.param, directory / "mounted", directory / "image") as place:
        yield place


@pytest.fixture
def bench(file_system: Path) -> Iterator[MemoryBench]:
    bench = bench_in(file_system / new_uuid())
    yield bench
    for file in bench.store.list_owned():
        bench.store.ensure_dropped(file.uuid)


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_contract(check: Check, bench: MemoryBench) -> None:
    check(bench)


def pieces() -> list[tuple[int, bytes]]:
    """Four of them, each in blocks of its own: btrfs frees what nothing refers to any more as it was written."""
    return [(number * (_PIECE + MIB), os.urandom(_PIECE)) for number in range(4)]


def written_on(data: bytes) -> bytes:
    """A moment later: one page in 16 has changed."""
    later = bytearray(data)
    for at in range(0, len(later), 16 * _BLOCK):
        later[at + 100] ^= 1
    return bytes(later)


def seal(bench: MemoryBench, extents: list[tuple[int, bytes]]) -> tuple[str, str]:
    uuid = bench.captured(*extents, length_bytes=40 * MIB)
    return uuid, bench.store.seal(uuid)[0]


def test_what_is_alike_takes_space_once(bench: MemoryBench, file_system: Path) -> None:
    extents = pieces()
    one, _ = seal(bench, extents)
    extents[2] = (extents[2][0], os.urandom(_PIECE))
    two, second = seal(bench, extents)
    apart = used_bytes(file_system)
    assert bench.store.share(two, one, goes_on=always) == 3 * _PIECE
    together = used_bytes(file_system)
    assert apart - together > 2.9 * _PIECE

    third, last = seal(bench, extents)
    bench.store.share(third, two, goes_on=always)
    assert used_bytes(file_system) - together < 0.1 * _PIECE, "three of them take what two of them take"

    bench.store.ensure_dropped(one)
    assert used_bytes(file_system) - together < 0.1 * _PIECE, "the others refer to what is left"
    bench.store.verify(two, second)
    bench.store.ensure_dropped(two)
    bench.anew().store.verify(third, last)
    bench.store.ensure_dropped(third)
    # XFS frees what was deleted by and by
    eventually(lambda: used_bytes(file_system) < together - 3 * _PIECE, "all of it is free")


def test_what_changes_here_and_there_takes_no_more_than_that(bench: MemoryBench, file_system: Path) -> None:
    """Also where the file system frees nothing but whole pieces of what was written at once."""
    moments = [os.urandom(4 * _PIECE)]
    moments += [written_on(moments[0])]
    moments += [written_on(moments[1][: 2 * _PIECE]) + moments[1][2 * _PIECE :]]
    before = used_bytes(file_system)
    sealed = [seal(bench, [(MIB, data)]) for data in moments]
    for (one, _), (two, _) in pairwise(sealed):
        assert bench.store.share(two, one, goes_on=always) >= 4 * _PIECE * 15 // 16
    added = used_bytes(file_system) - before
    assert added < 4 * _PIECE * (1 + 2 / 16) + 4 * MIB, f"{added / MIB:.1f} MiB for {3 * 4 * _PIECE / MIB:.0f}"
    for uuid, checksum in sealed:
        bench.anew().store.verify(uuid, checksum)
    for (uuid, _), left in zip(sealed[:2], (sealed[1:], sealed[2:]), strict=True):
        bench.store.ensure_dropped(uuid)
        for other, checksum in left:
            bench.anew().store.verify(other, checksum)


def test_what_a_file_occupies_counts_what_it_shares(bench: MemoryBench) -> None:
    one, _ = seal(bench, pieces())
    before = bench.store.list_owned()
    two, _ = seal(bench, [(0, bench.file(one).read_bytes())])
    size_bytes = bench.file(two).stat().st_blocks * 512
    bench.store.share(two, one, goes_on=always)
    assert [file for file in bench.store.list_owned() if file.uuid == one] == before
    # but for what the file system needs to find more extents again
    assert abs(bench.file(two).stat().st_blocks * 512 - size_bytes) < MIB


def test_a_guest_that_lives_on_it_sees_nothing(bench: MemoryBench) -> None:
    """It has mapped the file, has touched some of it, and written to some."""
    extents = pieces()
    one, _ = seal(bench, extents)
    two, _ = seal(bench, extents)
    whole = bench.file(two).read_bytes()
    with bench.file(two).open("rb") as file:
        memory = mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
    with memory:
        assert memory[:_PIECE] == whole[:_PIECE]
        memory[5000] ^= 1
        assert bench.store.share(two, one, goes_on=always) == 4 * _PIECE
        memory[5000] ^= 1
        assert memory[:] == whole
    assert bench.file(two).read_bytes() == whole


SHARE_FOR_EVER = """
import itertools, sys
from pathlib import Path
from stillframe.adapters.memory.local import LocalMemoryStore
root, one, two = sys.argv[1:]
store = LocalMemoryStore(Path(root))
print("begun", flush=True)
for number in itertools.count():
    store.share(two, one, goes_on=lambda: True)
"""


def test_a_service_that_is_killed_leaves_two_whole_files(bench: MemoryBench, file_system: Path) -> None:
    extents = pieces()
    root = bench.file(new_uuid()).parents[1]
    for delay_s in (0.0, 0.004, 0.01, 0.03, 0.06):
        one, two = seal(bench, extents), seal(bench, [(at, written_on(data)) for at, data in extents])
        command = [sys.executable, "-c", SHARE_FOR_EVER, str(root), one[0], two[0]]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            time.sleep(delay_s)
            process.kill()
        for uuid, checksum in (one, two):
            bench.anew().store.verify(uuid, checksum)
        assert [file.uuid for file in bench.store.list_owned()] == sorted((one[0], two[0])), (
            "nothing is left beside them"
        )
        assert bench.anew().store.share(two[0], one[0], goes_on=always) == 4 * _PIECE * 15 // 16
        for uuid, _ in (one, two):
            bench.store.ensure_dropped(uuid)


def test_a_file_system_that_cannot_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each way in which a kernel says so; whatever the file system here can do."""
    asked = 0
    number = 0

    def refuse(descriptor: int, request: int, argument: bytearray) -> int:
        nonlocal asked
        asked += 1
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "ioctl", refuse)
    for number in (errno.EOPNOTSUPP, errno.ENOTTY, errno.EXDEV, errno.EINVAL, errno.EPERM):
        bench = bench_in(tmp_path / str(number))
        asked = 0
        extents = two_moments()[0]
        (one, first), (two, second) = sealed_pair(bench, (extents, extents))
        for _ in range(3):
            assert bench.store.share(two, one, goes_on=always) == 0
        assert asked == 1
        bench.store.verify(one, first)
        bench.store.verify(two, second)


def test_a_failure_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(descriptor: int, request: int, argument: bytearray) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    bench = bench_in(tmp_path)
    (one, first), (two, second) = sealed_pair(bench, two_moments())
    monkeypatch.setattr(fcntl, "ioctl", fail)
    with ends_with(Failed, ErrorCase.STORAGE_FAILED, os.strerror(errno.EIO)):
        bench.store.share(two, one, goes_on=always)
    bench.store.verify(one, first)
    bench.store.verify(two, second)


def test_tmpfs_cannot_and_nothing_changes(tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "stillframe-test", tmp_path], check=True)
    try:
        bench = bench_in(tmp_path / "state")
        extents = two_moments()[0]
        (one, first), (two, second) = sealed_pair(bench, (extents, extents))
        used = used_bytes(tmp_path)
        assert bench.store.share(two, one, goes_on=always) == 0
        assert used_bytes(tmp_path) == used
        bench.store.verify(one, first)
        bench.store.verify(two, second)
    finally:
        subprocess.run(["umount", tmp_path], check=True)


@given(st.lists(st.tuples(st.sampled_from("0ab"), st.sampled_from("0ab")), max_size=12))
def test_runs_are_what_is_alike_and_what_is_not(blocks: list[tuple[str, str]]) -> None:
    contents = {"0": bytes(_BLOCK), "a": b"a" * _BLOCK, "b": b"b" * _BLOCK}
    one, two = (bytearray(b"".join(contents[pair[side]] for pair in blocks)) for side in (0, 1))
    wanted = {
        equal_runs: [number for number, (mine, other) in enumerate(blocks) if mine == other != "0"],
        differing_runs: [number for number, (mine, other) in enumerate(blocks) if mine != other != "0"],
    }
    for runs, numbers in wanted.items():
        found = list(runs(one, two, _BLOCK))
        assert [at // _BLOCK for begin, count in found for at in range(begin, begin + count, _BLOCK)] == numbers
        assert all(begin > at + count for (at, count), (begin, _) in pairwise(found)), "as long as they can be"
