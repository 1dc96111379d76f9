"""Running qemu-img: one argument list in, its standard output or a typed outcome out.

No shell, a fixed environment, limits on every call: its time, its processor time, no core file (which would hold a guest's
data), and where no data is copied its memory. So an image that is made to keep qemu-img busy does not keep the host busy.
What qemu-img says of an error goes into ``desc`` in its own words.
"""

from __future__ import annotations

import contextlib
import functools
import math
import re
import resource
import shutil
import subprocess  # nosec B404 # argument lists without a shell, see below
import time
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from stillframe.domain.errors import ErrorCase, Failed, Unknown
from stillframe.domain.programs import ENVIRONMENT, PATH

_NO_SPACE = ("No space left on device", "Disk quota exceeded")
# QEMU's words for a byte-range lock that another process holds on the image (block/file-posix.c).
_LOCKED = ('Failed to get "write" lock', 'Failed to get shared "write" lock', 'Failed to get "consistent read" lock')
_RETRY_PAUSE_S = 0.1
_KILL_WAIT_S = 5.0
_LOOK_EVERY_S = 0.2
# What ``-p`` prints, each followed by a carriage return (QEMU's util/qemu-progress.c); the last of a piece may be cut off.
_PERCENT = re.compile(rb"\((\d+(?:\.\d+)?)/100%\)")

OnPercent = Callable[[float], None]

MEMORY_BYTES = 2 << 30
"""The address space of a call that copies nothing; the largest tables that it may have to read take 100 MiB."""


