"""The witness guest on libvirt: a tiny real Linux guest that tells when its disks and memory are torn.

Its kernel and initial file system are built by ``make setup`` (tests/guest/) into <prefix>/share/stillframe/guest.
"""

from __future__ import annotations

import logging
import os
import shutil
import subprocess  # nosec B404 # argument lists without a shell
import sys
import tempfile
import time
import uuid
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import libvirt
from lxml import etree

from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.domain_xml import parse_xml
from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.domain.programs import ENVIRONMENT, PATH
from stillframe.ports.guests import GuestSpec

log = logging.getLogger(__name__)

_GUEST_URI = "https://stillframe.dev/xmlns/guest/1"
_DISK_BYTES = 1 << 30
_TRIAL_S = 4.0
_MIB = 1 << 20
# Linux panics at boot ("IO-APIC + timer doesn't work!") when no tick comes while it tries its timer out. An emulator whose
# clock does not get its turn on a busy machine gives it none, and no timer of an emulator has to be tried out.
_KERNEL = "console=ttyS0 quiet no_timer_check"


@dataclass(frozen=True)
class _Files:
    directory: Path
    kernel: Path
    initrd: Path
    disks: list[Path]


def guest_image_dir() -> Path:
    return Path(sys.prefix) / "share" / "stillframe" / "guest"


class LibvirtGuests:
    """``Guests`` (ports/guests.py). Files of a guest lie in ``root``/<its uuid>/."""

    def __init__(self, connection: Connection, root: Path, image_dir: Path | None = None) -> None:
        self._connection = connection
        self._root = root
        self._image_dir = image_dir or guest_image_dir()

    def create(self, spec: GuestSpec) -> str:
        kernel, initrd = self._image_dir / "vmlinuz", self._image_dir / "initrd.gz"
        if not (kernel.is_file() and initrd.is_file()):
            raise Failed(
                ErrorCase.STORAGE_FAILED, f"the witness guest is not built in {self._image_dir}: run make setup"
            )
        if self._exists(spec.name):
            raise Refused(ErrorCase.NAME_OF_VM_TAKEN, f'"{spec.name}"')
        vm_uuid = str(uuid.uuid4())
        directory = self._root / vm_uuid
        try:
            disks = self._make_files(directory, spec.disks)
            files = _Files(directory, kernel, initrd, disks)
            xml = _guest_xml(spec, vm_uuid, self._domain_type, files)
            self._connection.call(f'start guest "{spec.name}"', lambda conn: _define_and_start(conn, xml), timeout_s=90)
        except StillframeError:
            shutil.rmtree(directory, ignore_errors=True)
            raise
        return vm_uuid

    def delete(self, name: str) -> None:
        directory = Path(self._connection.call(f'find guest "{name}"', lambda conn: _directory_of(conn, name)))

        def act(conn: Any) -> None:
            domain = conn.lookupByName(name)
            if domain.isActive():
                domain.destroy()
            # the definition goes last: it is what names the directory, should we be interrupted
            if directory.parent == self._root and directory.is_dir():
                shutil.rmtree(directory)
                self._remove_root_if_empty()
            domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_MANAGED_SAVE)

        with self._connection.hurried_reaping():
            self._connection.call(f'delete guest "{name}"', act, timeout_s=120)

    def console_path(self, name: str) -> str:
        directory = self._connection.call(f'find guest "{name}"', lambda conn: _directory_of(conn, name))
        return str(Path(directory) / "console.log")

    def uuid_of(self, name: str) -> str:
        def act(conn: Any) -> str:
            _directory_of(conn, name)
            return str(conn.lookupByName(name).UUIDString())

        return self._connection.call(f'find guest "{name}"', act)

    def _remove_root_if_empty(self) -> None:
        if self._root.is_dir() and not any(self._root.iterdir()):
            self._root.rmdir()

    def _exists(self, name: str) -> bool:
        def act(conn: Any) -> bool:
            return any(domain.name() == name for domain in conn.listAllDomains(0))

        return self._connection.call("list domains", act)

    def _make_files(self, directory: Path, count: int) -> list[Path]:
        directory.mkdir(parents=True)
        # QEMU may run as another user: it must be able to pass through, whatever the umask
        for passed in (directory, self._root):
            passed.chmod(0o711)
        disks = [directory / f"disk-{number}.qcow2" for number in range(count)]
        for disk in disks:
            self._qemu_img(disk)
        (directory / "console.log").touch(mode=0o644)
        return disks

    def _qemu_img(self, disk: Path) -> None:
        program = shutil.which("qemu-img", path=PATH)
        if program is None:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{disk}: qemu-img is not installed")
        done = subprocess.run(  # nosec B603 # a list, and no shell; the path is made of our own root and a uuid
            [program, "create", "-q", "-f", "qcow2", "--", str(disk), str(_DISK_BYTES)],
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
            env=ENVIRONMENT,
        )
        if done.returncode != 0:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{disk}: {done.stderr.strip()}")

    @cached_property
    def _domain_type(self) -> str:
        """KVM where a guest really runs on it, else emulation. The device's presence proves nothing."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return "qemu"
        return "kvm" if _kvm_runs_a_guest(self._image_dir) else "qemu"


def _kvm_runs_a_guest(image_dir: Path) -> bool:
    """Boot the kernel on KVM and see whether it says anything at all."""
    program = shutil.which("qemu-system-x86_64", path=PATH)
    if program is None:
        return False
    with tempfile.TemporaryDirectory(prefix="stillframe-kvm-") as scratch:
        console = Path(scratch) / "console"
        arguments = [program, "-accel", "kvm", "-machine", "q35", "-cpu", "max", "-m", "128", "-nodefaults"]
        arguments += ["-display", "none", "-no-reboot", "-serial", f"file:{console}", "-append", "console=ttyS0"]
        arguments += ["-kernel", str(image_dir / "vmlinuz"), "-initrd", str(image_dir / "initrd.gz")]
        trial = subprocess.Popen(  # nosec B603 # a list, and no shell; every word of it is ours
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
        )
        try:
            deadline = time.monotonic() + _TRIAL_S
            while time.monotonic() < deadline and trial.poll() is None:
                if console.is_file() and b"Linux version" in console.read_bytes():
                    return True
                time.sleep(0.05)
            log.info("KVM is there but runs no guest: the witness is emulated")
            return False
        finally:
            trial.kill()
            trial.wait()


def _define_and_start(conn: Any, xml: str) -> None:
    domain = conn.defineXML(xml)
    try:
        domain.create()
    except libvirt.libvirtError:
        domain.undefine()
        raise


def _directory_of(conn: Any, name: str) -> str:
    """Where ``create`` put the guest's files; a domain that it did not make is refused."""
    for domain in conn.listAllDomains(0):
        if domain.name() != name:
            continue
        try:
            text = domain.metadata(libvirt.VIR_DOMAIN_METADATA_ELEMENT, _GUEST_URI, 0)
        except libvirt.libvirtError as error:
            if error.get_error_code() != libvirt.VIR_ERR_NO_DOMAIN_METADATA:
                raise
            raise Refused(ErrorCase.VM_UNKNOWN, f'VM "{name}" is not a witness guest of Stillframe') from error
        return str(parse_xml(text).get("directory", ""))
    raise Refused(ErrorCase.VM_UNKNOWN, f'no guest "{name}"')


