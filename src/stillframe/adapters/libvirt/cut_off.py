"""Starts of guests that the embedded driver was cut off in, before there was a QEMU.

libvirt 11.3 writes down that it is about to start a guest (process 0, an asynchronous job "start") before it does so. Killed
then, it takes that note up at its next start, finds no QEMU, and keeps the job for ever: every look at the guest ends in
"cannot acquire state change lock". A note without a process says nothing that anybody needs, so it goes beforehand, and with it
a QEMU that had come into being by then: it waits to be told of its guest and has not run it. With the embedded driver that is ours
to do; a libvirt daemon's notes are its own.
"""

from __future__ import annotations

import errno
import fcntl
import logging
import os
import signal
from pathlib import Path

from stillframe.adapters.libvirt.domain_xml import parse_xml
from stillframe.domain.errors import Failed

_PROC = Path("/proc")
log = logging.getLogger(__name__)


def clear_cut_off_starts(run_directory: Path) -> None:
    """Before the driver of this directory is opened; nothing is touched while another process has it open."""
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
                _end_unknown(note)
                note.unlink()
    finally:
        os.close(lock)  # and the lock with it


def _end_unknown(note: Path) -> None:
    """The QEMU that is in no note, if there is one. A number may be another's by now, and a guest of that name another driver's:
    this driver's has files below its root on its command line.
    """
    root = os.fsencode(note.parent.parent.parent)
    pid_file = note.with_suffix(".pid")
    try:
        pid = int(pid_file.read_text(encoding="ascii"))
        words = (_PROC / str(pid) / "cmdline").read_bytes().split(b"\0")
        is_named = any(word.startswith(f"guest={note.stem},".encode()) for word in words)
        if is_named and any(root + b"/" in word for word in words):
            os.kill(pid, signal.SIGKILL)
    except (OSError, ValueError):
        log.debug("no QEMU of %s is there", note.stem)
    pid_file.unlink(missing_ok=True)


def _is_cut_off(note: Path) -> bool:
    try:
        root = parse_xml(note.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, Failed):
        return False  # libvirt's to judge
    job = root.find("job")
    return root.tag == "domstatus" and root.get("pid") == "0" and job is not None and job.get("async") == "start"
