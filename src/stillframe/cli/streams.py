"""The three streams of the process, whatever its caller has made of them."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any, TextIO, cast

_STDOUT, _STDERR = 1, 2  # their file descriptors


class UnwrittenError(Exception):
    """What is printed could not be written; the words are the system's."""


class _Guarded:
    """A stream whose failure is told from every other ``OSError`` by ``failed``, which may let it pass.

    A reader that has had enough (a closed pipe) is no failure: that stays what it is, and Typer ends quietly.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        try:
            return self._stream.write(text)
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failed(error.strerror or str(error))
            return len(text)

    def flush(self) -> None:
        try:
            self._stream.flush()
        except BrokenPipeError:
            raise
        except OSError as error:
            self.failed(error.strerror or str(error))

    def failed(self, why: str) -> None:
        raise UnwrittenError(why)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


class _Closed(_Guarded):
    """Stdout that was closed from the start: there is no failure before somebody writes."""

    def write(self, text: str) -> int:
        self.failed("stdout is closed")
        return len(text)


class _Told(_Guarded):
    """Stderr: where nobody can be told anything, what is done goes on, and the exit code says the rest."""

    def failed(self, why: str) -> None:  # noqa: ARG002 -- there is nobody to tell it to
        _give_up(_STDERR)


def open_streams() -> None:
    """No stream is missing afterwards, and none fails for a character that it cannot show."""
    # in the order of their descriptors: what is opened takes the lowest that is free, and no socket shall become one of them
    if sys.stdin is None:
        sys.stdin = Path(os.devnull).open(encoding="utf-8")  # noqa: SIM115 -- it is open as long as the process lives
    out: _Guarded
    if sys.stdout is None:
        os.open(os.devnull, os.O_RDONLY)
        out = _Closed(io.StringIO())
    else:
        out = _Guarded(sys.stdout)
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 -- see above
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a name that this terminal cannot show is no reason to fail
    sys.stdout = cast("TextIO", out)
    sys.stderr = cast("TextIO", _Told(sys.stderr))


def give_up_output() -> None:
    """What is still waiting to be written to stdout goes nowhere."""
    _give_up(_STDOUT)


def _give_up(descriptor: int) -> None:
    """So that the end of the process, which flushes once more, does not fail on it again."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, descriptor)
    os.close(nowhere)
