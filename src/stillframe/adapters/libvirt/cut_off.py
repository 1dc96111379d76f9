"""What the embedded driver was cut off in: starts of guests before there was a QEMU, and looks at what a QEMU can do.

libvirt 11.3 writes down that it is about to start a guest (process 0, an asynchronous job "start") before it does so. Killed
then, it takes that note up at its next start, finds no QEMU, and keeps the job for ever: every look at the guest ends in
"cannot acquire state change lock". A note without a process says nothing that anybody needs, so it goes beforehand, and with it
a QEMU that had come into being by then: it waits to be told of its guest and has not run it. With the embedded driver that is ours
to do; a libvirt daemon's notes are its own.

To learn what a QEMU can do, libvirt starts one that has no guest, asks it, and ends it. Killed meanwhile, libvirt does not
remember that one, and it would stand there for ever.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import shutil
import signal
from pathlib import Path

from stillframe.adapters.libvirt.domain_xml import parse_xml
from stillframe.domain.errors import Failed

_PROC = Path("/proc")
log = logging.getLogger(__name__)


def clear_what_was_cut_off(root: Path) -> None:
    """Before the driver of this root is opened; nothing is touched while another process has it open."""
    run_directory = root / "run" / "qemu"
    try:
        lock = os.open(run_directory / "driver.pid", os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return  # it never ran
    try:
        fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in (errno.EAGAIN, errno.EACCES):
            raise
        return  # libvirt will say so
    else:
        for note in run_directory.glob("*.xml"):
            if _is_cut_off(note):
                log.warning("libvirt was cut off while it began to start %s: its note of that goes", note.stem)
                _end(note.with_suffix(".pid"), root, guest=note.stem)
                note.unlink()
        _end_probes(root)
    finally:
        os.close(lock)  # and the lock with it


def _end_probes(root: Path) -> None:
    """End each QEMU that was only asked what it can do."""
    for directory in (root / "lib" / "qemu").glob("qmp-*"):
        log.warning("libvirt was cut off while it asked a QEMU what it can do: that QEMU goes, with %s", directory)
        _end(directory / "qmp.pid", directory)
        shutil.rmtree(directory, ignore_errors=True)


def _end(pid_file: Path, place: Path, guest: str = "") -> None:
    """SIGKILL the QEMU of this file, if there is one. A number may be another process's by now, and a guest of that name another
    driver's: this driver's has files at ``place`` on its command line.
    """
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        is_named = not guest or any(word.startswith(f"guest={guest},".encode()) for word in words)
        if is_named and any(os.fsencode(place) + b"/" in word for word in words):
            os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        log.debug("no QEMU of %s is there", pid_file)
    pid_file.unlink(missing_ok=True)


def _is_cut_off(note: Path) -> bool:
    try:
        root = parse_xml(note.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, Failed):
        return False  # libvirt's to judge
    job = root.find("job")
    return root.tag == "domstatus" and root.get("pid") == "0" and job is not None and job.get("async") == "start"
