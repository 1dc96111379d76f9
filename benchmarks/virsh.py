"""``virsh`` and other programs, run and timed; and virtual machines with a disk of their own, defined with it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

from support.offline import domain_xml, file_disk, image, lot
from support.service import Service, Vm

WITNESS_TICK_US = 5000


class Virsh:
    """``virsh`` on one libvirtd; a call answers how long it took, its own start included."""

    def __init__(self, uri: str) -> None:
        self.uri = uri

    def __call__(self, *arguments: str) -> float:
        begun_s = time.monotonic()
        self.output(*arguments)
        return time.monotonic() - begun_s

    def output(self, *arguments: str) -> str:
        return run(["virsh", "-q", "-c", self.uri, *arguments])

    def monitor(self, uuid: str, command: str, **arguments: Any) -> Any:
        """What QEMU's monitor returns; underscores in names of arguments are hyphens."""
        asked = {"execute": command, "arguments": {key.replace("_", "-"): value for key, value in arguments.items()}}
        said = json.loads(self.output("qemu-monitor-command", uuid, json.dumps(asked)))
        if "error" in said:
            raise RuntimeError(f"{command}: {said['error']}")
        return said["return"]


def define_machine(service: Service, uri: str, name: str, size: str = "1M") -> Vm:
    """A machine that is shut off, with one empty disk of this size; started, it is the witness and ticks every 5 ms."""
    one = lot(service, name)
    disk = image(one.directory / "disk.qcow2", size=size)
    with NamedTemporaryFile("w", suffix=".xml") as file:
        file.write(domain_xml(one, [file_disk(disk, "vda")], memory_mib=256, kernel=f"tick_us={WITNESS_TICK_US}"))
        file.flush()
        Virsh(uri)("define", file.name)
    return one.vm(service)


def fill(disk: str | Path, mib: int, at_mib: int = 0) -> None:
    """Write so much real data to an image that nobody has open, past the page cache as a guest would, durably."""
    acts = [f"write -q -P 0x5a {at_mib + done}M {min(1024, mib - done)}M" for done in range(0, mib, 1024)]
    commands = [word for act in [*acts, "flush"] for word in ("-c", act)]
    run(["qemu-io", "-f", "qcow2", "-t", "none", *commands, str(disk)])


def run(command: list[str]) -> str:
    """Standard output of a program that succeeded.

    Raises:
        RuntimeError: it failed; its words are in the message.
    """
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}: {done.stderr.strip()}")
    return done.stdout
