"""Bytes that are no HTTP, or almost: each ends in an envelope or a closed connection, and the next client is served."""

from __future__ import annotations

import json
import logging
import random
import ssl
from collections.abc import Iterator

import pytest

from stillframe.domain.errors import ErrorCase
from support.http_door import ADMIN_KEY, CLUSTER, ENVELOPE, VM, DoorClient, identified, must_fail
from support.http_server import RawConnection, serving

HEADER_BYTES = 4096
HEAD = f"/v1/compute/vsd/snapshot/head?cluster_uuid={CLUSTER}&compute_uuid={VM}"
KEY = f"ApiKey: {ADMIN_KEY}\r\n".encode()
KNOWN = b" HTTP/1.1\r\nHost: door\r\n" + KEY
GET = f"GET {HEAD}".encode() + KNOWN
POST = b"POST /v1/compute/vsd/snapshot/delete" + KNOWN + b"Content-Type: application/json\r\n"
BODY = json.dumps(identified(name="a")).encode()
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"


def tls_hello() -> bytes:
    """What a client says first that takes this for an https address."""
    outgoing = ssl.MemoryBIO()
    client = ssl.create_default_context().wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname="door")
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


BROKEN = ErrorCase.REQUEST_BROKEN
SLOW = ErrorCase.REQUEST_TOO_SLOW
MALFORMED = ErrorCase.PARAMETER_MALFORMED
UNKNOWN = ErrorCase.CALL_UNKNOWN

