"""Ends a QEMU so that libvirt's ``destroy`` finds it gone, and does not wait for it.

libvirt 11.3 asks the process to end (SIGTERM) and looks after 200 ms for the first time whether it has; QEMU is gone after a
tenth of that. A process that is gone already, and waited for by its parent, costs nothing. But when libvirt sees the monitor
break it goes that way by itself, mostly before the parent has waited: so the monitor is kept from breaking, by a second
descriptor of QEMU's end, until ``destroy`` has returned. Whatever is not possible here is left to libvirt.

Sources: libvirt's src/util/virprocess.c (virProcessKillPainfully); pidfd_open(2), pidfd_getfd(2).
"""

from __future__ import annotations

import ctypes
import logging
import os
import select
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from stillframe.adapters.libvirt.process import find_qemu

log = logging.getLogger(__name__)
_PROC = Path("/proc")
_PIDFD_GETFD = 438  # the same number on every architecture
_ENDS_IN_S = 1.0  # most it is waited for here; libvirt waits on
_REAPED_IN_S = 0.1
_LOOK_EVERY_S = 0.001

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def ended(vm_uuid: str) -> Iterator[None]:
    """Inside, the QEMU of this VM is gone, and libvirt has not noticed; where that cannot be had, it runs as before.

    It is asked to end as libvirt asks: it closes its disks in order.
    """
    with ExitStack() as held:
        pid = find_qemu(vm_uuid)
        if pid is not None:
            try:
                _end(pid, held)
            except OSError as error:
                log.debug("the QEMU of VM %s is libvirt's to end: %s", vm_uuid, error)
        yield


def _end(pid: int, held: ExitStack) -> None:
    handle = os.pidfd_open(pid)
    held.callback(os.close, handle)
    connections = list(_connections(pid, handle, held))
    if not connections:
        return
    signal.pidfd_send_signal(handle, signal.SIGTERM)
    select.select([handle], [], [], _ENDS_IN_S)
    give_up_at = time.monotonic() + _REAPED_IN_S
    while _PROC.joinpath(str(pid)).exists() and time.monotonic() < give_up_at:
        time.sleep(_LOOK_EVERY_S)


def _connections(pid: int, handle: int, held: ExitStack) -> Iterator[int]:
    """Our own descriptors of its connected local sockets; the monitor is among them."""
    for entry in (_PROC / str(pid) / "fd").iterdir():
        if not str(entry.readlink()).startswith("socket:"):
            continue
        descriptor = _libc.syscall(_PIDFD_GETFD, handle, int(entry.name), 0)
        if descriptor < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        found = held.enter_context(socket.socket(fileno=descriptor))
        if found.family == socket.AF_UNIX and _is_connected(found):
            yield descriptor


def _is_connected(found: socket.socket) -> bool:
    try:
        found.getpeername()
    except OSError:
        return False
    return True
