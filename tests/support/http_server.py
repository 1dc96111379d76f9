"""A real uvicorn on loopback around an ASGI application, in a thread of the test."""

from __future__ import annotations

import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Self

import uvicorn
from fastapi import FastAPI

from stillframe.http.server import server_config

START_TIMEOUT_S = 10.0


@contextmanager
def serving(app: FastAPI) -> Iterator[tuple[str, int]]:
    """Its address while it serves, with the application's settings; it has ended when the context has."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        listener.bind(("127.0.0.1", 0))
        server = uvicorn.Server(server_config(app, app.state.door.settings))
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
        thread.start()
        try:
            deadline = time.monotonic() + START_TIMEOUT_S
            while not server.started:
                assert time.monotonic() < deadline, "uvicorn did not start"
                time.sleep(0.01)
            yield listener.getsockname()
        finally:
            server.should_exit = True
            thread.join(START_TIMEOUT_S)
            assert not thread.is_alive()


class RawConnection:
    """One TCP connection that says exactly the given bytes, and reads HTTP/1.1 answers with a Content-Length."""

    def __init__(self, address: tuple[str, int], *, receive_bytes: int = 0, tls: ssl.SSLContext | None = None) -> None:
        """``receive_bytes``: how much the kernel keeps for us, where that matters. ``tls``: inside it, to "door"."""
        self._socket = socket.socket()
        self._socket.settimeout(10)
        if receive_bytes:  # before connecting, or the window is agreed upon
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_bytes)
        try:
            self._socket.connect(address)
            if tls is not None:
                self._socket = tls.wrap_socket(self._socket, server_hostname="door")
        except OSError:
            self._socket.close()
            raise
        self._stream = self._socket.makefile("rb")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stream.close()
        self._socket.close()

    def say(self, raw: bytes) -> None:
        self._socket.sendall(raw)

    def hear(self, *, with_body: bool = True) -> tuple[str, dict[str, str], bytes]:
        """(status line, headers in lower case, body) of the next answer."""
        status = self._stream.readline().decode().strip()
        headers = {}
        while line := self._stream.readline().decode().strip():
            name, _, value = line.partition(":")
            headers[name.lower()] = value.strip()
        has_body = with_body and not status.startswith("HTTP/1.1 100 ")
        return status, headers, self._stream.read(int(headers["content-length"])) if has_body else b""

    def is_heard(self, within_s: float) -> bool:
        """Something can be heard, the end of the connection too."""
        return bool(select.select([self._socket], [], [], within_s)[0])

    def count_rest(self) -> int:
        """How many bytes come until the connection ends, in whatever way."""
        count = 0
        try:
            while part := self._stream.read1():
                count += len(part)
        except (ConnectionResetError, ssl.SSLEOFError):
            pass  # it has ended
        return count

    def is_at_end(self) -> bool:
        """True when the server ends the connection now; False when it says more, which can still be heard."""
        return self._stream.peek(1) == b""

    def is_closed(self) -> bool:
        """True when the server ends the connection now, in whatever way, instead of saying more."""
        try:
            return self._stream.read(1) == b""
        except (ConnectionResetError, ssl.SSLEOFError):
            return True
