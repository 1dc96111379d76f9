"""Inside TLS the same holds as without, from the first moment of a connection: a handshake may be slow too."""

from __future__ import annotations

import json
import logging
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest

from stillframe.domain.errors import ErrorCase
from support.http_door import ADMIN_KEY, CLUSTER, SNAPSHOT, VM, DoorClient, must_fail
from support.http_server import RawConnection, serving
from support.service import eventually

BASE = "/v1/compute/vsd/snapshot"
KNOWN = f" HTTP/1.1\r\nHost: door\r\nApiKey: {ADMIN_KEY}\r\n\r\n".encode()
GET = f"GET {BASE}/head?cluster_uuid={CLUSTER}&compute_uuid={VM}".encode() + KNOWN
PICTURE = f"GET {BASE}/screenshot/{SNAPSHOT}.png".encode() + KNOWN
LARGE = bytes(8 << 20)

T = TypeVar("T")
Opened = Callable[..., AbstractContextManager[tuple[DoorClient, tuple[str, int]]]]


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(certificate, key) of "door"."""
    where = tmp_path_factory.mktemp("tls")
    pair = where / "c.pem", where / "k.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "1",
         "-subj", "/CN=door", "-addext", "subjectAltName=DNS:door", "-keyout", str(pair[1]), "-out", str(pair[0])],
        check=True, capture_output=True,
    )  # fmt: skip
    return pair


@pytest.fixture
def opened(certificate: tuple[Path, Path]) -> Opened:
    @contextmanager
    def open_door(**settings: Any) -> Iterator[tuple[DoorClient, tuple[str, int]]]:
        files = {"tls_certificate": certificate[0], "tls_key": certificate[1]}
        door = DoorClient(**{"shutdown_timeout_s": 1, **files, **settings})
        with serving(door.app) as address:
            yield door, address

    return open_door


@pytest.fixture
def trusting(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    """A client's, that believes this certificate and no other."""
    return ssl.create_default_context(cafile=str(certificate[0]))


def must_be_served(address: tuple[str, int], trusting: ssl.SSLContext) -> None:
    with RawConnection(address, tls=trusting) as good:
        for _ in range(2):
            good.say(GET)
            assert json.loads(good.hear()[2])["scode"] == 0


def test_requests_are_answered(opened: Opened, trusting: ssl.SSLContext) -> None:
    with opened() as (door, address):
        door.stub.outcomes["screenshot"] = LARGE
        for _ in range(20):  # each time the request may come together with the end of the handshake, or after it
            must_be_served(address, trusting)
        with RawConnection(address, tls=trusting) as connection:
            connection.say(PICTURE * 2)
            for _ in range(2):
                assert connection.hear()[2] == LARGE


def test_a_request_that_comes_with_the_last_words_of_the_handshake_is_answered(
    opened: Opened, trusting: ssl.SSLContext
) -> None:
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    inside = trusting.wrap_bio(incoming, outgoing, server_hostname="door")
    with opened() as (_, address), socket.create_connection(address, timeout=10) as connection:

        def exchange(step: Callable[[], T]) -> T:
            """What the step comes to, when as much has been heard as it needs."""
            while True:
                try:
                    return step()
                except ssl.SSLWantReadError:
                    connection.sendall(outgoing.read())
                    heard = connection.recv(65536)
                    assert heard
                    incoming.write(heard)

        exchange(inside.do_handshake)
        inside.write(GET)
        connection.sendall(outgoing.read())
        answer = b""
        while b'"scode":0' not in answer:
            answer += exchange(inside.read)


@pytest.mark.parametrize("said", [b"", b"\x16\x03\x01\x02\x00\x01\x00", GET])
def test_a_handshake_that_does_not_come_to_its_end_is_not_waited_for(
    opened: Opened, trusting: ssl.SSLContext, said: bytes
) -> None:
    with opened(header_timeout_s=0.5) as (_, address), RawConnection(address) as silent:
        silent.say(said)
        assert silent.count_rest() < 100, "an alert at most"


def test_headers_that_do_not_end_are_refused_inside(opened: Opened, trusting: ssl.SSLContext) -> None:
    with opened(header_timeout_s=0.5) as (_, address), RawConnection(address, tls=trusting) as slow:
        slow.say(GET[:20])
        must_fail(json.loads(slow.hear()[2]), ErrorCase.REQUEST_TOO_SLOW)
        assert slow.is_closed()


def test_what_is_no_http_is_refused_inside(opened: Opened, trusting: ssl.SSLContext) -> None:
    with opened() as (_, address):
        with RawConnection(address, tls=trusting) as connection:
            connection.say(b"nonsense\r\n\r\n")
            must_fail(json.loads(connection.hear()[2]), ErrorCase.REQUEST_BROKEN)
            assert connection.is_closed()
        must_be_served(address, trusting)


def test_who_does_not_begin_the_handshake_makes_room_for_others(opened: Opened, trusting: ssl.SSLContext) -> None:
    with opened(max_connections=2) as (_, address), ExitStack() as stack:
        silent = [stack.enter_context(RawConnection(address)) for _ in range(4)]
        must_be_served(address, trusting)
        assert all(connection.is_closed() for connection in silent[:3])


def test_a_client_that_takes_no_answer_is_cut_off(
    opened: Opened, trusting: ssl.SSLContext, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    with opened(answer_timeout_s=1) as (door, address):
        door.stub.outcomes["screenshot"] = LARGE
        with RawConnection(address, tls=trusting, receive_bytes=4096) as reader:
            reader.say(PICTURE)
            eventually(lambda: "took no answer" in caplog.text, "it is cut off")
            assert reader.count_rest() < len(LARGE)
        must_be_served(address, trusting)


def test_answers_that_nobody_takes_hold_no_more_memory_than_allowed(opened: Opened, trusting: ssl.SSLContext) -> None:
    with opened(max_held_bytes=2 * len(LARGE)) as (door, address), ExitStack() as stack:
        door.stub.outcomes["screenshot"] = LARGE
        readers = [stack.enter_context(RawConnection(address, tls=trusting, receive_bytes=4096)) for _ in range(4)]
        for reader in readers:
            reader.say(PICTURE)
            assert not reader.is_at_end(), "the answer has begun"
        must_be_served(address, trusting)
        assert max(reader.count_rest() for reader in readers[:2]) < len(LARGE)
        assert readers[3].count_rest() > len(LARGE)


def test_a_stop_does_not_wait_for_idle_clients(opened: Opened, trusting: ssl.SSLContext) -> None:
    with ExitStack() as stack:
        with opened(shutdown_timeout_s=3600) as (_, address):
            idle = stack.enter_context(RawConnection(address, tls=trusting))
            idle.say(GET)
            assert json.loads(idle.hear()[2])["scode"] == 0
        # ``serving`` has ended, and would have failed if it had not
        with pytest.raises(ConnectionRefusedError), socket.create_connection(address):
            pass
