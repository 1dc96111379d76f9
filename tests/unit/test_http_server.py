"""The door on a real server: bounded bodies however they are sent, broken requests, HEAD, and a connection that
stays usable.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import httpx
import pytest

from stillframe.domain.errors import ErrorCase
from support.http_door import ADMIN_KEY, CLUSTER, VM, DoorClient, as_envelope, identified, must_fail
from support.http_server import RawConnection, serving

LIMIT_BYTES = 10_000
DELETE = "/v1/compute/vsd/snapshot/delete"
HEAD = f"/v1/compute/vsd/snapshot/head?cluster_uuid={CLUSTER}&compute_uuid={VM}"
POST_LINES = (
    f"POST {DELETE} HTTP/1.1\r\nHost: door\r\nApiKey: {ADMIN_KEY}\r\nContent-Type: application/json\r\n".encode()
)
GOOD = json.dumps(identified(name="a")).encode()


@pytest.fixture(scope="module")
def door() -> DoorClient:
    return DoorClient(max_body_bytes=LIMIT_BYTES)


@pytest.fixture(scope="module")
def address(door: DoorClient) -> Iterator[tuple[str, int]]:
    with serving(door.app) as where:
        yield where


@pytest.fixture
def connection(address: tuple[str, int]) -> Iterator[RawConnection]:
    with RawConnection(address) as open_connection:
        yield open_connection


def post(body: bytes, *more: str) -> bytes:
    lines = "".join(f"{line}\r\n" for line in (f"Content-Length: {len(body)}", *more))
    return POST_LINES + lines.encode() + b"\r\n" + body


def chunks(size: int, count: int) -> bytes:
    return f"{size:x}\r\n".encode() + b" " * size + b"\r\n" if count == 1 else chunks(size, 1) * count


def must_answer(connection: RawConnection, case: ErrorCase) -> dict[str, str]:
    status, headers, body = connection.hear()
    assert status == "HTTP/1.1 200 OK"
    assert headers["x-request-id"]
    must_fail(json.loads(body), case)
    return headers


def must_still_work(connection: RawConnection) -> None:
    connection.say(post(GOOD))
    assert json.loads(connection.hear()[2])["scode"] == 0


@pytest.mark.parametrize("size", [LIMIT_BYTES + 1, 10 << 20])
def test_a_large_body_is_refused_and_the_connection_goes_on(connection: RawConnection, size: int) -> None:
    connection.say(post(b" " * size))
    must_answer(connection, ErrorCase.BODY_TOO_LARGE)
    must_still_work(connection)


def test_a_body_at_the_limit_is_read(connection: RawConnection) -> None:
    connection.say(post(GOOD.ljust(LIMIT_BYTES)))
    assert json.loads(connection.hear()[2])["scode"] == 0


@pytest.mark.parametrize("last", [b"0\r\n\r\n", b"1\r\n \r\n0\r\n\r\n"])
def test_a_large_chunked_body_is_refused_and_the_connection_goes_on(connection: RawConnection, last: bytes) -> None:
    begun = time.monotonic()
    connection.say(POST_LINES + b"Transfer-Encoding: chunked\r\n\r\n" + chunks(5000, 40) + last)
    must_answer(connection, ErrorCase.BODY_TOO_LARGE)
    must_still_work(connection)
    assert time.monotonic() - begun < 5


def test_a_chunked_body_is_read(connection: RawConnection) -> None:
    framed = f"{len(GOOD):x}\r\n".encode() + GOOD + b"\r\n0\r\n\r\n"
    connection.say(POST_LINES + b"Transfer-Encoding: chunked\r\n\r\n" + framed)
    assert json.loads(connection.hear()[2])["scode"] == 0


def test_a_client_that_asks_first_is_refused_before_it_sends(connection: RawConnection) -> None:
    connection.say(POST_LINES + b"Content-Length: 20000\r\nExpect: 100-continue\r\n\r\n")
    headers = must_answer(connection, ErrorCase.BODY_TOO_LARGE)
    assert headers["connection"] == "close"
    assert connection.is_closed()


def test_a_body_beyond_all_reason_ends_the_connection(connection: RawConnection) -> None:
    connection.say(POST_LINES + b"Content-Length: 999999999999999\r\n\r\n")
    assert must_answer(connection, ErrorCase.BODY_TOO_LARGE)["connection"] == "close"


def test_a_client_that_leaves_halfway_harms_nobody(address: tuple[str, int]) -> None:
    with RawConnection(address) as leaving:
        leaving.say(POST_LINES + b"Content-Length: 500\r\n\r\nhalf")
    with RawConnection(address) as next_one:
        must_still_work(next_one)


@pytest.mark.parametrize("body", [b"{", b"[" * 9000, b'{"name": "\\udc00"}', b"\xff\xfe"])
def test_broken_json_leaves_the_connection_usable(connection: RawConnection, body: bytes) -> None:
    connection.say(post(body))
    must_answer(connection, ErrorCase.PARAMETER_MALFORMED)
    must_still_work(connection)


def test_head_says_the_length_and_sends_nothing(connection: RawConnection) -> None:
    connection.say(f"HEAD {HEAD} HTTP/1.1\r\nHost: door\r\nApiKey: {ADMIN_KEY}\r\n\r\n".encode())
    status, headers, _ = connection.hear(with_body=False)
    assert status == "HTTP/1.1 200 OK"
    assert int(headers["content-length"]) > 0
    must_still_work(connection)  # a stray body would be read as the next answer


def test_chinese_in_urls(address: tuple[str, int], door: DoorClient) -> None:
    url = f"http://{address[0]}:{address[1]}/v1/compute/vsd/snapshot/get"
    params = {"cluster_uuid": "", "compute_uuid": VM, "name": "升级前 100%"}
    with httpx.Client(trust_env=False, headers={"ApiKey": ADMIN_KEY}) as client:
        assert as_envelope(client.get(url, params=params))["scode"] == 0
    assert door.stub.asked[-1][2] == "升级前 100%"


def test_a_crash_leaves_the_connection_usable(connection: RawConnection, door: DoorClient) -> None:
    door.stub.outcomes["head_snapshot"] = ZeroDivisionError()
    connection.say(f"GET {HEAD} HTTP/1.1\r\nHost: door\r\nApiKey: {ADMIN_KEY}\r\n\r\n".encode())
    must_answer(connection, ErrorCase.INTERNAL)
    must_still_work(connection)


@pytest.mark.parametrize(
    ("trusted", "noted"),
    [("", "127.0.0.1"), ("192.0.2.0/24", "127.0.0.1"), ("127.0.0.1", "203.0.113.9"), ("127.0.0.0/8", "203.0.113.9")],
)
def test_who_is_on_whose_behalf_is_believed_of_a_trusted_proxy_alone(trusted: str, noted: str) -> None:
    door = DoorClient(trusted_proxies=trusted)
    with serving(door.app) as address, RawConnection(address) as connection:
        connection.say(
            POST_LINES.replace(ADMIN_KEY.encode(), b"reader")
            + b"X-Forwarded-For: 203.0.113.9\r\nContent-Length: 2\r\n\r\n{}"
        )
        must_answer(connection, ErrorCase.NOT_AUTHENTICATED)
    assert [attempt.address for attempt in door.stub.noted] == [noted]
