"""Memory is put together into huge pages again, and grows by nothing: on real processes, with the kernel's real pages."""

from __future__ import annotations

import errno
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
for lost in LOST:
    assert libc.madvise(ctypes.c_void_p(start + first + lost), ctypes.c_size_t(4096), 4) == 0
for page in range(first, half, {_HUGE}):
    for rights in (1, 3):
        assert libc.mprotect(ctypes.c_void_p(start + page), ctypes.c_size_t(4096), rights) == 0
print(first, flush=True)
sys.stdin.readline()
expected = lambda page: 0 if page - first in LOST else page // 4096 % 251 + 1
print(all(memory[page] == expected(page) for page in range(first, half, 4096)), flush=True)
"""
_MADV_MERGEABLE, _MADV_HUGEPAGE, _MADV_NOHUGEPAGE = 12, 14, 15

needs_the_kernel = pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists() or huge_pages._policy() == "never",
    reason="this kernel gives no huge pages to anybody",
)


def open_files() -> set[str]:
    return {path.name for path in Path("/proc/self/fd").iterdir()}


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
def process(
    *arguments: str, advice: tuple[int, ...] = (_MADV_HUGEPAGE,), lost: tuple[int, ...] = ()
) -> Iterator[Process]:
    """``lost``: where in the written half small pages were given back to the kernel."""
    program = GUEST.replace("ADVICE", str(advice)).replace("LOST", str(lost))
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
def test_a_stretch_with_a_gap_is_not_filled() -> None:
    """One page of the first was never written, or was given back, and all but one of the second."""
    gaps = (7 * 4096, *range(_HUGE, 2 * _HUGE - 4096, 4096))
    with process(lost=gaps) as found:
        before_kib = found.resident_kib()
        assert restore(found.pid, threading.Event()) == _WRITTEN - 2
        assert found.in_huge_pages() == _WRITTEN - 2
        assert abs(found.resident_kib() - before_kib) < 1024
        assert found.is_as_written()


@needs_the_kernel
def test_it_rests_as_long_as_it_works(monkeypatch: pytest.MonkeyPatch) -> None:
    rests: list[float] = []
    monkeypatch.setattr(huge_pages.time, "sleep", rests.append)
    begun_s = time.monotonic()
    with process() as found:
        begun_s = time.monotonic()
        assert restore(found.pid, threading.Event()) == _WRITTEN
        worked_s = time.monotonic() - begun_s
    assert rests
    assert all(rest >= huge_pages._WORKED_S for rest in rests)
    assert 0 < sum(rests) <= worked_s


@needs_the_kernel
def test_nothing_stays_open() -> None:
    before = open_files()
    with process() as found:
        assert restore(found.pid, threading.Event()) == _WRITTEN
    assert open_files() <= before


def test_who_may_not_know_frames_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huge_pages, "_FRAME_MASK", 0)
    with process() as found, pytest.raises(PermissionError, match="CAP_SYS_ADMIN"):
        restore(found.pid, threading.Event())


@needs_the_kernel
def test_memory_that_is_to_have_no_huge_pages_gets_none() -> None:
    with process(advice=(_MADV_NOHUGEPAGE,)) as found:
        assert restore(found.pid, threading.Event()) == 0
        assert found.in_huge_pages() == 0


@needs_the_kernel
@pytest.mark.parametrize(
    ("of_all", "of_size", "on"),
    [
        ("always madvise [never]\n", "", False),
        ("always [madvise] never\n", "always inherit madvise [never]\n", False),
        ("always madvise [never]\n", "always [inherit] madvise never\n", False),
        ("always [madvise] never\n", "always [inherit] madvise never\n", True),
        ("always madvise [never]\n", "[always] inherit madvise never\n", True),
    ],
)
def test_who_has_switched_them_off_keeps_them_off(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, of_all: str, of_size: str, *, on: bool
) -> None:
    (tmp_path / "hpage_pmd_size").write_text(f"{_HUGE}\n", encoding="ascii")
    monkeypatch.setattr(huge_pages, "_KERNEL_S", tmp_path)
    (tmp_path / "enabled").write_text(of_all, encoding="ascii")
    if of_size:
        (tmp_path / "hugepages-2048kB").mkdir()
        (tmp_path / "hugepages-2048kB" / "enabled").write_text(of_size, encoding="ascii")
    with process() as found:
        assert restore(found.pid, threading.Event()) == (_WRITTEN if on else 0)
        assert found.in_huge_pages() == (_WRITTEN if on else 0)


@needs_the_kernel
@pytest.mark.parametrize(("run", "pages_shared"), [(1, 0), (1, 10), (0, 10)])
def test_a_host_that_merges_equal_pages_keeps_small_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, run: int, pages_shared: int
) -> None:
    (tmp_path / "run").write_text(f"{run}\n", encoding="ascii")
    (tmp_path / "pages_shared").write_text(f"{pages_shared}\n", encoding="ascii")
    monkeypatch.setattr(huge_pages, "_MERGING", tmp_path)
    with process(advice=(_MADV_HUGEPAGE, _MADV_MERGEABLE)) as found:
        if not any("mg" in region.flags for region in regions(found.pid)):
            pytest.skip("this kernel merges no equal pages")
        assert restore(found.pid, threading.Event()) == 0
        for name in ("run", "pages_shared"):
            (tmp_path / name).write_text("0\n", encoding="ascii")
        assert restore(found.pid, threading.Event()) == _WRITTEN


@needs_the_kernel
def test_it_ends_when_it_is_told_to() -> None:
    stopped = threading.Event()
    stopped.set()
    with process() as found:
        assert restore(found.pid, stopped) == 1, "the one that was under way"
        assert found.in_huge_pages() == 1


class Refusing:
    """The kernel's answer to every request, and where it was asked; ways to be refused that no test can bring about."""

    def __init__(self, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.asked: list[int] = []
        self._number = number
        monkeypatch.setattr(huge_pages, "_collapse", self)

    def __call__(self, _handle: int, address: int, _length: int) -> int:
        self.asked.append(address)
        return self._number


@needs_the_kernel
def test_what_cannot_be_put_together_is_not_insisted_on(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Refusing(errno.ENOMEM, monkeypatch)
    with process() as found:
        assert restore(found.pid, threading.Event()) == 0
    assert len(kernel.asked) == 16


@needs_the_kernel
def test_a_process_that_may_not_be_touched_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kernel = Refusing(errno.EPERM, monkeypatch)
    with process() as found, pytest.raises(PermissionError):
        restore(found.pid, threading.Event())
    assert len(kernel.asked) == 1


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
        assert found.is_as_written()
    asked.stop()
    thread = asked._thread
    assert thread is not None
    thread.join(timeout=30)
    assert not thread.is_alive(), "it waits for nobody any more"
