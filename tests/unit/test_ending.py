"""A QEMU is ended behind libvirt's back, for the moment that libvirt needs; here something that looks like one to it."""

from __future__ import annotations

import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest

from stillframe.adapters.libvirt.ending import ended

# connects, says that it is there, and waits for a signal
CONNECTED = """import signal, socket, sys
monitor = socket.socket(socket.AF_UNIX)
monitor.connect(sys.argv[1])
print("up", flush=True)
signal.pause()
"""
UNCONNECTED = CONNECTED.replace("monitor.connect(sys.argv[1])\n", "")
DEAF = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + CONNECTED
UUID = str(uuid4())


@contextmanager
def machine(
    program: str, directory: Path, *words: str
) -> Iterator[tuple[subprocess.Popen[bytes], socket.socket | None]]:
    """Something with these words on its command line, waited for as soon as it is dead; and our end of its monitor."""
    path = directory / "monitor"
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))
        listening.listen()
        command = [sys.executable, "-c", program, str(path), *words]
        with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == b"up\n"
                threading.Thread(target=process.wait, daemon=True).start()
                listening.settimeout(0.2)
                try:
                    connection = listening.accept()[0]
                except TimeoutError:
                    yield process, None
                else:
                    with connection:
                        yield process, connection
            finally:
                process.kill()
                process.wait()


def is_broken(monitor: socket.socket) -> bool:
    return bool(select.select([monitor], [], [], 0)[0])


def test_it_is_gone_and_its_monitor_is_not_broken(tmp_path: Path) -> None:
    with machine(CONNECTED, tmp_path, "-name", "guest=vm", "-uuid", UUID, "-S") as (process, monitor):
        assert monitor is not None
        with ended(UUID):
            assert not Path(f"/proc/{process.pid}").exists()
            assert not is_broken(monitor)
        assert monitor.recv(1) == b"", "it breaks afterwards"
        assert process.wait() == -signal.SIGTERM, "it was asked, and could have closed its disks"


@pytest.mark.parametrize(
    ("program", "words"),
    [
        (UNCONNECTED, ("-name", "guest=vm", "-uuid", UUID, "-S")),
        (CONNECTED, ("-name", "guest=vm", "-uuid", str(uuid4()), "-S")),
        (CONNECTED, ("-uuid", UUID, "-S")),
    ],
)
def test_what_is_not_it_goes_on(tmp_path: Path, program: str, words: tuple[str, ...]) -> None:
    with machine(program, tmp_path, *words) as (process, _monitor):
        with ended(UUID):
            assert process.poll() is None
        assert process.poll() is None


def test_one_that_does_not_end_is_left_to_libvirt(tmp_path: Path) -> None:
    with machine(DEAF, tmp_path, "-name", "guest=vm", "-uuid", UUID, "-S") as (process, monitor):
        assert monitor is not None
        begun = time.monotonic()
        with ended(UUID):
            assert process.poll() is None
            assert not is_broken(monitor)
        assert time.monotonic() - begun < 30, "it is not waited for without end"


def test_what_libvirt_says_comes_through() -> None:
    with pytest.raises(OSError, match="as libvirt said"), ended(UUID):
        raise OSError("as libvirt said")
