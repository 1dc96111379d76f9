"""Reaps dead QEMU processes where nobody else does, so that ``destroy`` need not wait for a zombie.

QEMU daemonises. Where process 1 is no real init its zombie lingers for seconds and libvirt waits for it. With the
embedded driver this process becomes their subreaper and waits for exactly those children.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_PR_SET_CHILD_SUBREAPER = 36
_IDLE_S = 1.0
_HURRIED_S = 0.002


class QemuReaper:
    """A daemon thread that waits for orphaned QEMU processes of this process; idle most of the time."""

    def __init__(self) -> None:
        self._hurry = 0
        self._lock = threading.Lock()
        self._wake = threading.Event()

    def start(self) -> None:
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        threading.Thread(target=self._run, name="qemu-reaper", daemon=True).start()

    @contextmanager
    def hurried(self) -> Iterator[None]:
        """Look every two milliseconds: around calls that wait for a QEMU to be gone."""
        with self._lock:
            self._hurry += 1
        self._wake.set()
        try:
            yield
        finally:
            with self._lock:
                self._hurry -= 1

    def _run(self) -> None:
        while True:
            self._wake.wait(_HURRIED_S if self._hurry else _IDLE_S)
            self._wake.clear()
            for pid in _orphaned_qemu_zombies():
                try:
                    os.waitpid(pid, os.WNOHANG)
                except ChildProcessError:
                    continue  # somebody waited for it first, which is what we want


def _orphaned_qemu_zombies() -> Iterator[int]:
    own_session = os.getsid(0)
    for task in Path("/proc/self/task").iterdir():
        try:
            pids = (task / "children").read_text(encoding="ascii").split()
        except OSError:
            continue  # the thread ended while we looked
        for pid in pids:
            try:
                stat = Path("/proc", pid, "stat").read_text(encoding="ascii", errors="replace")
            except OSError:
                continue  # gone meanwhile
            name, _, rest = stat.rpartition(")")
            fields = rest.split()
            # a QEMU that libvirt itself waits for (capability probing) is still in our session
            if fields[0] == "Z" and "(qemu-system" in name and int(fields[3]) != own_session:
                yield int(pid)
