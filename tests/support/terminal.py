"""A program in a terminal of its own, that somebody types into and reads from."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import select
import signal
import struct
import subprocess
import termios
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

_CONTROL = re.compile(r"\x1b\[([0-9;?]*)([A-Za-z])|\x1b[=>78]|\x1b\][^\x07]*\x07")
WAIT_S = 60.0


class Terminal:
    """Its controlling terminal, so that Ctrl-C is one. Ended with the context, at the latest."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str], cwd: Path | None = None, columns: int = 100
    ) -> None:
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, columns, 0, 0))
        # a suite in the background may have been told to ignore Ctrl-C, and its children would be too
        begin = ["setsid", "--ctty", "env", "--default-signal=INT"]
        self._process = subprocess.Popen(
            [*begin, *command], stdin=slave, stdout=slave, stderr=slave, env={**environment}, cwd=cwd
        )
        os.close(slave)
        self.raw = ""
        """All that was printed."""
        self._heard = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        os.close(self._master)

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def hear(self, text: str) -> None:
        """Return when this has been printed since what was heard last."""
        deadline = time.monotonic() + WAIT_S
        while (at := self.raw.find(text, self._heard)) < 0:
            assert time.monotonic() < deadline, f"{text!r} never came: {self.raw!r}"
            assert self._read(), f"it ended before {text!r}: {self.raw!r}"
        self._heard = at + len(text)

    def end(self) -> int:
        """Its exit code, when it has ended by itself."""
        deadline = time.monotonic() + WAIT_S
        while self._read():
            assert time.monotonic() < deadline, f"it goes on: {self.raw!r}"
        return self._process.wait(WAIT_S)

    def _read(self) -> bool:
        """False when it is over."""
        if not select.select([self._master], [], [], 1.0)[0]:
            return True
        try:
            part = os.read(self._master, 65536)
        except OSError:  # nobody has the other end any more
            return False
        self.raw += part.decode("utf-8", "replace")
        return bool(part)


def as_text(raw: str) -> list[str]:
    """What a reader saw, line by line; of a line that was drawn over, every version that differs from the one before."""
    seen: list[str] = []
    kept: dict[int, str] = {}
    lines, row = [""], 0

    def keep(line: str) -> None:
        words = " ".join(line.split())  # columns that became wider say nothing new
        if words and kept.get(row) != words:
            kept[row] = words
            seen.append(line.rstrip())

    for part in _parts(raw):
        if part == "\n":
            keep(lines[row])
            row += 1
            if row == len(lines):
                lines.append("")
        elif part.startswith("\x1b"):
            match = _CONTROL.fullmatch(part)
            kind = match[2] if match else ""
            if kind == "A":
                row = max(0, row - int(match[1] or 1)) if match else row
            elif kind == "K":
                keep(lines[row])
                lines[row] = ""
        elif part != "\r":
            lines[row] += part
    keep(lines[row])
    return seen


def _parts(raw: str) -> list[str]:
    return [part for part in re.split(rf"({_CONTROL.pattern.replace('(', '(?:')}|\r|\n)", raw) if part]
