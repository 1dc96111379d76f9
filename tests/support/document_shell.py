"""The terminal of somebody who reads a document: one bash for its commands, and others for what runs on beside them.

It has a network of its own with nothing but the loopback interface, so that addresses are those of the document, and a home
directory that is thrown away.
"""

from __future__ import annotations

import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from support.documents import Block, Command
from support.service import eventually

_END = "--- that was all: "
_WAIT_S = 120.0
_RAISE_LOOPBACK = "import fcntl, socket, struct; fcntl.ioctl(socket.socket(), 0x8914, struct.pack('16sh', b'lo', 0x49))"


class DocumentShell:
    """Ends what still runs in it with the context; what has left it (a service, a guest) is its user's.

    ``enter``: the words that start a program in the reader's world, such as nsenter's. ``home``: the reader's directory.
    """

    def __init__(
        self,
        home: Path,
        *,
        cwd: Path | None = None,
        enter: Sequence[str] = (),
        path: Sequence[Path] = (),
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self._asides: list[tuple[Command, int, Path]] = []
        self._home = home
        path = [*path, Path(sys.prefix) / "bin"]
        words = [*enter, "unshare", "--net", "--", "bash", "--noprofile", "--norc"]
        self._bash = subprocess.Popen(
            words,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd="/" if enter else cwd or home,
            text=True,
            env={
                "PATH": ":".join([*map(str, path), os.environ["PATH"]]),
                "HOME": str(home),
                "LC_ALL": "C.UTF-8",
                "TERM": "dumb",
                # lines of a program that writes into a file are seen when they come
                "PYTHONUNBUFFERED": "1",
                **(environment or {}),
            },
            start_new_session=True,
        )
        self._typed(f'cd {cwd or home} && {sys.executable} -c "{_RAISE_LOOPBACK}"', 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for _command, pid, _printed in self._asides:
            _end_group(pid)
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        self._bash.stdin.close()
        try:
            self._bash.wait(30)
        finally:
            if self._bash.poll() is None:
                os.killpg(self._bash.pid, signal.SIGKILL)
                self._bash.wait()
            self._bash.stdout.close()

    def follow(self, blocks: Sequence[Block]) -> None:
        """Do what the document says, and see what it shows.

        Raises:
            AssertionError: a command ends otherwise or prints something else than the document says.
        """
        for block in blocks:
            for command in () if block.unrun else block.commands:
                if block.aside:
                    self._start(command)
                    continue
                printed = self._typed(command.text, command.exit_code)
                assert not (why := command.mismatch(printed)), why

    def _typed(self, text: str, exit_code: int) -> str:
        """What the command printed."""
        assert self._bash.stdin is not None
        assert self._bash.stdout is not None
        # no command reads what is typed next
        self._bash.stdin.write(f"{{ {text}\n}} </dev/null 2>&1\nprintf '\\n%s%s\\n' '{_END}' $?\n")
        self._bash.stdin.flush()
        lines = []
        for line in self._bash.stdout:
            if line.startswith(_END):
                told = int(line.removeprefix(_END))
                printed = "".join(lines).removesuffix("\n")
                assert told == exit_code, f"$ {text}\n{printed}--- ended with {told}, not {exit_code}"
                return printed
            lines.append(line)
        raise AssertionError(f"$ {text}\n{''.join(lines)}--- the shell has ended")

    def _start(self, command: Command) -> None:
        """The command runs on; returns when it has printed what the document shows."""
        printed = self._home / f"terminal-{len(self._asides)}"
        printed.touch()
        # a shell's background is deaf to Ctrl-C, a terminal's program is not
        words = f"setsid env --default-signal=INT,QUIT bash -c {shlex.quote(command.text)}"
        told = self._typed(f"{words} >{printed} 2>&1 & echo $!", 0)
        self._asides.append((command, int(told), printed))

        def shown() -> bool:
            assert Path(f"/proc/{int(told)}/exe").exists(), f"$ {command.text}\n{printed.read_text()}--- has ended"
            return not command.mismatch(printed.read_text())

        try:
            eventually(shown, f"$ {command.text} prints what the document shows", timeout_s=_WAIT_S)
        except AssertionError as error:
            raise AssertionError(f"{error}\n{command.mismatch(printed.read_text())}") from None


def _end_group(pid: int) -> None:
    """As Ctrl-C would; returns when it is gone."""
    try:
        os.killpg(pid, signal.SIGINT)
    except ProcessLookupError:
        return
    until = time.monotonic() + _WAIT_S
    while Path(f"/proc/{pid}/exe").exists():
        if time.monotonic() > until:
            os.killpg(pid, signal.SIGKILL)
            raise AssertionError(f"process {pid} does not end by Ctrl-C")
        time.sleep(0.05)