def _guest_xml(spec: GuestSpec, vm_uuid: str, domain_type: str, files: _Files) -> str:
    root = etree.Element("domain", type=domain_type)
    _text(root, "name", spec.name)
    _text(root, "uuid", vm_uuid)
    metadata = etree.SubElement(root, "metadata")
    etree.SubElement(
        metadata, f"{{{_GUEST_URI}}}guest", {"directory": str(files.directory)}, nsmap={"witness": _GUEST_URI}
    )
    _text(root, "memory", str(spec.memory_mib), unit="MiB")
    _text(root, "vcpu", "1")
    if spec.private_file_memory:
        backing = etree.SubElement(root, "memoryBacking")
        etree.SubElement(backing, "source", type="file")
        etree.SubElement(backing, "access", mode="private")
    operating_system = etree.SubElement(root, "os")
    _text(operating_system, "type", "hvm", arch="x86_64", machine="q35")
    _text(operating_system, "kernel", str(files.kernel))
    _text(operating_system, "initrd", str(files.initrd))
    _text(operating_system, "cmdline", f"{_KERNEL} mb={spec.fill_mib} dirty={spec.dirty_pages}")
    etree.SubElement(etree.SubElement(root, "features"), "acpi")
    etree.SubElement(root, "cpu", mode="maximum" if domain_type == "qemu" else "host-passthrough")
    devices = etree.SubElement(root, "devices")
    for number, path in enumerate(files.disks):
        disk = etree.SubElement(devices, "disk", type="file", device="disk")
        etree.SubElement(disk, "driver", name="qemu", type="qcow2", cache="none", discard="unmap")
        etree.SubElement(disk, "source", file=str(path))
        etree.SubElement(disk, "target", dev=f"vd{chr(ord('a') + number)}", bus="virtio")
    serial = etree.SubElement(devices, "serial", type="file")
    etree.SubElement(serial, "source", path=str(files.directory / "console.log"), append="on")
    etree.SubElement(serial, "target", port="0")
    # a screen to take pictures of, and no VNC server: nobody looks at it, and ports would be fought over
    etree.SubElement(etree.SubElement(devices, "video"), "model", type="vga")
    etree.SubElement(devices, "memballoon", model="none")
    return etree.tostring(root, encoding="unicode")


def _text(parent: Any, tag: str, text: str, **attributes: str) -> None:
    etree.SubElement(parent, tag, attributes).text = text


__all__ = ["LibvirtGuests", "guest_image_dir"]
