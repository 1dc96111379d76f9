"""LocalMemoryStore keeps the contract, and what is its own: devices that fail, full file systems, threads."""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from contract.memory_bench import MIB, PNG, MemoryBench, ends_with, new_uuid
from contract.memory_contract import CHECKS, Check
from stillframe.adapters.memory import sparse_checksum
from stillframe.adapters.memory.local import LocalMemoryStore
from stillframe.domain.errors import ErrorCase, Failed, Refused


def bench_in(root: Path) -> MemoryBench:
    def screenshot_file(uuid: str) -> Path:
        return root / "screenshots" / f"{uuid}.png"

    return MemoryBench(LocalMemoryStore(root), screenshot_file, lambda: LocalMemoryStore(root))


@pytest.fixture
def bench(tmp_path: Path) -> MemoryBench:
    return bench_in(tmp_path / "state")


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_contract(check: Check, bench: MemoryBench) -> None:
    check(bench)


@pytest.mark.parametrize("code", [errno.EIO, errno.ESTALE])
def test_a_device_that_fails_is_not_damage(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch, code: int) -> None:
    memory_uuid = bench.captured((MIB, b"x" * MIB))
    checksum, _ = bench.store.seal(memory_uuid)

    def fail(descriptor: int, buffers: Sequence[bytearray], offset: int) -> int:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "preadv", fail)
    with ends_with(Failed, ErrorCase.STORAGE_FAILED, os.strerror(code)):
        bench.store.verify(memory_uuid, checksum)


def test_short_reads_are_continued(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_uuid = bench.captured((MIB, os.urandom(2 * MIB)))
    checksum, _ = bench.store.seal(memory_uuid)
    whole = os.preadv

    def shorter(descriptor: int, buffers: Sequence[memoryview], offset: int) -> int:
        return whole(descriptor, [buffers[0][:100_000]], offset)

    monkeypatch.setattr(os, "preadv", shorter)
    bench.store.verify(memory_uuid, checksum)


def test_the_number_of_threads_does_not_matter(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_uuid = bench.captured(
        *((at * MIB, os.urandom(MIB // 2)) for at in (0, 1, 3, 4, 6, 9)), length_bytes=10 * MIB
    )
    # no more threads than cores, and a machine has as many as it has
    monkeypatch.setattr(os, "cpu_count", lambda: 7)
    found = {bench.store.seal(memory_uuid)[0]}
    with bench.file(memory_uuid).open("rb") as file:
        found |= {
            str(sparse_checksum.checksum_of(file.fileno(), max_threads=threads)[0]) for threads in (1, 2, 3, 4, 7)
        }
    assert len(found) == 1


def test_a_seal_is_durable_before_it_is_told(bench: MemoryBench, monkeypatch: pytest.MonkeyPatch) -> None:
    memory_uuid = bench.captured((0, b"x"))
    synced: list[int] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        synced.append(os.fstat(descriptor).st_ino)
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    bench.store.seal(memory_uuid)
    path = bench.file(memory_uuid)
    assert {path.stat().st_ino, path.parent.stat().st_ino} <= set(synced)


@pytest.fixture
def full_file_system(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8m", "stillframe-test", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_file_system_that_is_too_small(full_file_system: Path) -> None:
    bench = bench_in(full_file_system)
    with ends_with(Refused, ErrorCase.SPACE_EXHAUSTED, str(9 * MIB)):
        bench.store.ensure_capture_file(new_uuid(), 9 * MIB)
    assert bench.store.list_owned() == []
    assert bench.file(bench.captured((0, b"x"))).exists()


def test_a_full_file_system_keeps_what_is_sealed(full_file_system: Path) -> None:
    bench = bench_in(full_file_system)
    memory_uuid = bench.captured((0, os.urandom(MIB)))
    checksum, _ = bench.store.seal(memory_uuid)
    snapshot_uuid = new_uuid()
    picture = bench.store.put_screenshot(snapshot_uuid, PNG)
    filler = full_file_system / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    another = new_uuid()
    with ends_with(Failed, ErrorCase.SPACE_EXHAUSTED):
        bench.store.put_screenshot(another, PNG)
    assert bench.store.get_screenshot(another, picture) is None
    assert bench.store.get_screenshot(snapshot_uuid, picture) == PNG
    bench.store.verify(memory_uuid, checksum)
