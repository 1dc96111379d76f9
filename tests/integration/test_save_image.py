"""A real QEMU writes a background snapshot; after the repair another one loads it, byte for byte the same memory."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from stillframe.adapters.libvirt.save_image import (
    SAVE_IMAGE_OFFSET,
    find_ram,
    read_header_xml,
    settle_pages,
    write_header,
)
from stillframe.adapters.libvirt.save_image_stream import RamBlock, read_blocks

QEMU = "qemu-system-x86_64"
MEMORY_BYTES = 64 << 20
TIMEOUT_S = 20.0


class Qemu:
    """A bare QEMU and its monitor."""

    def __init__(self, directory: Path, name: str, *arguments: str) -> None:
        self._socket_path = directory / f"{name}.sock"
        command = [QEMU, "-machine", "q35", "-m", "64", "-accel", "tcg", "-nodefaults", "-display", "none"]
        monitor = ["-qmp", f"unix:{self._socket_path},server=on,wait=off"]
        self._process = subprocess.Popen([*command, "-vga", "std", *monitor, *arguments])
        try:
            self._socket = self._connect()
            self._stream = self._socket.makefile("rwb")
            self._stream.readline()  # the greeting
            self.run("qmp_capabilities")
        except BaseException:
            self.close()
            raise

    def _connect(self) -> socket.socket:
        deadline = time.monotonic() + TIMEOUT_S
        while True:
            connection = socket.socket(socket.AF_UNIX)
            try:
                connection.connect(str(self._socket_path))
                return connection
            except OSError:
                connection.close()
                if time.monotonic() > deadline or self._process.poll() is not None:
                    raise
                time.sleep(0.02)

    def run(self, command: str, **arguments: Any) -> Any:
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}).encode() + b"\n")
        self._stream.flush()
        while True:
            answer = json.loads(self._stream.readline())
            assert "error" not in answer, f"{command}: {answer['error']}"
            if "return" in answer:
                return answer["return"]

    def set_capabilities(self, *names: str) -> None:
        self.run("migrate-set-capabilities", capabilities=[{"capability": name, "state": True} for name in names])

    def await_status(self, query: str, *wanted: str) -> dict[str, Any]:
        deadline = time.monotonic() + TIMEOUT_S
        while (found := self.run(query)).get("status") not in wanted:
            assert time.monotonic() < deadline, found
            assert found.get("status") != "failed", found
            time.sleep(0.02)
        return dict(found)

    def memory(self, path: Path) -> bytes:
        """The guest's RAM, from address 0 on."""
        self.run("pmemsave", val=0, size=MEMORY_BYTES, filename=str(path))
        return path.read_bytes()

    def close(self) -> None:
        with contextlib.suppress(AttributeError, OSError):
            self._stream.close()
            self._socket.close()
        self._process.kill()
        self._process.wait(TIMEOUT_S)


@contextlib.contextmanager
def _qemu(directory: Path, name: str, *arguments: str) -> Iterator[Qemu]:
    qemu = Qemu(directory, name, *arguments)
    try:
        yield qemu
    finally:
        qemu.close()


def _capture(directory: Path, path: Path, *capabilities: str) -> bytes:
    """Saves a guest's memory to the file; the guest stands still, so that its memory can be compared."""
    path.touch()
    with _qemu(directory, "source") as qemu:
        time.sleep(0.5)  # the firmware runs and fills some memory
        qemu.run("stop")
        qemu.set_capabilities(*capabilities)
        qemu.run("migrate-set-parameters", **{"max-bandwidth": 100 << 30})
        memory = qemu.memory(directory / "before")
        qemu.run("migrate", uri=f"file:{path},offset={SAVE_IMAGE_OFFSET}")
        qemu.await_status("query-migrate", "completed")
    return memory


def _load(directory: Path, path: Path) -> bytes:
    """Loads the file into another QEMU and answers its memory."""
    with _qemu(directory, "target", "-incoming", "defer", "-S") as qemu:
        qemu.set_capabilities("mapped-ram")
        qemu.run("migrate-incoming", uri=f"file:{path},offset={SAVE_IMAGE_OFFSET}")
        qemu.await_status("query-migrate", "completed")
        memory = qemu.memory(directory / "after")
        qemu.run("cont")
        qemu.await_status("query-status", "running")
    return memory


def _blocks(path: Path) -> tuple[RamBlock, ...]:
    fd = os.open(path, os.O_RDONLY)
    try:
        return read_blocks(fd, SAVE_IMAGE_OFFSET)
    finally:
        os.close(fd)


def _bitmaps(path: Path) -> dict[str, bytes]:
    raw = path.read_bytes()
    return {block.name: raw[block.bitmap_offset :][: block.bitmap_bytes] for block in _blocks(path)}


def test_a_background_snapshot_is_loaded_after_the_repair(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    before = _capture(tmp_path, path, "background-snapshot", "mapped-ram")
    assert any(before)
    assert not any(any(bitmap) for bitmap in _bitmaps(path).values()), "QEMU writes bitmaps now: the repair can go"
    settle_pages(str(path))
    write_header(str(path), "<domain/>")
    repaired = _bitmaps(path)
    assert any(repaired["pc.ram"])
    assert _load(tmp_path, path) == before
    settle_pages(str(path))
    assert _bitmaps(path) == repaired
    assert read_header_xml(str(path)) == "<domain/>"


def test_of_an_ordinary_mapped_ram_file_the_bitmaps_stay_and_every_page_is_the_guest_s(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    before = _capture(tmp_path, path, "mapped-ram")
    written = _bitmaps(path)
    settle_pages(str(path))
    assert _bitmaps(path) == written
    ram = find_ram(str(path), MEMORY_BYTES)
    assert ram is not None
    assert _load(tmp_path, path) == before


def test_the_blocks_of_a_real_stream_are_the_guests(tmp_path: Path) -> None:
    path = tmp_path / "memory"
    _capture(tmp_path, path, "background-snapshot", "mapped-ram")
    blocks = {block.name: block for block in _blocks(path)}
    assert blocks["pc.ram"].used_bytes == MEMORY_BYTES
    assert {block.page_bytes for block in blocks.values()} == {4096}
    assert {block.pages_offset % (1 << 20) for block in blocks.values()} == {0}
