"""Memory is put together into huge pages again, and grows by nothing: on real processes, with the kernel's real pages."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from stillframe.adapters.libvirt import huge_pages
from stillframe.adapters.libvirt.huge_pages import HugePages, regions, restore

_HUGE = 2 << 20
_WRITTEN = 24  # huge pages that hold data
_MAPPED = 48  # of 96 MiB in all
# Data in the first half, of which the kernel makes huge pages where it has any; then one small page of each is protected for a
# moment, which splits it. The second half is read alone: the kernel's page of zeroes stands everywhere in it.
GUEST = f"""
import ctypes, mmap, os, sys
memory = mmap.mmap(-1, {_MAPPED + 1} * {_HUGE}, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
first = -start % {_HUGE}
libc = ctypes.CDLL(None, use_errno=True)
half = first + {_WRITTEN} * {_HUGE}
for advice in ADVICE:
    assert libc.madvise(ctypes.c_void_p(start + first), ctypes.c_size_t({_WRITTEN} * {_HUGE}), advice) == 0
for page in range(first, half, 4096):
    memory[page] = page // 4096 % 251 + 1
for page in range(half, half + ({_MAPPED} - {_WRITTEN}) * {_HUGE}, 4096):
    assert memory[page] == 0
for advice in ADVICE:
    assert libc.madvise(ctypes.c_void_p(start + half), ctypes.c_size_t(({_MAPPED} - {_WRITTEN}) * {_HUGE}), advice) == 0
for page in range(first, half, {_HUGE}):
    for rights in (1, 3):
        assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(4096), rights) == 0
print(first, flush=True)
sys.stdin.readline()
print(all(memory[page] == page // 4096 % 251 + 1 for page in range(first, half, 4096)), flush=True)
"""
_MADV_MERGEABLE, _MADV_HUGEPAGE, _MADV_NOHUGEPAGE = 12, 14, 15

needs_the_kernel = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists() or huge_pages._policy() == "never",
    reason="this kernel gives no huge pages to anybody",
)


class Process:
    def __init__(self, running: subprocess.Popen[str]) -> None:
        self.pid = running.pid
        self._running = running

    def in_huge_pages(self) -> int:
        return sum(region.huge_bytes for region in regions(self.pid)) // _HUGE

    def resident_kib(self) -> int:
        status = Path(f"/proc/{self.pid}/status").read_text(encoding="ascii")
        return next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))

    def is_as_written(self) -> bool:
        assert self._running.stdin is not None
        assert self._running.stdout is not None
        self._running.stdin.write("\n")
        self._running.stdin.flush()
        return self._running.stdout.readline().strip() == "True"


@contextmanager
def process(*arguments: str, advice: tuple[int, ...] = (_MADV_HUGEPAGE,)) -> Iterator[Process]:
    program = GUEST.replace("ADVICE", str(advice))
    command = [sys.executable, "-c", program, *arguments]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as running:
        try:
            assert running.stdout is not None
            assert running.stdout.readline().strip().isdigit(), "it has begun"
            yield Process(running)
        finally:
            running.kill()


@needs_the_kernel
def test_split_pages_are_put_together_and_memory_grows_by_nothing() -> None:
    with process() as found:
        assert found.in_huge_pages() == 0, "all of them are split"
        before_kib = found.resident_kib()
        assert restore(found.pid, threading.Event()) == _WRITTEN
        assert found.in_huge_pages() == _WRITTEN
        assert abs(found.resident_kib() - before_kib) < 1024
        assert restore(found.pid, threading.Event()) == _WRITTEN, "those are whole already"
        assert found.is_as_written()


@needs_the_kernel
def test_memory_that_is_to_have_no_huge_pages_gets_none() -> None:
    with process(advice=(_MADV_NOHUGEPAGE,)) as found:
        assert restore(found.pid, threading.Event()) == 0
        assert found.in_huge_pages() == 0


def test_who_has_switched_them_off_keeps_them_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    policy = tmp_path / "enabled"
    policy.write_text("always madvise [never]\n", encoding="ascii")
    monkeypatch.setattr(huge_pages, "_POLICY", policy)
    with process() as found:
        assert restore(found.pid, threading.Event()) == 0
        assert found.in_huge_pages() == 0


@needs_the_kernel
def test_a_host_that_merges_equal_pages_keeps_small_ones(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    merging = tmp_path / "run"
    merging.write_text("1\n", encoding="ascii")
    monkeypatch.setattr(huge_pages, "_MERGING", merging)
    with process(advice=(_MADV_HUGEPAGE, _MADV_MERGEABLE)) as found:
        if not any("mg" in region.flags for region in regions(found.pid)):
            pytest.skip("this kernel merges no equal pages")
        assert restore(found.pid, threading.Event()) == 0
        merging.write_text("0\n", encoding="ascii")
        assert restore(found.pid, threading.Event()) == _WRITTEN


@needs_the_kernel
def test_it_ends_when_it_is_told_to() -> None:
    stopped = threading.Event()
    stopped.set()
    with process() as found:
        assert restore(found.pid, stopped) == 1, "the one that was under way"
        assert found.in_huge_pages() == 1


@needs_the_kernel
def test_what_cannot_be_put_together_is_not_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def short_of_memory(_handle: int, address: int, _length: int) -> int:
        asked.append(address)
        return huge_pages.errno.ENOMEM

    monkeypatch.setattr(huge_pages, "_collapse", short_of_memory)
    with process() as found:
        assert restore(found.pid, threading.Event()) == 0
    assert len(asked) == 16


@needs_the_kernel
def test_a_process_that_may_not_be_touched_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    def refused(_handle: int, address: int, _length: int) -> int:
        asked.append(address)
        return huge_pages.errno.EPERM

    monkeypatch.setattr(huge_pages, "_collapse", refused)
    with process() as found, pytest.raises(PermissionError):
        restore(found.pid, threading.Event())
    assert len(asked) == 1


def test_a_process_that_has_ended() -> None:
    with process() as found:
        pid = found.pid
    with pytest.raises(OSError, match="No such process"):
        restore(pid, threading.Event())


@needs_the_kernel
def test_guests_are_asked_for_one_after_the_other() -> None:
    """One that is not here, and one that is: known by the command line that libvirt gives it."""
    vm_uuid = str(uuid4())
    with process("guest=some", "-uuid", vm_uuid, "-display") as found:
        asked = HugePages()
        asked.restore_soon(str(uuid4()))
        asked.restore_soon(vm_uuid)
        deadline = time.monotonic() + 30
        while found.in_huge_pages() < _WRITTEN:
            assert time.monotonic() < deadline, found.in_huge_pages()
            time.sleep(0.02)
        asked.stop()
        assert found.is_as_written()
