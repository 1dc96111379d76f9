"""Waiting until a libvirt that has just come up knows how its virtual machines are.

It answers before it has asked the QEMUs that were running all along. Until then it tells what it last wrote down: that a
guest runs which is paused, for one. Whoever believed it would leave a guest standing.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import libvirt

_POLL_S = 0.02
# libvirt holds the VM's job while it asks. One that is older is another's: a save or a migration takes minutes
_LIMIT_S = 20.0


def await_reconnected(conn: Any, vm_uuid: str, check_wanted: Callable[[], None]) -> bool:
    """Return when libvirt has nothing under way with this VM; false when that takes longer than finding it again does.

    It asks no QEMU: one that hangs is not waited for longer than that.

    Raises:
        libvirt.libvirtError: among others there is no such VM.
        StillframeError: from ``check_wanted``, which is asked again and again.
    """
    domain = conn.lookupByUUIDString(vm_uuid)
    until = time.monotonic() + _LIMIT_S
    while domain.isActive():
        try:
            state, _details, for_ms = domain.controlInfo()
        except libvirt.libvirtError:
            if domain.isActive():
                raise
            break
        if state in (libvirt.VIR_DOMAIN_CONTROL_OK, libvirt.VIR_DOMAIN_CONTROL_ERROR):
            break
        if time.monotonic() > until or for_ms > _LIMIT_S * 1000:
            return False
        check_wanted()
        time.sleep(_POLL_S)
    return True
