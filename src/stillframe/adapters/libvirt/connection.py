"""The connections to libvirt: opened when needed, reopened when broken, every call bounded and its outcome typed.

libvirt's calls block and may hang; each runs in a thread of its own and is waited for with a limit (calls.py).

A daemon takes five requests at a time from one connection (max_client_requests in libvirtd.conf). While five wait it reads
no more: five slow virtual machines would take every other with them, a guest in its pause included. So a connection gets
fewer calls, and the next call another connection.
"""

from __future__ import annotations

import contextlib
import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import libvirt
from blake3 import blake3

from stillframe.adapters.libvirt.calls import Calls, NoAnswerError, Pulse
from stillframe.adapters.libvirt.cut_off import clear_what_was_cut_off
from stillframe.adapters.libvirt.errors import typed_error
from stillframe.adapters.libvirt.owed import owed_s
from stillframe.adapters.libvirt.qmp import QmpError
from stillframe.adapters.libvirt.reaper import QemuReaper
from stillframe.adapters.libvirt.reconnected import await_reconnected
from stillframe.domain.errors import ErrorCase, Failed, StillframeError, Unknown

log = logging.getLogger(__name__)
T = TypeVar("T")

SYSTEM_URI = "qemu:///system"
_EMBED_PREFIX = "qemu:///embed?root="
# how long a libvirt that left a call without an answer has for a greeting, before it is taken to hang altogether
_PULSE_WAIT_S = 2.0
_CLOSE_WAIT_S = 2.0
_LOOK_WAIT_S = 5.0
_RECONNECT_WAIT_S = 20.0
_CALLS_OF_ONE = 3  # of the five that libvirtd takes, because a call may leave a request behind that it gave up
# sun_path holds 108 bytes; below the root libvirt adds lib/qemu/domain-NNNNNN-<20 characters>/monitor.sock
_EMBED_ROOT_MAX_BYTES = 107 - len("/lib/qemu/domain-999999-12345678901234567890/monitor.sock")

_SHORT_LINKS = Path("/run/stillframe")

_EMBED_QEMU_CONF = """\
# written by Stillframe at every start; the embedded driver reads it
stdio_handler = "file"
user = "root"
group = "root"
security_driver = "none"
cgroup_controllers = []
remember_owner = 0
"""

_event_loop_lock = threading.Lock()
_event_loop_running = False


def _ensure_event_loop() -> None:
    """Libvirt's default event loop in a thread of its own; one per process, registered before the first open."""
    global _event_loop_running  # noqa: PLW0603 -- libvirt's event implementation is per process, so is this fact
    with _event_loop_lock:
        if _event_loop_running:
            return
        libvirt.virEventRegisterDefaultImpl()
        # errors come back as exceptions; libvirt must not print them as well
        libvirt.registerErrorHandler(lambda _context, _error: None, None)

        def run() -> None:
            while True:
                libvirt.virEventRunDefaultImpl()

        threading.Thread(target=run, name="libvirt-events", daemon=True).start()
        _event_loop_running = True


def embedded_uri(root: Path) -> str:
    return f"{_EMBED_PREFIX}{root}"


def choose_uri(wanted: str, embed_root: Path) -> str:
    """The wanted URI, else the system daemon where there is one, else the embedded driver below ``embed_root``.

    One that is there and hangs is not passed over: its guests are its own.
    """
    if wanted:
        return wanted
    _ensure_event_loop()
    try:
        Calls().run("look for a libvirt daemon", "", lambda: libvirt.open(SYSTEM_URI).close(), _LOOK_WAIT_S)
    except NoAnswerError:
        log.warning("the libvirt daemon does not answer")
    except libvirt.libvirtError as error:
        log.info("no libvirt daemon answers (%s): the embedded driver is used", error.get_error_message())
        return embedded_uri(_short_root(embed_root))
    return SYSTEM_URI


def _short_root(root: Path) -> Path:
    """A path to the same directory that leaves QEMU's sockets room in a socket's address.

    Where the state directory lies too deep, root gets a link in /run whose name follows from the path, so that a
    restarted service finds its guests through the same one.
    """
    if len(os.fsencode(root)) <= _EMBED_ROOT_MAX_BYTES or os.geteuid() != 0:
        return root
    root.mkdir(parents=True, exist_ok=True)
    _SHORT_LINKS.mkdir(mode=0o755, exist_ok=True)
    link = _SHORT_LINKS / blake3(os.fsencode(root)).hexdigest()[:12]
    with contextlib.suppress(FileExistsError):
        link.symlink_to(root)
    return link


@dataclass(eq=False)
class _Line:
    """One connection, how many calls are on it, and the VMs that libvirt is known to have found again since it began."""

    conn: Any
    calls: int = 0
    found: set[str] = field(default_factory=set)


