"""Domains on an embedded libvirt whose service does not run: defined and renamed from a short-lived process.

The embedded driver has one owner at a time, so these functions need the service stopped.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape, quoteattr

from support.service import Service, Vm

_PROGRAM = """
import json, sys
from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.inventory import LibvirtInventory
connection = Connection(sys.argv[1], call_timeout_s=120)
connection.open()
acts = json.load(sys.stdin)
def act(conn):
    for what, *words in acts:
        if what == "define":
            conn.defineXML(words[0])
        elif what == "rename":
            conn.lookupByUUIDString(words[0]).rename(words[1], 0)
        elif what == "undefine":
            conn.lookupByUUIDString(words[0]).undefine()
connection.call("prepare domains", act)
for what, *words in acts:
    if what == "assign":
        LibvirtInventory(connection).assign(words[0], words[1], "", "")
connection.close()
"""
_GUEST_IMAGE = Path(sys.prefix) / "share" / "stillframe" / "guest"

# Four times slower than the witness's own: an idle guest under emulation costs a fifth of a core at 5 ms, and what
# happened within one tick is no less visible. Tests that look for the shortest moments say otherwise.
TICK_US = 40_000
# Without no_timer_check a guest panics at boot when the clock of its emulator does not get its turn for a tenth of a second.
KERNEL = "console=ttyS0 quiet no_timer_check"


def offline(service: Service, *acts: Sequence[str]) -> None:
    """Do these on the embedded driver: ("define", xml), ("rename", uuid, name), ("undefine", uuid),
    ("assign", uuid, tenant).
    """
    command = [sys.executable, "-c", _PROGRAM, service.connect]
    done = subprocess.run(command, input=json.dumps(acts), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def definition(service: Service, name: str) -> str:
    """A domain's saved definition, as libvirt keeps it."""
    return (service.state / "libvirt" / "etc" / "qemu" / f"{name}.xml").read_text()


_EMPTY: dict[str, bytes] = {}


def image(path: Path, *, size: str = "64M", image_format: str = "qcow2", backing: Path | None = None) -> Path:
    """A new empty image. One qcow2 of a size is like the other: only the first is made, the others are copied."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if backing is None and image_format == "qcow2" and size in _EMPTY:
        path.write_bytes(_EMPTY[size])
        return path
    over = ["-b", str(backing), "-F", "qcow2"] if backing else []
    command = ["qemu-img", "create", "-q", "-f", image_format, *over, str(path), *([] if backing else [size])]
    subprocess.run(command, check=True)
    if backing is None and image_format == "qcow2":
        _EMPTY[size] = path.read_bytes()
    return path


def write(path: str | Path, pattern: int, offset: str = "0", length: str = "1M", image_format: str = "qcow2") -> None:
    """Fill a range of an image that nobody has open."""
    act = f"write -P {pattern} {offset} {length}"
    subprocess.run(["qemu-io", "-f", image_format, "-c", act, str(path)], check=True, capture_output=True)


def outweigh(path: str | Path, other: str | Path) -> None:
    """The file occupies a little more than the other one. Its size and contents stay, and a QEMU may write to it meanwhile."""
    more = (Path(other).stat().st_blocks - Path(path).stat().st_blocks) * 512 + (64 << 10)
    if more > 0:
        # behind what it has already, which is none of its own
        behind = str(max(Path(path).stat().st_size, Path(path).stat().st_blocks * 512))
        subprocess.run(["fallocate", "-n", "-o", behind, "-l", str(more), str(path)], check=True)


def unburden(path: str | Path) -> None:
    """Takes back what ``outweigh`` gave to a file to which nobody writes."""
    os.truncate(path, Path(path).stat().st_size)


def file_disk(path: Path, target: str, image_format: str = "qcow2", inner: str = "") -> str:
    """A <disk> on an image file."""
    return (
        f"<disk type='file' device='disk'><driver name='qemu' type='{image_format}' cache='none'/>"
        f"<source file={quoteattr(str(path))}/><target dev='{target}' bus='virtio'/>{inner}</disk>"
    )


@dataclass(frozen=True)
class Lot:
    """A shut-off VM of a service that does not run yet. It can boot the witness, like every other guest."""

    name: str
    uuid: str
    directory: Path

    @property
    def disks(self) -> tuple[Path, ...]:
        return tuple(sorted(self.directory.glob("disk-*")))

    def vm(self, service: Service) -> Vm:
        return Vm(service, self.uuid, self.name, self.directory / "console.log")


def lot(service: Service, name: str) -> Lot:
    """A name, a uuid and an empty directory for its files."""
    directory = service.state / "lot" / name
    directory.mkdir(parents=True)
    (directory / "console.log").touch()
    return Lot(name, str(uuid.uuid4()), directory)


def domain_xml(
    one: Lot,
    disks: Sequence[str],
    *,
    memory_mib: int = 128,
    fill_mib: int = 16,
    dirty_pages: int = 20,
    monitor: str = "",
    kernel: str = "",
    balloon: str = "model='none'",
) -> str:
    """A definition of the witness guest; ``monitor``: the path of a QMP socket beside libvirt's own.

    ``kernel``: more words for its command line, the last of which counts (``tick_us=5000``). ``balloon``: attributes.
    """
    beside = ""
    if monitor:
        words = "".join(f"<qemu:arg value='{word}'/>" for word in ("-qmp", f"unix:{monitor},server=on,wait=off"))
        beside = f"<qemu:commandline>{words}</qemu:commandline>"
    return f"""\
<domain type='qemu' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'>
  <name>{escape(one.name)}</name>
  <uuid>{one.uuid}</uuid>
  <memory unit='MiB'>{memory_mib}</memory>
  <vcpu>1</vcpu>
  <os>
    <type arch='x86_64' machine='q35'>hvm</type>
    <kernel>{_GUEST_IMAGE / "vmlinuz"}</kernel>
    <initrd>{_GUEST_IMAGE / "initrd.gz"}</initrd>
    <cmdline>{KERNEL} mb={fill_mib} dirty={dirty_pages} tick_us={TICK_US} {kernel}</cmdline>
  </os>
  <features><acpi/></features>
  <cpu mode='maximum'/>
  <devices>
    {"".join(disks)}
    <serial type='file'>
      <source path='{one.directory / "console.log"}' append='on'/>
      <target port='0'/>
    </serial>
    <video><model type='vga'/></video>
    <memballoon {balloon}/>
  </devices>
  {beside}
</domain>"""