@dataclass(frozen=True)
class QemuImg:
    """How qemu-img is called.

    ``lock_wait_s``: how long a lock that somebody else holds is waited for; a QEMU that has just ended, or a qemu-img
    that an earlier, killed service left running, lets go of it by itself.
    """

    program: str = "qemu-img"
    lock_wait_s: float = 10.0

    def run(
        self,
        arguments: Sequence[str],
        path: str,
        timeout_s: float,
        *,
        accepted: Collection[int] = (0,),
        on_percent: OnPercent | None = None,
        pass_fds: tuple[int, ...] = (),
        memory_bytes: int | None = MEMORY_BYTES,
    ) -> str:
        """Standard output of a call that succeeded.

        Args:
            arguments: sub-command, options and files.
            path: the file that the call is about; errors name it.
            timeout_s: longest run of one attempt.
            accepted: exit statuses that are no failure.
            on_percent: told how far it is, in this thread and ascending, when ``-p`` is among the arguments.
            pass_fds: descriptors that the process gets under the same numbers.
            memory_bytes: the largest address space of the process; None: any.

        Raises:
            Failed: SPACE_EXHAUSTED or STORAGE_FAILED, with qemu-img's words; the process has ended.
            Unknown: STORAGE_FAILED, it was killed after the time limit and has not gone (the storage hangs).
        """
        give_up_at = time.monotonic() + self.lock_wait_s
        while True:
            with self._started(path, arguments, pass_fds) as process:
                _limit(process.pid, timeout_s, memory_bytes)
                output, words = _finish(process, arguments[0], path, timeout_s, on_percent)
            returncode = process.returncode
            if returncode in accepted:
                return output
            locked = any(lock in words for lock in _LOCKED)
            if not locked or time.monotonic() >= give_up_at:
                raise _failure(arguments[0], path, returncode, words)
            time.sleep(_RETRY_PAUSE_S)

    @contextmanager
    def _started(
        self, path: str, arguments: Sequence[str], pass_fds: tuple[int, ...]
    ) -> Iterator[subprocess.Popen[str]]:
        """The process; should the block end in an error, it is killed."""
        program = shutil.which(self.program, path=PATH)
        if program is None:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: {self.program} is not installed")
        process = subprocess.Popen(  # nosec B603 # a list, and no shell; paths are absolute and stand behind "--"
            [*_dying_with_us(), program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=ENVIRONMENT,
            pass_fds=pass_fds,
            text=True,
            encoding="utf-8",
            errors="replace",
        )
        try:
            yield process
        except BaseException:
            process.kill()
            raise


def _limit(pid: int, timeout_s: float, memory_bytes: int | None) -> None:
    """Set from outside: between fork and exec, in a process with threads, nothing but exec is safe."""
    limits = {resource.RLIMIT_CPU: math.ceil(timeout_s), resource.RLIMIT_CORE: 0}
    if memory_bytes is not None:
        limits[resource.RLIMIT_AS] = memory_bytes
    with contextlib.suppress(ProcessLookupError):  # it has ended already
        for what, most in limits.items():
            hard = resource.prlimit(pid, what)[1]
            lowered = most if hard == resource.RLIM_INFINITY else min(most, hard)
            resource.prlimit(pid, what, (lowered, lowered))


def _finish(
    process: subprocess.Popen[str], command: str, path: str, timeout_s: float, on_percent: OnPercent | None
) -> tuple[str, str]:
    try:
        return _follow(process, timeout_s, on_percent)
    except subprocess.TimeoutExpired:
        _kill(process, command, path, timeout_s)
        raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: qemu-img {command} was ended after {timeout_s:g} s") from None


def _follow(process: subprocess.Popen[str], timeout_s: float, on_percent: OnPercent | None) -> tuple[str, str]:
    """What ``communicate`` returns; on the way ``on_percent`` hears what has been printed so far.

    Raises:
        TimeoutExpired: after ``timeout_s``; the process goes on.
    """
    if on_percent is None:
        return process.communicate(timeout=timeout_s)
    give_up_at = time.monotonic() + timeout_s
    said = 0.0
    while True:
        try:
            return process.communicate(timeout=_LOOK_EVERY_S)
        except subprocess.TimeoutExpired as unfinished:
            if time.monotonic() >= give_up_at:
                raise
            # raw bytes even of a text stream, and everything from the beginning
            printed = _PERCENT.findall(unfinished.output or b"")
        if printed and float(printed[-1]) > said:
            said = float(printed[-1])
            on_percent(said)


@functools.cache
def _dying_with_us() -> tuple[str, ...]:
    """A prefix of the command line that ends qemu-img when this process dies; empty where there is none.

    A qemu-img that outlives a killed service would hold the images' locks against recovery. The kernel's parent-death
    signal ends it with us; setpriv (util-linux 2.33) sets it. Without it, waiting for the lock has to do.
    """
    setpriv = shutil.which("setpriv", path=PATH)
    if setpriv is None:
        return ()
    prefix = (setpriv, "--pdeathsig", "KILL", "--")
    try:
        tried = subprocess.run(  # nosec B603 # a fixed list
            [*prefix, "true"], check=False, capture_output=True, timeout=_KILL_WAIT_S, env=ENVIRONMENT
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return prefix if tried.returncode == 0 else ()


def _kill(process: subprocess.Popen[str], command: str, path: str, timeout_s: float) -> None:
    process.kill()
    try:
        process.communicate(timeout=_KILL_WAIT_S)
    except subprocess.TimeoutExpired:
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()
        process.poll()
        raise Unknown(
            ErrorCase.STORAGE_FAILED,
            f"{path}: qemu-img {command} did not answer within {timeout_s:g} s and cannot be ended; the storage hangs",
        ) from None


def _failure(command: str, path: str, returncode: int, words: str) -> Failed:
    case = ErrorCase.SPACE_EXHAUSTED if any(text in words for text in _NO_SPACE) else ErrorCase.STORAGE_FAILED
    said = "; ".join(line.strip() for line in words.splitlines() if line.strip())
    if returncode < 0:
        said = f"ended by signal {-returncode}" + (f"; {said}" if said else "")
    return Failed(case, f"{path}: qemu-img {command}: {said or f'exit status {returncode}'}")
