"""What a memory state occupies, against what the guest's memory holds, counted without its help."""

from __future__ import annotations

from pathlib import Path

import pytest
from ground import Ground
from peers import Stillframe, remove_guest

from support.loop_mount import mounted, used_bytes
from support.service import Service

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


def measure_compressed(ground: Ground) -> None:
    """A guest like it, on a service of its own whose memory states lie on a btrfs: what that has given away for one, by its own count.

    The driver is inside that service: the common libvirtd does not see what is mounted after its start.
    """
    guest = ground.scale.base_guest
    service = Service(compress_memory="true")
    try:
        with mounted("btrfs", service.state / "memory", service.state / "btrfs", 2 * guest.memory_mib * _MIB) as place:
            place.chmod(0o700)
            service.start()
            vm = service.guest(
                "bench-zstd", memory_mib=guest.memory_mib, fill_mib=guest.fill_mib, dirty_pages=guest.dirty_pages
            )
            vm.await_ticks(20)
            before = used_bytes(place)
            vm.create("memory", memory=True)
            vm.await_memory("memory")
            ground.note("footprint.zstd", (used_bytes(place) - before) / _MIB, "MiB")
            vm.shutoff()
            service.stop()
    except pytest.skip.Exception as missing:
        raise RuntimeError(f"no btrfs to be had: {missing}") from missing
    finally:
        service.destroy()


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
