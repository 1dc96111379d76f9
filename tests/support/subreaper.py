"""Runs a command and reaps, at once, every orphan that it leaves behind.

    python subreaper.py -- CMD ARGS...

QEMU daemonises, so its parent is process 1. Where process 1 is no real init (containers), a dead QEMU stays a zombie
for a second or two, and libvirt's ``destroy`` waits for it. This program stands in as the parent
(``PR_SET_CHILD_SUBREAPER``, prctl(2)) and waits for each child the moment it dies.

It forwards SIGTERM, SIGINT and SIGHUP to CMD, exits with CMD's status (128 + n for a signal n) as soon as CMD has
ended, and kills nothing by itself: what still runs then belongs to the next reaper up.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

_PR_SET_CHILD_SUBREAPER = 36
_FORWARDED = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
_WAITED_FOR = _FORWARDED | {signal.SIGCHLD}


def main(arguments: list[str]) -> int:
    if arguments[:1] != ["--"] or len(arguments) < 2:
        sys.stderr.write("usage: subreaper.py -- CMD ARGS...\n")
        return 2
    command = arguments[1:]
    if ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.stderr.write(f"subreaper: prctl: {os.strerror(ctypes.get_errno())}\n")
        return 1
    inherited = signal.pthread_sigmask(signal.SIG_BLOCK, _WAITED_FOR)
    try:
        # Python ignores SIGPIPE; CMD gets the default back.
        child = os.posix_spawnp(
            command[0], command, os.environ, setsigmask=inherited, setsigdef=[signal.SIGPIPE, signal.SIGCHLD]
        )
    except OSError as error:
        sys.stderr.write(f"subreaper: {command[0]}: {error.strerror}\n")
        return 127
    while True:
        arrived = signal.sigwait(_WAITED_FOR)
        if arrived in _FORWARDED:
            os.kill(child, arrived)
            continue
        status = _reap(child)
        if status is not None:
            code = os.waitstatus_to_exitcode(status)
            return code if code >= 0 else 128 - code


def _reap(child: int) -> int | None:
    """Wait for everything that is dead; the wait status of ``child`` if it is among them."""
    found = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return found
        if pid == 0:
            return found
        if pid == child:
            found = status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
