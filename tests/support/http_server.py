"""A real uvicorn on loopback around an ASGI application, in a thread of the test."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Self

import uvicorn
from fastapi import FastAPI

START_TIMEOUT_S = 10.0


@contextmanager
def serving(app: FastAPI) -> Iterator[tuple[str, int]]:
    """Its address while it serves; it has ended when the context has."""
    with closing(socket.socket(socket.AF_INET, socket.SOCK_STREAM)) as listener:
        listener.bind(("127.0.0.1", 0))
        config = uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=2)
        server = uvicorn.Server(config)
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

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=10)
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
        return status, headers, self._stream.read(int(headers["content-length"])) if with_body else b""

    def is_closed(self) -> bool:
        """True when the server ends the connection now instead of saying more."""
        return self._stream.read(1) == b""
