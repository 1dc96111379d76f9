"""The floor of a rollback with memory: a bare QEMU, with nobody's management around it.

It is started with the devices of the guest's own QEMU on an overlay of the snapshot's disk layer, told over its monitor to
take the memory from the file that the snapshot has, and let go. Where the guest's own QEMU maps that file and reads a page
when it is touched, this one does the same, and nothing is read beforehand: what is read for nothing would be no floor.
"""

from __future__ import annotations

import json
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from virsh import run
from witness_gap import ConsoleTail

from stillframe.adapters.libvirt.lazy_image import write_image
from stillframe.adapters.libvirt.save_image import find_ram

STREAM_OFFSET = 1 << 20
"""Where QEMU's own stream begins in a memory file: in front of it is libvirt's header."""
_WAIT_S = 60.0
_OF_THE_MANAGER = {"-add-fd", "-mon", "-blockdev", "-incoming", "-chardev", "-pidfile", "-qmp"}
"""Options, each with a value, that tie a QEMU to whoever started it, or name the guest's files."""
_CHARDEV_OF_SERIAL = "charserial0"


@dataclass(frozen=True)
class Paths:
    """What a bare QEMU works with."""

    disk: Path
    console: Path
    monitor: Path


def bare_command(arguments: Sequence[str], paths: Paths) -> list[str]:
    """The command line of a QEMU that waits for its memory, made of the one that libvirt gave to the guest's.

    Machine, processor, memory and devices stay as they are; the disk, the console and the monitor are those of ``paths``.

    Raises:
        RuntimeError: there is not exactly one disk in it.
    """
    kept: list[str] = []
    words = iter(arguments)
    for word in words:
        if word == "-S":
            continue
        if word in _OF_THE_MANAGER:
            next(words)
            continue
        if word == "-object" and '"qom-type":"secret"' in (value := next(words)).replace(" ", ""):
            continue
        kept += [word, value] if word == "-object" else [word]
    drives = {name for word in kept for name in re.findall(r'"drive":\s*"([^"]+)"|\bdrive=([^,]+)', word)}
    if len(drives) != 1:
        raise RuntimeError(f"a guest with one disk is wanted, not with {len(drives)}")
    (drive,) = ("".join(found) for found in drives)
    file = {"driver": "file", "filename": str(paths.disk), "cache": {"direct": True, "no-flush": False}}
    node = {"driver": "qcow2", "node-name": drive, "discard": "unmap", "cache": {"direct": True, "no-flush": False}}
    kept += ["-chardev", f"file,id={_CHARDEV_OF_SERIAL},path={paths.console},append=on"]
    kept += ["-qmp", f"unix:{paths.monitor},server=on,wait=off", "-incoming", "defer"]
    # a device looks for its drive when it is made, and options of the same kind are taken in the order of their kinds
    return [*kept, "-blockdev", json.dumps(node | {"file": file})]


def incoming(arguments: Sequence[str], memory: Path, image: Path) -> Path:
    """What a QEMU of this command line takes in: the memory file, or, where it maps that file already, ``image``.

    That one is made here, as Stillframe makes it: it holds everything but the pages that are mapped.

    Raises:
        RuntimeError: it maps another file, or one that is not the guest's memory byte for byte.
    """
    backends = [json.loads(word) for word in arguments if '"memory-backend-file"' in word]
    if not backends:
        return memory
    (backend,) = backends
    ram = find_ram(str(memory), backend["size"])
    if backend["mem-path"] != str(memory) or ram is None:
        raise RuntimeError(f"the guest lives on {backend['mem-path']}, not on {memory}")
    write_image(str(memory), str(image), ram)
    return image


def measure_floor(arguments: Sequence[str], layer: Path, memory: Path, scratch: Path) -> float:
    """Milliseconds from the start of the program to the first tick that it lets its guest say."""
    scratch.mkdir(mode=0o700)
    process: subprocess.Popen[bytes] | None = None
    try:
        paths = Paths(scratch / "overlay.qcow2", scratch / "console", scratch / "monitor")
        run(["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(layer), "-F", "qcow2", str(paths.disk)])
        paths.console.touch()
        command = bare_command(arguments, paths)
        image = incoming(arguments, memory, scratch / "image")
        with ConsoleTail(paths.console) as tail, (scratch / "said").open("wb") as said:
            begun_s = time.monotonic()
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=said, stderr=said)
            try:
                _let_go(paths.monitor, image)
            except (OSError, RuntimeError) as error:
                words = (scratch / "said").read_text(errors="replace").strip()
                raise RuntimeError(f"bare QEMU: {error}: {words}") from error
            first = tail.first(_WAIT_S)
            time.sleep(0.2)  # a disk that is not of the memory's moment is found out at the next tick
            if tail.torn:
                raise RuntimeError(f"disk and memory of the bare QEMU are of different moments: {tail.torn[0]}")
            return (first.at_s - begun_s) * 1000
    finally:
        if process is not None:
            process.kill()
            process.wait()
        shutil.rmtree(scratch, ignore_errors=True)


def _let_go(monitor: Path, image: Path) -> None:
    """All that the image holds is read before the guest goes on."""
    with _Monitor(monitor) as qmp:
        qmp.run("migrate-set-capabilities", capabilities=[{"capability": "mapped-ram", "state": True}])
        qmp.run("migrate-incoming", uri=f"file:{image},offset={STREAM_OFFSET}")
        while qmp.run("query-status")["status"] == "inmigrate":
            time.sleep(0.001)
        qmp.run("cont")


class _Monitor:
    """A monitor's socket, from the moment when it is there."""

    def __init__(self, path: Path) -> None:
        deadline = time.monotonic() + _WAIT_S
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(_WAIT_S)
        while True:
            try:
                self._socket.connect(str(path))
                break
            except OSError:
                if time.monotonic() > deadline:
                    self._socket.close()
                    raise
                time.sleep(0.001)
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._stream.readline()  # the greeting
        self.run("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self._stream.close()
        self._socket.close()

    def run(self, command: str, **arguments: Any) -> Any:
        self._stream.write(json.dumps({"execute": command, "arguments": arguments}) + "\n")
        self._stream.flush()
        while line := self._stream.readline():
            said = json.loads(line)
            if "error" in said:
                raise RuntimeError(f"{command}: {said['error']['desc']}")
            if "return" in said:
                return said["return"]
        raise RuntimeError(f"{command}: it ended")
