"""Whether a QEMU owes libvirt an answer, as libvirt itself knows it: asking that asks no QEMU.

libvirt lets one job at a time into a VM, and a QEMU that stands still keeps the job of whoever asked it first. Everything
that needs a job then waits in libvirt: ``virDomainGetXMLDesc`` too, half a minute long, and each one that waits takes one of
the twenty threads that a daemon has for all of its clients. So nothing that needs the VM's job is sent while the QEMU owes
an answer; it is waited for here, where giving up is possible.

What needs no job, and is answered at once whatever the QEMU does: the list of domains, ``virDomainGetState``,
``virDomainGetControlInfo``, and the metadata that libvirt holds in memory (measured on libvirt 11.3).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import libvirt

_POLL_S = 0.02


def owed_s(domain: Any) -> float | None:
    """For how many seconds the domain's QEMU has owed libvirt an answer; None when it owes none, or there is no QEMU.

    Raises:
        libvirt.libvirtError: among others there is no such domain.
    """
    if not domain.isActive():
        return None
    try:
        state, _details, for_ms = domain.controlInfo()
    except libvirt.libvirtError:
        if domain.isActive():
            raise
        return None  # it has just been shut off
    return for_ms / 1000 if state == libvirt.VIR_DOMAIN_CONTROL_OCCUPIED else None


class Patience:
    """For how long QEMUs are waited for, all of one call together; one that has owed an answer for as long already is not."""

    def __init__(self, limit_s: float = float("inf")) -> None:
        self._limit_s = limit_s
        self._until = time.monotonic() + limit_s

    def is_over(self, owed: float) -> bool:
        """With a QEMU that has owed its answer for so many seconds."""
        return owed > self._limit_s or time.monotonic() > self._until


def await_answered(domain: Any, check_wanted: Callable[[], None], patience: Patience) -> float | None:
    """Return when the QEMU owes libvirt nothing, with None; or, when the patience is over, for how long it has.

    Raises:
        libvirt.libvirtError: see ``owed_s``.
        StillframeError: from ``check_wanted``, which is asked again and again.
    """
    while (owed := owed_s(domain)) is not None:
        if patience.is_over(owed):
            return owed
        check_wanted()
        time.sleep(_POLL_S)
    return None
