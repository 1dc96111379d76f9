"""A client that costs next to nothing, so that what is measured is the server: requests that lie ready, over plain sockets."""

from __future__ import annotations

import os
import select
import socket
import time
from contextlib import ExitStack, closing
from dataclasses import dataclass
from pathlib import Path

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_CONNECTIONS = 8
_RECEIVED_AT_ONCE = 1 << 18


@dataclass(frozen=True)
class Request:
    """A GET of one server, as it goes over the wire. ``pid``: whose processor time it takes."""

    port: int
    pid: int
    wire: bytes


def get(port: int, pid: int, path: str, key: str = "") -> Request:
    lines = [f"GET {path} HTTP/1.1", f"Host: 127.0.0.1:{port}", *([f"ApiKey: {key}"] if key else [])]
    return Request(port, pid, "\r\n".join([*lines, "", ""]).encode())


class Connection:
    """One connection, with one request on the way at most."""

    def __init__(self, port: int) -> None:
        self.socket = socket.create_connection(("127.0.0.1", port))
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._heard = b""

    def close(self) -> None:
        self.socket.close()

    def send(self, wire: bytes) -> None:
        self._heard = b""
        self.socket.sendall(wire)

    def receive(self) -> bytes | None:
        """The body, when all of it is here.

        Raises:
            RuntimeError: the server hung up, or answered with another status than 200.
        """
        more = self.socket.recv(_RECEIVED_AT_ONCE)
        self._heard += more
        head, end, body = self._heard.partition(b"\r\n\r\n")
        if not more or (end and not head.startswith(b"HTTP/1.1 200 ")):
            raise RuntimeError(f"no answer, but {self._heard[:300]!r}")
        if not end:
            return None
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        return body if len(body) == length else None


def ask(connection: Connection, request: Request) -> tuple[float, bytes]:
    """(milliseconds to the end of the body, body)."""
    begun = time.perf_counter()
    connection.send(request.wire)
    while (body := connection.receive()) is None:
        pass
    return (time.perf_counter() - begun) * 1000, body


@dataclass(frozen=True)
class Served:
    """What a server did in a while: answers a second, and its own processor time for each."""

    per_s: float
    cpu_ms: float


def crowd(request: Request, seconds: float) -> Served:
    """Ask on several connections at once, each again as soon as it is answered."""
    with ExitStack() as stack:
        connections = [Connection(request.port) for _ in range(_CONNECTIONS)]
        by_number = {stack.enter_context(closing(one)).socket.fileno(): one for one in connections}
        poll = select.epoll()
        stack.callback(poll.close)
        for number, one in by_number.items():
            poll.register(number, select.EPOLLIN)
            one.send(request.wire)
        begun, cpu_before, answered = time.perf_counter(), _cpu_s(request.pid), 0
        while (taken := time.perf_counter() - begun) < seconds:
            for number, _event in poll.poll(1):
                if by_number[number].receive() is not None:
                    answered += 1
                    by_number[number].send(request.wire)
        if not answered:
            raise RuntimeError(f"nothing was answered within {seconds} s")
        return Served(answered / taken, (_cpu_s(request.pid) - cpu_before) * 1000 / answered)


def _cpu_s(pid: int) -> float:
    """Of all its threads, also those that have ended."""
    after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(after_name[11]) + int(after_name[12])) / _TICKS_PER_S
