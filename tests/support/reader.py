"""The host of somebody who follows a how-to guide: a libvirt with a virtual machine ``web`` on it, and paths as they are.

``qemu:///system``, ``/var/lib/libvirt/images``, ``/var/lib/stillframe`` and ``/etc/stillframe`` are what the documents call
them, seen from a mount namespace that no other test enters.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from support.document_shell import DocumentShell
from support.offline import Lot, domain_xml, file_disk
from support.private_libvirtd import PrivateLibvirtd
from support.service import STILLFRAME

ROOT = Path(__file__).parents[2]
_IMAGES = Path("/var/lib/libvirt/images")
_STANDIN = Path(__file__).with_name("systemctl.py")
_UNIT = ROOT / "packaging" / "stillframe.service"
# $0: the directory that is seen as /var/lib, $1: the daemon's own /var/lib/libvirt
_FURNISH = """\
set -e
mkdir -p "$0/libvirt" "$0/stillframe"
chmod 711 "$0/stillframe"
mount --bind "$1" "$0/libvirt"
mount --rbind "$0" /var/lib
mount -t tmpfs -o size=16m stillframe-documents /mnt
mkdir /mnt/upper /mnt/work
mount -t overlay -o lowerdir=/etc,upperdir=/mnt/upper,workdir=/mnt/work stillframe-documents /etc
mkdir /etc/stillframe
mount -t tmpfs -o size=256m stillframe-documents /srv
"""


class ReaderHost:
    """One daemon for all guides; each finds the host as if it were the first."""

    def __init__(self, daemon: PrivateLibvirtd) -> None:
        self._daemon = daemon
        self._home = daemon.directory / "reader"
        self._programs = daemon.directory / "programs"
        self._programs.mkdir()
        systemctl = self._programs / "systemctl"
        systemctl.write_text(f'#!/bin/sh\nexec {sys.executable} {_STANDIN} {_UNIT} {STILLFRAME} "$@"\n')
        systemctl.chmod(0o755)
        # it listens before it has read its configuration, over which another /etc is laid
        self._inside("virsh", "-q", "list")
        self._inside("sh", "-c", _FURNISH, str(daemon.directory / "varlib"), str(daemon.directory / "lib"))

    def _inside(self, *words: str) -> str:
        done = subprocess.run([*self._enter, *words], capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{words}: {done.stderr}"
        return done.stdout

    @property
    def _enter(self) -> list[str]:
        return ["nsenter", f"--mount=/proc/{self._daemon.pid}/ns/mnt", "--"]

    @contextmanager
    def shell(self) -> Iterator[DocumentShell]:
        """A terminal on the host, as root; afterwards the host is as it was."""
        self._home.mkdir()
        self._define()
        try:
            with DocumentShell(self._home, enter=self._enter, path=[self._programs]) as shell:
                yield shell
        finally:
            self._clear()

    def _define(self) -> None:
        """``web``: shut off, with one disk; it boots the witness, which writes into web.log."""
        images = self._daemon.directory / "lib" / "images"
        images.mkdir(exist_ok=True)
        self._inside("qemu-img", "create", "-q", "-f", "qcow2", str(_IMAGES / "web.qcow2"), "64M")
        (images / "console.log").touch()
        one = Lot("web", str(uuid.uuid4()), _IMAGES)
        (self._daemon.directory / "web.xml").write_text(domain_xml(one, [file_disk(_IMAGES / "web.qcow2", "vda")]))
        self._inside("virsh", "-q", "define", str(self._daemon.directory / "web.xml"))

    def _clear(self) -> None:
        self._inside(str(self._programs / "systemctl"), "stop", "stillframe")
        for name in self._inside("virsh", "-q", "list", "--name", "--state-running").split():
            self._inside("virsh", "-q", "destroy", name)
        for name in self._inside("virsh", "-q", "list", "--all", "--name").split():
            self._inside("virsh", "-q", "undefine", "--managed-save", "--snapshots-metadata", name)
        self._inside("sh", "-c", f"rm -rf /etc/stillframe/* /var/lib/stillframe/* {_IMAGES}/* /srv/*")
        shutil.rmtree(self._home)


@contextmanager
def reader_host() -> Iterator[ReaderHost]:
    with PrivateLibvirtd() as daemon:
        yield ReaderHost(daemon)
