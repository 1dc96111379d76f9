"""Gives a guest the huge pages back that write tracking took from it.

A guest's memory mostly stands in transparent huge pages. While it is captured QEMU tracks and releases it page by page, and that
splits each of them for good: the guest runs slower from then on, and the next capture has to look at every small page where
it looked at one in 512. Measured at 4 GiB: QEMU's pass 16 ms over huge pages, 45 to 90 over small ones, and the protection of
its memory, for which the guest stands still, 2 and 40 ms. The kernel's own thread for it (khugepaged) takes days for that.

So it is asked for (MADV_COLLAPSE), 2 MiB after 2 MiB, behind everything, at half of a thread's time at most. The guest's memory
grows by nothing: only what stands there whole is put together, and not what was never written (the kernel's one page of zeroes
stands there). Whoever has switched huge pages off keeps them off, and whoever has the kernel merge equal pages (KSM) has chosen
the opposite.

What is not possible here is left as it is: no such call (Linux before 6.1), not allowed to, memory of files, another host's QEMU.

Sources: madvise(2), process_madvise(2), proc_pid_pagemap(5), proc_pid_smaps(5).
"""

from __future__ import annotations

import ctypes
import errno
import logging
import os
import threading
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue

from stillframe.adapters.libvirt.process import find_qemu

log = logging.getLogger(__name__)
_PROC = Path("/proc")
_KERNEL_S = Path("/sys/kernel/mm/transparent_hugepage")
_MERGING = Path("/sys/kernel/mm/ksm")
_PROCESS_MADVISE = 440  # the same number on every architecture
_MADV_COLLAPSE = 25
_PRESENT = 1 << 63
_FRAME_MASK = (1 << 55) - 1  # 0 for whoever may not know frames
_ENTRY_BYTES = 8
_REGION_BYTES = 16 << 20  # guests' memory comes in large regions; QEMU's own heaps and stacks are smaller
_FAILURES = 16  # in a row: memory is short, or in use, or being captured again: it is not insisted on
_WORKED_S = 0.002  # then as long a rest

_libc = ctypes.CDLL(None, use_errno=True)


class _Range(ctypes.Structure):
    """``struct iovec``."""

    _fields_ = (("start", ctypes.c_void_p), ("length", ctypes.c_size_t))


@dataclass
class Region:
    """A mapping of anonymous memory: addresses in the process, bytes of it in huge pages, and the kernel's flags."""

    start: int
    end: int
    huge_bytes: int = 0
    flags: frozenset[str] = field(default_factory=frozenset)


class HugePages:
    """One thread, which goes through one guest after the other."""

    def __init__(self) -> None:
        self._stopped = threading.Event()
        self._asked: SimpleQueue[str] = SimpleQueue()
        self._waiting: set[str] = set()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def restore_soon(self, vm_uuid: str) -> None:
        """The guest has just been captured. Nothing is waited for, and nothing is ever raised."""
        with self._lock:
            if vm_uuid in self._waiting:
                return
            self._waiting.add(vm_uuid)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="huge-pages", daemon=True)
                self._thread.start()
        self._asked.put(vm_uuid)

    def stop(self) -> None:
        """What is under way ends with the huge page that is being put together; the rest is not done."""
        self._stopped.set()
        self._asked.put("")  # nobody's: it wakes who waits

    def _run(self) -> None:
        while True:
            vm_uuid = self._asked.get()
            with self._lock:
                self._waiting.discard(vm_uuid)
            if self._stopped.is_set():
                return
            try:
                pid = find_qemu(vm_uuid)
                if pid is not None:
                    found = restore(pid, self._stopped)
                    log.debug("VM %s has %d of its huge pages back", vm_uuid, found)
            except OSError as error:
                # the guest has ended, or its QEMU is somebody else's: it goes on with small pages, no more
                log.info("the huge pages of VM %s are not put together again: %s", vm_uuid, error)
            except Exception:
                log.exception("the huge pages of VM %s", vm_uuid)


