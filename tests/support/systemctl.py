"""A stand-in for systemctl where no systemd is: starts and stops the service as packaging/stillframe.service says.

    systemctl.py UNIT PROGRAM start|stop|restart|is-active stillframe

UNIT's ExecStart is run with PROGRAM in the place of its first word, with the environment of its Environment= and
EnvironmentFile=; as Type=exec has it, ``start`` does not wait until the service answers. (The unit itself, its user and its
sandbox, is run by scripts/sandbox.py.)
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

LOG, PID = Path("/var/lib/journal"), Path("/var/lib/pid")
_WAIT_S = 60.0


def environment_of(unit: str) -> dict[str, str]:
    """What systemd would give the service."""
    lines = re.findall(r"^Environment=(.*)$", unit, re.MULTILINE)
    for name in re.findall(r"^EnvironmentFile=-(.*)$", unit, re.MULTILINE):
        if Path(name).exists():
            lines += Path(name).read_text().splitlines()
    pairs = [line.split("=", 1) for line in lines if line.strip() and not line.startswith("#")]
    return {"PATH": os.environ["PATH"], "LC_ALL": "C.UTF-8"} | dict(pairs)


def running() -> int:
    """Its pid, or 0."""
    with contextlib.suppress(FileNotFoundError):
        pid = int(PID.read_text())
        with contextlib.suppress(OSError):
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            return 0 if state == "Z" else pid
    return 0


def start(unit: str, program: str) -> None:
    if running():
        return
    match = re.search(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    assert match is not None
    words = [program, *shlex.split(match[1])[1:]]
    with LOG.open("ab") as log:
        process = subprocess.Popen(
            words, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment_of(unit), start_new_session=True
        )
    PID.write_text(str(process.pid))


def stop() -> None:
    pid = running()
    if not pid:
        return
    os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + _WAIT_S
    while running():
        if time.monotonic() > until:
            os.kill(pid, signal.SIGKILL)
            raise SystemExit(f"{pid} did not end")
        time.sleep(0.05)


def main(unit_path: str, program: str, *words: str) -> int:
    unit = Path(unit_path).read_text(encoding="utf-8")
    match words:
        case ("start", "stillframe"):
            start(unit, program)
        case ("stop", "stillframe"):
            stop()
        case ("restart", "stillframe"):
            stop()
            start(unit, program)
        case ("is-active", "stillframe"):
            print("active" if running() else "inactive")  # noqa: T201 -- that is what it is asked for
            return 0 if running() else 3
        case _:
            raise SystemExit(f"this stand-in cannot do: {' '.join(words)}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