class Connection:
    """The way to one libvirt for the whole process. ``call`` is safe from every thread."""

    def __init__(self, uri: str, *, call_timeout_s: float) -> None:
        self.uri = uri
        self.call_timeout_s = call_timeout_s
        self._reaper: QemuReaper | None = None
        self._lines: list[_Line] = []
        self._lock = threading.Lock()  # of the lines; never held while libvirt is waited for
        self._opening = threading.Lock()
        self._closed = False
        self._calls = Calls()
        self._pulse = Pulse(self._greet)

    @property
    def is_embedded(self) -> bool:
        return self.uri.startswith(_EMBED_PREFIX)

    def open(self) -> None:
        """Connect now, and wait until an embedded driver has found its running guests again.

        Raises:
            Failed: HOST_UNREACHABLE.
        """
        if self.is_embedded:
            self._prepare_embedded(Path(self.uri.removeprefix(_EMBED_PREFIX)))
            clear_what_was_cut_off(Path(self.uri.removeprefix(_EMBED_PREFIX)))
        _ensure_event_loop()
        self.call("connect", lambda conn: conn.getURI())
        if self.is_embedded:
            self._await_reconnected(Path(self.uri.removeprefix(_EMBED_PREFIX)))

    def close(self) -> None:
        """Let go of the connections; guests go on. A libvirt that hangs is not waited for."""
        with self._lock:
            self._closed = True
            lines, self._lines = self._lines, []

        # in a thread: saying goodbye is a call as well
        closer = threading.Thread(target=_say_goodbye, args=(lines,), name="libvirt: close", daemon=True)
        closer.start()
        closer.join(_CLOSE_WAIT_S)

    def hurried_reaping(self) -> AbstractContextManager[None]:
        """Around calls that wait for a QEMU process to be gone."""
        return self._reaper.hurried() if self._reaper is not None else nullcontext()

    def call(
        self,
        what: str,
        act: Callable[[Any], T],
        *,
        vm_uuid: str = "",
        timeout_s: float | None = None,
        patient: bool = True,
        asks_itself: bool = False,
    ) -> T:
        """Run ``act(virConnect)`` in a thread of its own and wait for its end. ``vm_uuid``: the VM that it concerns.

        What has not begun when it is given up never begins: by then its caller may have undone what it was part of. What
        has begun may still come about; until it has ended, no other call begins about the same VM. While libvirt is
        known to answer nothing at all, nothing is sent. ``act`` begins when libvirt, should it have just come up, has
        found the VM again.

        Not ``patient`` is who only looks: where the VM is known to hang, because an earlier call about it was given up
        and has not ended or because its QEMU has owed libvirt an answer for longer than a call may take, the look is
        refused at once. What acts waits for its turn, so that what takes back comes after what it takes back.
        ``asks_itself``: ``act`` asks what the QEMU owes by itself (``check_answers``), which is then not done twice.

        Raises:
            Refused: VM_UNKNOWN when libvirt proved the domain absent; HYPERVISOR_FAILED when it said no.
            Failed: HYPERVISOR_FAILED, HOST_UNREACHABLE (nothing was sent).
            Unknown: HYPERVISOR_FAILED when no answer came in time, HOST_UNREACHABLE when the connection broke or
                libvirt hangs.
        """
        words = f"{what} (VM {vm_uuid})" if vm_uuid else what
        if missing_s := self._pulse.missing_s:
            raise Failed(ErrorCase.HOST_UNREACHABLE, f"{words}: libvirt has answered nothing for {missing_s:.0f} s")
        limit_s = self.call_timeout_s if timeout_s is None else timeout_s
        try:
            return self._calls.run(
                words,
                vm_uuid,
                lambda: self._run(words, act, vm_uuid, asks=not (patient or asks_itself)),
                limit_s,
                patient=patient,
            )
        except NoAnswerError as error:
            # an embedded driver is in this process: it does not hang as a whole
            if self.is_embedded or self._pulse.take(_PULSE_WAIT_S):
                raise Unknown(ErrorCase.HYPERVISOR_FAILED, str(error)) from None
            raise Unknown(ErrorCase.HOST_UNREACHABLE, f"{error}, nor to anything else") from None

    def domain_call(
        self,
        what: str,
        vm_uuid: str,
        act: Callable[[Any], T],
        *,
        timeout_s: float | None = None,
        patient: bool = True,
        asks_itself: bool = False,
    ) -> T:
        """Like ``call`` with the domain looked up first; ``what`` and the uuid go into errors."""
        return self.call(
            what,
            lambda conn: act(conn.lookupByUUIDString(vm_uuid)),
            vm_uuid=vm_uuid,
            timeout_s=timeout_s,
            patient=patient,
            asks_itself=asks_itself,
        )

    def check_wanted(self) -> None:
        """Asked by an ``act`` that takes long, wherever it may end.

        Raises:
            Unknown: HYPERVISOR_FAILED: nobody waits for it any more.
        """
        if not self._calls.is_wanted:
            raise Unknown(ErrorCase.HYPERVISOR_FAILED, "nobody waits for it any more")

    def check_answers(self, what: str, owed: float | None) -> None:
        """A QEMU that has owed libvirt an answer for so many seconds is not known to hang.

        Raises:
            Failed: HYPERVISOR_FAILED: it is.
        """
        if owed is not None and owed > self.call_timeout_s:
            raise Failed(ErrorCase.HYPERVISOR_FAILED, f"{what}: its QEMU has not answered libvirt for {owed:.0f} s")

    def _run(self, what: str, act: Callable[[Any], T], vm_uuid: str, *, asks: bool) -> T:
        line = self._take_line(what)
        try:
            self.check_wanted()  # connecting may have taken its time
            if vm_uuid and asks:
                self.check_answers(what, owed_s(line.conn.lookupByUUIDString(vm_uuid)))
            if vm_uuid and vm_uuid not in line.found and await_reconnected(line.conn, vm_uuid, self.check_wanted):
                line.found.add(vm_uuid)
            return act(line.conn)
        except libvirt.libvirtError as error:
            raise typed_error(what, error, alive=_is_alive(line)) from error
        except QmpError as error:
            raise Failed(ErrorCase.HYPERVISOR_FAILED, f"{what}: {error}") from error
        finally:
            self._give_back(line)

    def _greet(self) -> None:
        """On a connection of its own, which no other call keeps from being read."""
        try:
            libvirt.open(self.uri).close()
        except libvirt.libvirtError as error:
            raise Failed(ErrorCase.HOST_UNREACHABLE, error.get_error_message()) from error

    def _take_line(self, what: str) -> _Line:
        """A living connection with room for a call, which is counted on it from now on."""
        if self._closed:
            raise Failed(ErrorCase.HOST_UNREACHABLE, f"{what}: the connection to libvirt is closed")
        found = self._find_line()
        if found is not None:
            return found
        with self._opening:
            found = self._find_line()  # another thread may just have opened one
            if found is not None:
                return found
            if self._closed:
                raise Failed(ErrorCase.HOST_UNREACHABLE, f"{what}: the connection to libvirt is closed")
            try:
                line = _Line(libvirt.open(self.uri), calls=1)
                # Of a daemon on this host the kernel tells when it is gone. One that hangs is not left: what it was
                # asked it may do when it goes on, and it would do so behind the back of a new connection.
                if urlsplit(self.uri).netloc:
                    line.conn.setKeepAlive(5, 3)
            except libvirt.libvirtError as error:
                raise Failed(ErrorCase.HOST_UNREACHABLE, f"{what}: {error.get_error_message()}") from error
            if not self._keep(line):
                # here and now: left to the collector of garbage, closing would wait for libvirt in any thread at all
                _say_goodbye([line])
                raise Failed(ErrorCase.HOST_UNREACHABLE, f"{what}: the connection to libvirt is closed")
            return line

    def _keep(self, line: _Line) -> bool:
        with self._lock:
            if not self._closed:
                self._lines.append(line)
            return not self._closed

    def _find_line(self) -> _Line | None:
        with self._lock:
            self._lines = [line for line in self._lines if _is_alive(line)]
            line = min(self._lines, key=lambda line: line.calls, default=None)
            # the embedded driver has no daemon in between, and there is only one of it
            if line is None or not (self.is_embedded or line.calls < _CALLS_OF_ONE):
                return None
            line.calls += 1
            return line

    def _give_back(self, line: _Line) -> None:
        with self._lock:
            line.calls -= 1

    def _prepare_embedded(self, root: Path) -> None:
        if len(os.fsencode(root)) > _EMBED_ROOT_MAX_BYTES:
            raise Failed(
                ErrorCase.HOST_UNREACHABLE,
                f"the state directory's path is too long for QEMU's sockets: {root} has more than "
                f"{_EMBED_ROOT_MAX_BYTES} bytes; choose a shorter --state",
            )
        (root / "etc").mkdir(parents=True, exist_ok=True)
        (root / "etc" / "qemu.conf").write_text(_EMBED_QEMU_CONF, encoding="ascii")
        if self._reaper is None:
            self._reaper = QemuReaper()
            self._reaper.start()

    def _await_reconnected(self, root: Path) -> None:
        """``open`` returns before the embedded driver has taken its guests up again; wait for those that live."""
        deadline = time.monotonic() + _RECONNECT_WAIT_S
        for status in sorted((root / "run" / "qemu").glob("*.xml")):
            name = status.stem
            if not _pid_alive(status.with_suffix(".pid")):
                continue
            while time.monotonic() < deadline and not self._answers(name):
                time.sleep(0.02)

    def _answers(self, name: str) -> bool:
        def look(conn: Any) -> bool:
            dom = conn.lookupByName(name)
            # info of a block device needs the monitor, so it waits for libvirt's own reconnection
            return bool(dom.isActive()) and dom.controlInfo(0)[0] == libvirt.VIR_DOMAIN_CONTROL_OK

        try:
            return self.call("find running guests", look)
        except StillframeError:
            return False


def _say_goodbye(lines: list[_Line]) -> None:
    for line in lines:
        try:
            line.conn.close()
        except libvirt.libvirtError:
            log.warning("closing a connection failed", exc_info=True)


def _is_alive(line: _Line) -> bool:
    try:
        return bool(line.conn.isAlive())
    except libvirt.libvirtError:
        return False


def _pid_alive(pid_file: Path) -> bool:
    try:
        os.kill(int(pid_file.read_text(encoding="ascii").strip()), 0)
    except (OSError, ValueError):
        return False
    return True
