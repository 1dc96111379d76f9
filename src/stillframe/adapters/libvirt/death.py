"""A QEMU that ends while it is spoken to: killed, crashed, or its guest has powered off."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import libvirt

from stillframe.adapters.libvirt.inventory import wait_until
from stillframe.adapters.libvirt.qmp import QmpError
from stillframe.domain.errors import StillframeError

_DEATH_NOTICE_S = 5.0


def unless_it_dies(domain: Any, act: Callable[[], None]) -> None:
    """Do what concerns a running QEMU alone; one that is gone, or goes meanwhile, needs it no more."""
    if not domain.isActive():
        return
    try:
        act()
    except (libvirt.libvirtError, QmpError, StillframeError):
        if not has_died(domain):
            raise


def has_died(domain: Any) -> bool:
    """After an error: QEMU is gone. The monitor breaks a moment before libvirt has noticed."""
    return wait_until(lambda: not domain.isActive(), _DEATH_NOTICE_S)
