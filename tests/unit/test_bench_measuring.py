"""What the benchmark counts and reads off, without a guest: command lines, histograms, pages, ticks."""

from __future__ import annotations

import json
import time
from itertools import pairwise
from pathlib import Path

import pytest
from disks import boundaries, histogram_p99_ms
from floor import Paths, bare_command, incoming
from footprint import pages_with_data
from witness_gap import ConsoleTail

from stillframe.adapters.libvirt.save_image import SAVE_IMAGE_OFFSET, settle_pages
from stillframe.adapters.libvirt.save_image_stream import read_blocks
from support.streams import Stream

PATHS = Paths(Path("/s/overlay.qcow2"), Path("/s/console"), Path("/s/monitor"))
DISK = '{"driver":"virtio-blk-pci","bus":"pci.1","drive":"libvirt-2-format","id":"virtio-disk0","write-cache":"on"}'
GIVEN = [
    *("/usr/bin/qemu-system-x86_64", "-name", "guest=one,debug-threads=on", "-S"),
    *("-object", '{"qom-type":"secret","id":"masterKey0","format":"raw","file":"/run/master-key.aes"}'),
    *("-machine", "pc-q35-10.0,usb=off,memory-backend=pc.ram", "-accel", "tcg", "-m", "size=1048576k"),
    *("-object", '{"qom-type":"memory-backend-ram","id":"pc.ram","size":1073741824}'),
    *(
        "-chardev",
        "socket,id=charmonitor,fd=23,server=on,wait=off",
        "-mon",
        "chardev=charmonitor,id=monitor,mode=control",
    ),
    *("-no-shutdown", "-incoming", "defer"),
    *("-blockdev", '{"driver":"file","filename":"/old/base.qcow2","node-name":"libvirt-2-storage"}'),
    *("-blockdev", '{"node-name":"libvirt-2-format","driver":"qcow2","file":"libvirt-2-storage"}'),
    *("-device", DISK, "-add-fd", "set=0,fd=25,opaque=serial0-source"),
    *("-chardev", "file,id=charserial0,path=/dev/fdset/0,append=on"),
    *("-device", '{"driver":"isa-serial","chardev":"charserial0","id":"serial0","index":0}'),
]


def test_a_bare_qemu_has_the_guests_machine_and_its_own_files() -> None:
    command = bare_command(GIVEN, PATHS)
    for kept in ("pc-q35-10.0,usb=off,memory-backend=pc.ram", "size=1048576k", DISK, "-no-shutdown"):
        assert kept in command
    assert any('"memory-backend-ram"' in word for word in command)
    words = " ".join(command)
    for gone in ("-S ", "masterKey0", "charmonitor", "fdset", "-add-fd", "/old/base.qcow2"):
        assert gone not in words
    disk = json.loads(command[command.index("-blockdev") + 1])
    assert disk["node-name"] == "libvirt-2-format"
    assert disk["file"]["filename"] == "/s/overlay.qcow2"
    assert command[command.index("-incoming") + 1] == "defer"
    assert command.count("-incoming") == command.count("-blockdev") == command.count("-chardev") == 1
    assert command[command.index("-chardev") + 1] == "file,id=charserial0,path=/s/console,append=on"


@pytest.mark.parametrize("disks", [[], [DISK, DISK.replace("libvirt-2", "libvirt-1")]])
def test_a_bare_qemu_has_one_disk(disks: list[str]) -> None:
    given = [word for word in GIVEN if word != DISK] + [word for disk in disks for word in ("-device", disk)]
    with pytest.raises(RuntimeError, match="one disk"):
        bare_command(given, PATHS)


def test_a_bare_qemu_reads_nothing_that_it_maps(tmp_path: Path) -> None:
    memory, image = tmp_path / "memory", tmp_path / "image"
    ram = Stream().write(memory, {"pc.ram": {3: b"mapped"}, "vga.vram": {0: b"loaded"}})["pc.ram"]
    settle_pages(str(memory))
    assert incoming(GIVEN, memory, image) == memory
    backend = {"qom-type": "memory-backend-file", "id": "Pc.ram", "size": ram.used_bytes, "mem-path": str(memory)}
    mapping = [*GIVEN, "-object", json.dumps(backend), "-machine", "memory-backend=Pc.ram"]
    assert incoming(mapping, memory, image) == image
    assert json.dumps(backend) in bare_command(mapping, PATHS)
    with image.open("rb") as file:
        assert [block.name for block in read_blocks(file.fileno(), SAVE_IMAGE_OFFSET)] == ["Pc.ram", "vga.vram"]
        file.seek(ram.pages_offset)
        assert file.read(ram.used_bytes) == bytes(ram.used_bytes)
    assert b"loaded" in image.read_bytes()
    with pytest.raises(RuntimeError, match="lives on"):
        incoming([*GIVEN, "-object", json.dumps({**backend, "mem-path": "/another"})], memory, image)


def test_bins_grow_by_a_twentieth() -> None:
    bounds = boundaries()
    assert bounds == sorted(set(bounds))
    assert all(1.04 < later / earlier < 1.06 for earlier, later in pairwise(bounds))
    assert bounds[0] <= 20_000
    assert bounds[-1] > 9_000_000_000


@pytest.mark.parametrize(
    ("bins", "found_ms"),
    [([99, 1, 0, 0], 1), ([98, 1, 1, 0], 2), ([98, 0, 2, 0], 4), ([0, 0, 0, 5], 4)],
)
def test_the_slowest_hundredth_of_a_histogram(bins: list[int], found_ms: float) -> None:
    assert histogram_p99_ms([1_000_000, 2_000_000, 4_000_000], bins) == found_ms


def test_a_guest_that_has_not_written_has_no_latency() -> None:
    with pytest.raises(RuntimeError, match="not written"):
        histogram_p99_ms([1], [0, 0])


def test_pages_that_are_all_zero_are_not_counted(tmp_path: Path) -> None:
    dump = tmp_path / "dump"
    page = 4096
    dump.write_bytes(bytes(page) + b"\1" + bytes(page - 1) + bytes(page) * 2000 + bytes(page - 1) + b"\1")
    assert pages_with_data(dump) == 2


def say(console: Path, *lines: str) -> None:
    with console.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def test_the_first_tick_and_the_jump_back(tmp_path: Path) -> None:
    console = tmp_path / "console"
    console.touch()
    with ConsoleTail(console) as tail:
        say(console, "B 0a mem 1", "T 0a 7", "T 0a 8", "T 0a 9")
        assert tail.first(10).n == 7
        while tail.last().n < 9:
            time.sleep(0.001)
        before = tail.last()
        say(console, "T 0a 10", "T 0a 5", "T 0a 6")
        assert tail.await_jump_back(before).n == 5
        assert len(tail.gaps_ms(0, time.monotonic())) >= 4


def test_a_boot_is_no_jump_back(tmp_path: Path) -> None:
    console = tmp_path / "console"
    console.touch()
    with ConsoleTail(console) as tail:
        say(console, "T 0a 7")
        before = tail.first(10)
        say(console, "T 0b 1")
        with pytest.raises(RuntimeError, match="booted anew"):
            tail.await_jump_back(before)


def test_a_guest_that_says_nothing_is_not_waited_for_endlessly(tmp_path: Path) -> None:
    console = tmp_path / "console"
    console.touch()
    with ConsoleTail(console) as tail, pytest.raises(RuntimeError, match="no tick"):
        tail.first(0.01)
