"""What a memory state occupies, against what the guest's memory holds, counted without its help."""

from __future__ import annotations

from pathlib import Path

from ground import Ground
from peers import Stillframe, remove_guest

_PAGE_BYTES = 4096
_READ_BYTES = 4 << 20
_MIB = 1 << 20


def measure(ground: Ground) -> None:
    """QEMU writes out all of the standing guest's memory for the count; then the guest goes on, and the snapshot is taken at once.

    What the guest changes in between are pages that it had filled before.
    """
    guest = ground.scale.base_guest
    vm = ground.service.guest(
        "bench-footprint", memory_mib=guest.memory_mib, fill_mib=guest.fill_mib, dirty_pages=guest.dirty_pages
    )
    peer = Stillframe()
    peer.prepare(vm)
    ground.scratch.mkdir(mode=0o711)
    dump = ground.scratch / "memory"
    try:
        ground.virsh("suspend", vm.uuid)
        # all of it lies in one piece from 0 on, as long as it is no more than 2 GiB
        ground.virsh.monitor(vm.uuid, "pmemsave", val=0, size=guest.memory_mib * _MIB, filename=str(dump))
        ground.virsh("resume", vm.uuid)
        taken = peer.snapshot_memory("memory")
        ground.note("footprint.pages", pages_with_data(dump) * _PAGE_BYTES / _MIB, "MiB")
        ground.note("footprint.disk", taken.stored_bytes / _MIB, "MiB")
    finally:
        dump.unlink(missing_ok=True)
        ground.scratch.rmdir()
        remove_guest(ground.service, vm, peer)


def pages_with_data(dump: Path) -> int:
    """How many of a file's pages are not all zero."""
    zeros = bytes(_PAGE_BYTES)
    count = 0
    with dump.open("rb") as file:
        while data := file.read(_READ_BYTES):
            count += sum(
                data[at : at + _PAGE_BYTES] != zeros[: len(data) - at] for at in range(0, len(data), _PAGE_BYTES)
            )
    return count