# name: what is said, and the cases that its answers are (0: success); nothing: closed without a word
CORPUS: dict[str, tuple[bytes, list[ErrorCase | int]]] = {
    "nothing": (b"", []),
    "an empty line": (b"\r\n\r\n", [BROKEN]),
    "zeroes": (b"\0" * 100, [BROKEN]),
    "high bytes": (b"\xff" * 100 + b"\r\n\r\n", [BROKEN]),
    "tls": (tls_hello(), [BROKEN]),
    "ssh": (b"SSH-2.0-OpenSSH_9.9\r\n\r\n", [BROKEN]),
    "http 0.9": (b"GET /\r\n", [SLOW]),
    "http 0.9 and a line": (b"GET /\r\n\r\n", [BROKEN]),
    "http 2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", [BROKEN]),
    "http 3": (f"GET {HEAD} HTTP/3.0\r\n\r\n".encode(), [BROKEN]),
    "no such version": (b"GET / HTTP/x.y\r\nHost: door\r\n\r\n", [BROKEN]),
    "a long version": (b"GET / HTTP/1.11111\r\nHost: door\r\n\r\n", [BROKEN]),
    "lower case": (b"get / http/1.1\r\nhost: door\r\n\r\n", [BROKEN]),
    "no method": (b" / HTTP/1.1\r\nHost: door\r\n\r\n", [BROKEN]),
    "a strange method": (b"G{T / HTTP/1.1\r\nHost: door\r\n\r\n", [BROKEN]),
    "an unknown method": (b"BREW /" + KNOWN + b"\r\n", [UNKNOWN]),
    "a long method": (b"G" * 3000 + b" /" + KNOWN + b"\r\n", [UNKNOWN]),
    "no target": (b"GET  HTTP/1.1\r\nHost: door\r\n\r\n", [BROKEN]),
    "a space in the target": (b"GET /a b HTTP/1.1\r\nHost: door\r\n\r\n", [BROKEN]),
    "a tab": (b"GET\t/\tHTTP/1.1\r\nHost: door\r\n\r\n", [BROKEN]),
    "chinese, not encoded": ("GET /快照 HTTP/1.1\r\nHost: door\r\n\r\n".encode(), [BROKEN]),
    "a whole address": (f"GET http://door{HEAD}".encode() + KNOWN + b"\r\n", [UNKNOWN]),
    "an authority": (b"GET door:80" + KNOWN + b"\r\n", [UNKNOWN]),
    "a star": (b"OPTIONS *" + KNOWN + b"\r\n", [UNKNOWN]),
    "a tunnel": (b"CONNECT door:443 HTTP/1.1\r\nHost: door:443\r\n\r\n", [BROKEN]),
    "dots": (b"GET /../../../etc/passwd" + KNOWN + b"\r\n", [UNKNOWN]),
    "encoded zero": (b"GET /v1/%00" + KNOWN + b"\r\n", [UNKNOWN]),
    "encoded nonsense": (b"GET /v1/%ff%zz%" + KNOWN + b"\r\n", [UNKNOWN]),
    "no host": (b"GET / HTTP/1.1\r\n\r\n", [BROKEN]),
    "no key": (GET.replace(KEY, b"") + b"\r\n", [ErrorCase.NOT_AUTHENTICATED]),
    "two keys": (GET + KEY + b"\r\n", [ErrorCase.NOT_AUTHENTICATED]),
    "two hosts": (GET + b"Host: other\r\n\r\n", [BROKEN]),
    "zero in a header": (GET + b"X-A: b\0c\r\n\r\n", [BROKEN]),
    "carriage return in a header": (GET + b"X-A: b\rX-B: c\r\n\r\n", [BROKEN]),
    "a header without a name": (GET + b": b\r\n\r\n", [BROKEN]),
    "a header without a colon": (GET + b"nonsense\r\n\r\n", [BROKEN]),
    "a space before the colon": (GET + b"X-A : b\r\n\r\n", [BROKEN]),
    "a folded line first": (b"GET / HTTP/1.1\r\n X: y\r\nHost: door\r\n\r\n", [BROKEN]),
    "headers that do not end": (GET + b"X-A: b", [SLOW]),
    "a huge header": (GET + b"X-A: " + b"b" * 2 * HEADER_BYTES + b"\r\n\r\n", [ErrorCase.HEADERS_TOO_LARGE]),
    "a huge header without end": (GET + b"X-A: " + b"b" * (1 << 20), [ErrorCase.HEADERS_TOO_LARGE]),
    "many headers": (GET + b"X: y\r\n" * HEADER_BYTES + b"\r\n", [ErrorCase.HEADERS_TOO_LARGE]),
    "a huge url": (b"GET /" + b"a" * 2 * HEADER_BYTES + b" HTTP/1.1\r\nHost: d\r\n\r\n", [ErrorCase.URL_TOO_LONG]),
    "a huge url without end": (b"GET /" + b"a" * (1 << 20), [ErrorCase.URL_TOO_LONG]),
    "many parameters": (b"GET /?" + b"a&" * 64 + b" HTTP/1.1\r\nHost: d\r\n\r\n", [MALFORMED]),
    "two lengths": (POST + b"Content-Length: 5\r\nContent-Length: 6\r\n\r\n12345", [BROKEN]),
    "the same length twice": (POST + b"Content-Length: %d\r\n" % len(BODY) * 2 + b"\r\n" + BODY, [0]),
    "lengths in a list": (POST + b"Content-Length: 5, 6\r\n\r\n12345", [BROKEN]),
    "a negative length": (POST + b"Content-Length: -1\r\n\r\n", [BROKEN]),
    "a length with a sign": (POST + b"Content-Length: +5\r\n\r\n12345", [BROKEN]),
    "a length that is none": (POST + b"Content-Length: five\r\n\r\n12345", [BROKEN]),
    "a length beyond numbers": (POST + b"Content-Length: " + b"9" * 50 + b"\r\n\r\n", [BROKEN]),
    "a length of many digits": (POST + b"Content-Length: " + b"9" * 20 + b"\r\n\r\n", [ErrorCase.BODY_TOO_LARGE]),
    "length and chunks": (POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET, [BROKEN]),
    "chunks in http 1.0": (CHUNKED.replace(b"HTTP/1.1", b"HTTP/1.0") + b"0\r\n\r\n", [BROKEN]),
    "chunked twice": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", [BROKEN]),
    "gzip": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n", [BROKEN]),
    "chunked, misspelt": (POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", [BROKEN]),
    "a chunk's size is none": (CHUNKED + b"xyz\r\n", [BROKEN]),
    "a chunk's size is negative": (CHUNKED + b"-1\r\n", [BROKEN]),
    "a chunk's size is beyond numbers": (CHUNKED + b"f" * 21 + b"\r\n", [BROKEN]),
    "a chunk's size does not end": (CHUNKED + b"0" * 2 * HEADER_BYTES, [BROKEN]),
    "a chunk is longer than it says": (CHUNKED + b"3\r\nabcdef\r\n0\r\n\r\n", [BROKEN]),
    "a chunk does not end": (CHUNKED + b"ff\r\nabc", [SLOW]),
    "chunks do not end": (CHUNKED + b"3\r\nabc\r\n", [SLOW]),
    "a trailer is no header": (CHUNKED + b"0\r\nnonsense\r\n\r\n", [BROKEN]),
    "trailers do not end": (CHUNKED + b"0\r\nX: " + b"y" * 2 * HEADER_BYTES, [BROKEN]),
    "a body does not end": (POST + b"Content-Length: 1000\r\n\r\nabc", [SLOW]),
    "a body is awaited": (POST + b"Content-Length: 1000\r\nExpect: 100-continue\r\n\r\n", [SLOW]),
    "three at once": ((GET + b"\r\n") * 3, [0, 0, 0]),
    "a good one and a broken one": (GET + b"\r\n" + b"\0\0\0", [0, BROKEN]),
    "the last one, and more": (GET + b"Connection: close\r\n\r\n" + GET, [0]),
    "an upgrade": (GET + b"Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\r\n", [0]),
    "another upgrade": (GET + b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: A\r\n\r\n", [0]),
    "http 1.0": (f"GET {HEAD} HTTP/1.0\r\n".encode() + KEY + b"\r\n", [0]),
}  # fmt: skip


@pytest.fixture(scope="module")
def patient() -> Iterator[tuple[str, int]]:
    """It waits long enough for any client of these tests."""
    with serving(DoorClient(max_header_bytes=HEADER_BYTES, shutdown_timeout_s=1).app) as where:
        yield where


@pytest.fixture(scope="module")
def hasty() -> Iterator[tuple[str, int]]:
    """It waits so short that a test can wait for it; a good client that the machine holds up may be too slow for it."""
    waits = {"header_timeout_s": 0.3, "request_timeout_s": 0.3, "answer_timeout_s": 5}
    with serving(DoorClient(max_header_bytes=HEADER_BYTES, shutdown_timeout_s=1, **waits).app) as where:
        yield where


@pytest.fixture(autouse=True)
def _nothing_crashes(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The server's threads say nothing worse than that a request was refused."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno > logging.INFO] == []


Heard = tuple[int, dict[str, str], bytes]


def answers(connection: RawConnection, at_most: int = 100) -> list[Heard]:
    """What is answered until the server ends the connection (how long the test waits for that is RawConnection's)."""
    heard: list[Heard] = []
    while len(heard) < at_most and not connection.is_at_end():
        status, headers, body = connection.hear()
        if " 100 " not in status:
            heard.append((int(status.split()[1]), headers, body))
    return heard


def must_be(heard: list[Heard], expected: list[ErrorCase | int]) -> None:
    assert [json.loads(body)["scode"] for _, _, body in heard] == [getattr(case, "code", case) for case in expected]
    for (status, headers, body), case in zip(heard, expected, strict=True):
        assert status == (400 if case is BROKEN else 200)
        assert headers["content-type"] == "application/json"
        assert headers["x-request-id"]
        if isinstance(case, ErrorCase):
            must_fail(json.loads(body), case)


def must_serve_the_next(address: tuple[str, int]) -> None:
    with RawConnection(address) as next_one:
        next_one.say(GET + b"\r\n")
        assert json.loads(next_one.hear()[2])["scode"] == 0


@pytest.mark.parametrize("name", [name for name, (_, expected) in CORPUS.items() if expected not in ([], [SLOW])])
def test_it_is_answered_with_envelopes(patient: tuple[str, int], name: str) -> None:
    said, expected = CORPUS[name]
    with RawConnection(patient) as connection:
        connection.say(said)
        heard = answers(connection, len(expected))
        must_be(heard, expected)
        if heard[-1][1].get("connection") == "close":
            assert connection.is_closed()
        else:
            assert expected[-1] is not BROKEN
            connection.say(GET + b"\r\n")
            must_be(answers(connection, 1), [0])
    must_serve_the_next(patient)


@pytest.mark.parametrize("name", [name for name, (_, expected) in CORPUS.items() if expected in ([], [SLOW])])
def test_what_does_not_come_to_its_end_is_not_waited_for(hasty: tuple[str, int], name: str) -> None:
    said, expected = CORPUS[name]
    with RawConnection(hasty) as connection:
        connection.say(said)
        must_be(answers(connection), expected)


@pytest.mark.parametrize("name", CORPUS)
def test_a_client_that_leaves_at_once_harms_nobody(patient: tuple[str, int], name: str) -> None:
    with RawConnection(patient) as connection:
        connection.say(CORPUS[name][0])
    must_serve_the_next(patient)


@pytest.mark.parametrize("seed", range(40))
def test_bytes_changed_at_random_end_in_envelopes_or_a_closed_connection(hasty: tuple[str, int], seed: int) -> None:
    dice = random.Random(seed)
    said = bytearray(dice.choice([said for said, _ in CORPUS.values() if said])[: 4 * HEADER_BYTES])
    for _ in range(dice.randint(1, 5)):
        said[dice.randrange(len(said))] = dice.choice([0, 9, 10, 13, 32, 58, 0x80, 0xFF, dice.randrange(256)])
    with RawConnection(hasty) as connection:
        connection.say(bytes(said[: dice.randint(1, len(said))]))
        for status, headers, body in answers(connection):
            assert status < 500
            assert headers["x-request-id"]
            assert list(json.loads(body)) == ENVELOPE


def test_a_status_of_its_own_where_asked_for() -> None:
    door = DoorClient(http_errors="semantic", max_header_bytes=HEADER_BYTES, header_timeout_s=0.5, shutdown_timeout_s=1)
    statuses = {}
    with serving(door.app) as address:
        for name in ("a huge header", "a huge header without end", "a huge url", "a huge url without end", "http 0.9"):
            with RawConnection(address) as connection:
                connection.say(CORPUS[name][0])
                statuses[name] = answers(connection)[0][0]
    assert list(statuses.values()) == [431, 431, 414, 414, 408]
