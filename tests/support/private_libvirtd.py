"""A real, privileged ``libvirtd`` that shares nothing with the machine's own.

It lives in a mount namespace of its own, where private directories lie over libvirt's fixed ones, and is reached from
outside through its socket::

    with PrivateLibvirtd() as daemon:
        connection = libvirt.open(daemon.uri)

Needs root. Disk images and everything else that the daemon is to open must lie outside of ``/etc/libvirt``,
``/run/libvirt``, ``/var/{lib,log,cache}/libvirt``: there it sees its own directories.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

_SUBREAPER = Path(__file__).with_name("subreaper.py")
_HANG_LIMIT_S = 150.0

# name below the private directory -> where libvirt looks
_MOUNTS = {
    "etc": "/etc/libvirt",
    "run": "/run/libvirt",
    "lib": "/var/lib/libvirt",
    "log": "/var/log/libvirt",
    "cache": "/var/cache/libvirt",
}

# Guests run without confinement, cgroups or virtlogd: none of these is to be had in a container.
_QEMU_CONF = """\
stdio_handler = "file"
user = "{user}"
group = "{group}"
security_driver = "none"
cgroup_controllers = []
namespaces = []
dynamic_ownership = 1
remember_owner = {remember_owner}
"""

_LIBVIRTD_CONF = """\
listen_tls = 0
listen_tcp = 0
auth_unix_ro = "none"
auth_unix_rw = "none"
unix_sock_rw_perms = "{permissions}"
unix_sock_group = "{group}"
host_uuid = "{host_uuid}"
log_outputs = "2:file:{log}"
"""

# $0 is the private directory, the arguments are the mounts' names and targets, then the daemon's command line.
_ENTER = """\
set -e
[ ! -e "$0/kvm" ] || mount --bind "$0/kvm" /dev/kvm
while [ "$1" != -- ]; do mkdir -p "$2"; mount --bind "$0/$1" "$2"; shift 2; done
shift
exec "$@"
"""


@dataclass(frozen=True)
class Rights:
    """Who may do what: by default everything is root's.

    ``socket_group``: who may use the daemon, as libvirtd.conf has it ("+1234" is a number). ``qemu_user`` and
    ``qemu_group``: whose QEMU is. ``remember_owner``: files get their owner back when a guest ends, else they are root's.
    """

    socket_group: str = "root"
    socket_permissions: str = "0700"
    qemu_user: str = "root"
    qemu_group: str = "root"
    remember_owner: bool = False


class PrivateLibvirtd:
    """The daemon, its directories and the guests that it started.

    Leaving the ``with`` block ends all of them: afterwards no process of the daemon's mount namespaces is alive and
    the private directory is gone, also when the body raised.
    """

    def __init__(self, rights: Rights | None = None) -> None:
        rights = rights or Rights()
        # A socket's path holds 107 bytes: stay short, whatever TMPDIR says.
        self.directory = Path(tempfile.mkdtemp(prefix="sfd-", dir="/tmp"))
        self.log = self.directory / "libvirtd.log"
        self._socket = self.directory / "run" / "libvirt-sock"
        self._pid_file = self.directory / "libvirtd.pid"
        self._reaper: subprocess.Popen[bytes] | None = None
        self._namespaces: list[int] = []  # open descriptors: they keep the inode numbers from being used again
        for name in _MOUNTS:
            (self.directory / name).mkdir()
        if rights != Rights():
            self.directory.chmod(0o711)  # others may pass through to the socket
            _let_in_group_kvm(self.directory / "kvm")
        qemu = _QEMU_CONF.format(
            user=rights.qemu_user, group=rights.qemu_group, remember_owner=int(rights.remember_owner)
        )
        (self.directory / "etc" / "qemu.conf").write_text(qemu)
        daemon = _LIBVIRTD_CONF.format(
            host_uuid=uuid.uuid4(),
            log=self.log,
            permissions=rights.socket_permissions,
            group=rights.socket_group,
        )
        (self.directory / "etc" / "libvirtd.conf").write_text(daemon)

    @property
    def uri(self) -> str:
        return f"qemu+unix:///system?socket={self._socket}"

    @property
    def pid(self) -> int:
        """Process id of the daemon itself (not of the subreaper in front of it)."""
        return int(self._pid_file.read_text())

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self, timeout_s: float = 30.0) -> None:
        """Start the daemon; returns once it accepts connections. Also after ``stop`` or ``kill``: guests are found.

        Raises:
            RuntimeError: not root, or the daemon did not come up; the end of its log is in the message.
        """
        if os.geteuid() != 0:
            raise RuntimeError("a private libvirtd needs root")
        self._socket.unlink(missing_ok=True)
        self._pid_file.unlink(missing_ok=True)
        mounts = [word for pair in _MOUNTS.items() for word in pair]
        daemon = ["libvirtd", "--config", "/etc/libvirt/libvirtd.conf", "--pid-file", str(self._pid_file)]
        enter = ["unshare", "--mount", "--propagation", "private", "sh", "-c", _ENTER, str(self.directory), *mounts]
        with self.log.open("ab") as log:
            self._reaper = subprocess.Popen(
                [sys.executable, str(_SUBREAPER), "--", *enter, "--", *daemon],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C at the terminal is for the tests, not for the daemon
            )
        deadline = time.monotonic() + timeout_s
        while not self._answers():
            if self._reaper.poll() is not None or time.monotonic() > deadline:
                tail = self.log.read_text(errors="replace")[-2000:]
                raise RuntimeError(f"the private libvirtd did not come up:\n{tail}")
            time.sleep(0.02)
        self._namespaces.append(os.open(f"/proc/{self.pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC))

    def stop(self) -> None:
        """End the daemon in order; its guests run on. Does nothing when it does not run."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the daemon by SIGKILL; its guests run on. Does nothing when it does not run."""
        self._end(signal.SIGKILL)

    @contextlib.contextmanager
    def hung(self) -> Iterator[None]:
        """Inside, the daemon is stopped (SIGSTOP): connections are taken, nothing is answered. Then it goes on."""
        pid = self.pid
        # a test whose own thread comes to wait for it fails, and does not wait for ever
        rescue = threading.Timer(_HANG_LIMIT_S, os.kill, (pid, signal.SIGCONT))
        rescue.start()
        os.kill(pid, signal.SIGSTOP)
        try:
            while _state(pid) != "T":
                time.sleep(0.001)
            yield
            assert rescue.is_alive(), "the daemon hung for longer than a test may take"
        finally:
            rescue.cancel()
            os.kill(pid, signal.SIGCONT)

    def guest_pids(self) -> list[int]:
        """The processes that live in the daemon's mount namespaces, the daemon left out: its QEMUs."""
        inodes = {os.fstat(descriptor).st_ino for descriptor in self._namespaces}
        daemon = self.pid if self._reaper and self._pid_file.exists() else None
        return [pid for pid in _all_pids() if pid != daemon and _mount_namespace(pid) in inodes]

    def close(self) -> None:
        """End daemon and guests, remove the directories. May be repeated."""
        self._end_guests()  # while the subreaper is there to wait for them
        self.stop()
        self._end_guests()
        for descriptor in self._namespaces:
            os.close(descriptor)
        self._namespaces.clear()
        shutil.rmtree(self.directory, ignore_errors=True)

    def _end_guests(self, timeout_s: float = 10.0) -> None:
        deadline = time.monotonic() + timeout_s
        while (guests := self.guest_pids()) and time.monotonic() < deadline:
            for pid in guests:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.02)

    def _answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as probe:
            try:
                probe.connect(str(self._socket))
            except OSError:
                return False
        return self._pid_file.exists()

    def _end(self, how: signal.Signals) -> None:
        if self._reaper is None:
            return
        if self._reaper.poll() is None:
            # The daemon may not have got as far as writing its pid: then the subreaper passes SIGTERM on.
            with contextlib.suppress(OSError, ValueError):
                os.kill(self.pid, how)
            if not self._pid_file.exists():
                self._reaper.terminate()
            try:
                self._reaper.wait(15.0)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(OSError, ValueError):
                    os.kill(self.pid, signal.SIGKILL)
                self._reaper.kill()
                self._reaper.wait()
        self._reaper = None
        self._pid_file.unlink(missing_ok=True)


def _let_in_group_kvm(node: Path) -> None:
    """A device for the daemon's own /dev/kvm, as udev makes it.

    Where only root may open it, a libvirtd whose QEMU has another user takes what it has found out of QEMU for outdated at
    every single call, and finds it out again.
    """
    if Path("/dev/kvm").exists():
        os.mknod(node, stat.S_IFCHR | 0o660, Path("/dev/kvm").stat().st_rdev)
        node.chmod(0o660)
        shutil.chown(node, group="kvm")


def _all_pids() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()]


def _state(pid: int) -> str:
    """All threads of a process that was sent SIGSTOP stand still when this is "T"."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _mount_namespace(pid: int) -> int | None:
    """The inode of a living process's mount namespace; None for one that has gone or is a zombie."""
    try:
        return Path(f"/proc/{pid}/ns/mnt").stat().st_ino
    except OSError:
        return None
