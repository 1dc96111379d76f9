"""The process that a guest lives in, where it lives on this host."""

from __future__ import annotations

from pathlib import Path

_PROC = Path("/proc")


def find_qemu(vm_uuid: str) -> int | None:
    """The pid of the QEMU that libvirt started with this uuid; None when there is none that we can see."""
    words = b"\0-uuid\0" + vm_uuid.encode() + b"\0"
    for process in _PROC.glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes()
            if words in line and b"\0guest=" in line:
                return int(process.name)
        except OSError:
            continue  # it ended while we looked
    return None