def restore(pid: int, stopped: threading.Event) -> int:
    """Put a process's memory back into huge pages; how many were put together, those included that were whole already.

    Raises:
        OSError: the process has ended, or is not ours to touch.
    """
    policy, huge = _policy(), _huge_bytes()
    unwanted = {"nh", "mg"} if _merges() else {"nh"}  # QEMU allows merging wherever it is not told otherwise
    if policy == "never" or not huge:
        return 0
    handle = os.pidfd_open(pid)
    try:
        done = in_a_row = 0
        begun_s = time.monotonic()
        for region in regions(pid):
            if region.flags & unwanted or (policy != "always" and "hg" not in region.flags):
                continue
            for address in _stretches(pid, region, huge):
                if address is not None:
                    problem = _collapse(handle, address, huge)
                    if problem in (errno.EPERM, errno.ENOSYS, errno.ESRCH):
                        raise OSError(problem, os.strerror(problem))
                    done, in_a_row = (done, in_a_row + 1) if problem else (done + 1, 0)
                if stopped.is_set() or in_a_row >= _FAILURES:
                    return done
                if (worked_s := time.monotonic() - begun_s) >= _WORKED_S:
                    time.sleep(worked_s)
                    begun_s = time.monotonic()
        return done
    finally:
        os.close(handle)


def regions(pid: int) -> list[Region]:
    """The large mappings of anonymous memory.

    Raises:
        OSError: there is no such process, or it is not ours to look at.
    """
    found: list[Region] = []
    current: Region | None = None
    for line in (_PROC / str(pid) / "smaps").read_text(encoding="ascii", errors="replace").split("\n")[:-1]:
        words = line.split()
        if not words[0].endswith(":"):
            start, end = (int(text, 16) for text in words[0].split("-"))
            _addresses, _rights, _offset, _device, inode, *name = words
            anonymous = inode == "0" and not name  # [heap] and [stack] have one
            current = Region(start, end) if anonymous and end - start >= _REGION_BYTES else None
            if current:
                found.append(current)
        elif current and words[0] == "AnonHugePages:":
            current.huge_bytes = int(words[1]) << 10
        elif current and words[0] == "VmFlags:":
            current.flags = frozenset(words[1:])
    return found


def _stretches(pid: int, region: Region, huge: int) -> Iterator[int | None]:
    """Of each stretch its address, where every small page is there and none of them is there twice; else None.

    Raises:
        PermissionError: which frames they are in may not be known here.
    """
    small = os.sysconf("SC_PAGE_SIZE")
    first = -(-region.start // huge) * huge
    with (_PROC / str(pid) / "pagemap").open("rb", buffering=0) as pagemap:
        for address in range(first, region.end - huge + 1, huge):
            pagemap.seek(address // small * _ENTRY_BYTES)
            entries = memoryview(pagemap.read(huge // small * _ENTRY_BYTES)).cast("Q")
            frames = {entry & _FRAME_MASK for entry in entries if entry & _PRESENT}
            if frames == {0}:
                raise PermissionError(errno.EPERM, "the frames of its pages are not told (CAP_SYS_ADMIN)")
            yield address if len(frames) == huge // small else None


def _collapse(handle: int, address: int, length: int) -> int:
    """0, or the number of what went wrong."""
    stretch = _Range(address, length)
    done = _libc.syscall(_PROCESS_MADVISE, handle, ctypes.byref(stretch), ctypes.c_ulong(1), _MADV_COLLAPSE, 0)
    return 0 if done >= 0 else ctypes.get_errno()


def _policy() -> str:
    """``always``, ``madvise`` or ``never``; ``never`` where the kernel has none of it."""
    of_size = _chosen(_KERNEL_S / f"hugepages-{_huge_bytes() >> 10}kB" / "enabled")  # from Linux 6.8 on
    return _chosen(_KERNEL_S / "enabled") or "never" if of_size in ("", "inherit") else of_size


def _chosen(policy: Path) -> str:
    with suppress(OSError):
        words = policy.read_text(encoding="ascii").split()
        return next((word.strip("[]") for word in words if word.startswith("[")), "")
    return ""


def _merges() -> bool:
    """Now, or it has: what was merged stays so when it is switched off."""
    with suppress(OSError, ValueError):
        return any(int((_MERGING / name).read_text(encoding="ascii")) for name in ("run", "pages_shared"))
    return False


def _huge_bytes() -> int:
    with suppress(OSError, ValueError):
        return int((_KERNEL_S / "hpage_pmd_size").read_text(encoding="ascii"))
    return 0
