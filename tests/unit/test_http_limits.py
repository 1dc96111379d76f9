"""No client holds what others need: deadlines for asking and for reading, a bound on connections, bounded requests."""

from __future__ import annotations

import gc
import json
import logging
import resource
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import httpx
import pytest

from stillframe.domain.access import Principal, Role
from stillframe.domain.errors import ErrorCase
from stillframe.http.door import LOOKING_THREADS
from stillframe.http.parsing import JSON_MAX_DEPTH, QUERY_MAX_PARAMETERS
from stillframe.http.protocol import GuardedProtocol
from stillframe.http.server import RESERVED_DESCRIPTORS
from support.http_door import ADMIN_KEY, CLUSTER, SNAPSHOT, TENANT, VM, DoorClient, as_envelope, identified, must_fail
from support.http_server import RawConnection, serving
from support.service import eventually

BASE = "/v1/compute/vsd/snapshot"
KNOWN = f" HTTP/1.1\r\nHost: door\r\nApiKey: {ADMIN_KEY}\r\n".encode()
GET = f"GET {BASE}/head?cluster_uuid={CLUSTER}&compute_uuid={VM}".encode() + KNOWN + b"\r\n"
PICTURE = f"GET {BASE}/screenshot/{SNAPSHOT}.png".encode() + KNOWN + b"\r\n"
POST = f"POST {BASE}/delete".encode() + KNOWN + b"Content-Type: application/json\r\n"
BODY = json.dumps(identified(name="a")).encode()
LARGE = bytes(8 << 20)  # more than any kernel buffers of one connection
DRIBBLE_S = 0.05


@contextmanager
def opened(**settings: Any) -> Iterator[tuple[DoorClient, tuple[str, int]]]:
    door = DoorClient(shutdown_timeout_s=1, **settings)
    with serving(door.app) as address:
        yield door, address


def dribble(connection: RawConnection, said: bytes) -> None:
    """A byte now and then, until all is said or the server wants no more."""
    for number in range(len(said)):
        try:
            connection.say(said[number : number + 1])
        except OSError:  # it has closed, which is what is hoped for
            return
        if connection.is_heard(DRIBBLE_S):
            return


def must_answer(connection: RawConnection, scode: int = 0) -> dict[str, str]:
    status, headers, body = connection.hear()
    assert status == "HTTP/1.1 200 OK"
    assert json.loads(body)["scode"] == scode
    return headers


def test_headers_that_dribble_are_refused_and_the_connection_closed() -> None:
    with opened(header_timeout_s=0.5) as (door, address), RawConnection(address) as connection:
        dribble(connection, GET)
        assert must_answer(connection, ErrorCase.REQUEST_TOO_SLOW.code)["connection"] == "close"
        assert connection.is_closed()
        assert door.stub.asked == []


def test_headers_that_dribble_after_an_answer_are_refused_too() -> None:
    with opened(header_timeout_s=1) as (_, address), RawConnection(address) as connection:
        connection.say(GET)
        must_answer(connection)
        dribble(connection, GET)
        must_answer(connection, ErrorCase.REQUEST_TOO_SLOW.code)
        assert connection.is_closed()


def test_a_body_that_dribbles_is_refused_and_reaches_no_worker() -> None:
    with opened(request_timeout_s=0.5) as (door, address), RawConnection(address) as connection:
        connection.say(POST + b"Content-Length: %d\r\n\r\n" % len(BODY))
        dribble(connection, BODY)
        assert must_answer(connection, ErrorCase.REQUEST_TOO_SLOW.code)["connection"] == "close"
        assert connection.is_closed()
        assert door.stub.asked == []


def test_chunks_that_dribble_are_refused() -> None:
    with opened(request_timeout_s=0.5) as (_, address), RawConnection(address) as connection:
        connection.say(POST + b"Transfer-Encoding: chunked\r\n\r\n")
        dribble(connection, b"1\r\n \r\n" * 1000)
        must_answer(connection, ErrorCase.REQUEST_TOO_SLOW.code)
        assert connection.is_closed()


def test_a_client_that_takes_no_answer_is_cut_off(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with opened(answer_timeout_s=0.5) as (door, address), RawConnection(address, receive_bytes=4096) as connection:
        door.stub.outcomes["screenshot"] = LARGE
        connection.say(PICTURE)
        eventually(lambda: "took no answer" in caplog.text, "it is cut off")
        assert 0 < connection.count_rest() < len(LARGE), "what the kernels held is all that comes of it"


def test_clients_that_take_no_answer_hold_no_worker() -> None:
    with opened() as (door, address), ExitStack() as stack:
        door.stub.outcomes["screenshot"] = LARGE
        for _ in range(2 * LOOKING_THREADS):
            connection = stack.enter_context(RawConnection(address, receive_bytes=4096))
            connection.say(PICTURE)
            assert connection.is_heard(10)
        with RawConnection(address) as good:
            good.say(GET)
            must_answer(good)


def test_an_answer_that_is_taken_in_time_is_whole() -> None:
    with opened(answer_timeout_s=5) as (door, address), RawConnection(address) as connection:
        door.stub.outcomes["screenshot"] = LARGE
        for _ in range(3):
            connection.say(PICTURE)
            assert connection.hear()[2] == LARGE


def test_a_body_that_breaks_off_while_head_asks_gets_no_body() -> None:
    with opened() as (_, address), RawConnection(address) as connection:
        connection.say(GET.replace(b"GET", b"HEAD")[:-2] + b"Transfer-Encoding: chunked\r\n\r\nnonsense\r\n")
        status, headers, _ = connection.hear(with_body=False)
        assert status == "HTTP/1.1 400 Bad Request"
        assert int(headers["content-length"]) > 0
        assert connection.is_closed()


def test_where_there_are_too_many_the_longest_without_a_request_goes() -> None:
    with opened(max_connections=3) as (_, address), ExitStack() as stack:
        first, second = (stack.enter_context(RawConnection(address)) for _ in range(2))
        first.say(GET)
        must_answer(first)  # from now on it is the younger of the two
        for _ in range(2):
            good = stack.enter_context(RawConnection(address))
            good.say(GET)
            must_answer(good)
        assert second.is_closed()
        first.say(GET)
        must_answer(first)


def is_turned_away(address: tuple[str, int]) -> bool:
    try:
        with RawConnection(address) as connection:
            return connection.is_closed()
    except ConnectionResetError:  # before we knew that we were connected
        return True


def test_who_waits_for_an_answer_is_not_given_up() -> None:
    release = threading.Event()
    with opened(max_connections=2) as (door, address), ExitStack() as stack:
        stack.callback(release.set)
        answer = door.stub.outcomes["head_snapshot"]
        begun = threading.Semaphore(0)

        def slow(_ref: object) -> object:
            begun.release()
            release.wait(60)
            return answer

        door.stub.outcomes["head_snapshot"] = slow
        waiting = [stack.enter_context(RawConnection(address)) for _ in range(2)]
        for connection in waiting:
            connection.say(GET)
            begun.acquire()
        for _ in range(3):
            assert is_turned_away(address)
        release.set()
        for connection in waiting:
            must_answer(connection)


def alive(kind: type) -> int:
    return sum(isinstance(thing, kind) for thing in gc.get_objects())


@pytest.mark.parametrize(
    "said", [b"", b"G", GET, GET + GET, b"nonsense\r\n\r\n", POST, POST + b"Content-Length: 9\r\n\r\n"]
)
def test_a_connection_that_is_over_is_gone_without_the_collector_of_cycles(said: bytes) -> None:
    with opened() as (_, address):
        gc.collect()
        gc.disable()
        try:
            for _ in range(5):
                with RawConnection(address) as connection:
                    connection.say(said)
                    connection.is_heard(0.1)
            eventually(lambda: alive(GuardedProtocol) == 0, "all are gone")
        finally:
            gc.enable()


def test_answers_that_nobody_takes_hold_no_more_memory_than_allowed() -> None:
    with opened(max_held_bytes=2 * len(LARGE)) as (door, address), ExitStack() as stack:
        door.stub.outcomes["screenshot"] = LARGE
        readers = [stack.enter_context(RawConnection(address, receive_bytes=4096)) for _ in range(4)]
        for reader in readers:
            reader.say(PICTURE)
            assert reader.is_heard(10)
        with RawConnection(address) as good:
            good.say(PICTURE)
            assert good.hear()[2] == LARGE
        # the first were cut off without a word, whatever the kernel still had for them
        counts = [reader.count_rest() for reader in readers]
        assert max(counts[:2]) < len(LARGE)
        assert counts[3] > len(LARGE)


@pytest.mark.parametrize("kind", ["[]", "{}"])
@pytest.mark.parametrize("noise", ["", "[" * 1000, '\\"[[' * 1000])
def test_json_is_read_to_a_depth(kind: str, noise: str) -> None:
    door = DoorClient()

    def nested(depth: int) -> bytes:
        """``depth`` levels, the body's own with it; brackets in strings are none."""
        opening = "[" if kind == "[]" else '{"a":'
        inner = opening * (depth - 1) + f'"{noise}"' + kind[1] * (depth - 1)
        return f'{{"note": "{noise}", "extra": {inner}, {json.dumps(identified(name="a"))[1:]}'.encode()

    assert door.post_raw(f"{BASE}/delete", nested(JSON_MAX_DEPTH))["scode"] != ErrorCase.PARAMETER_MALFORMED.code
    desc = must_fail(door.post_raw(f"{BASE}/delete", nested(JSON_MAX_DEPTH + 1)), ErrorCase.PARAMETER_MALFORMED)
    assert f"at most {JSON_MAX_DEPTH} levels" in desc


def test_many_shallow_values_are_not_deep() -> None:
    body = {**identified(name="a"), "extra": [[]] * 1000}
    assert DoorClient().post(f"{BASE}/delete", body)["scode"] == 0


def test_query_parameters_are_counted() -> None:
    door = DoorClient()
    known = {"cluster_uuid": CLUSTER, "compute_uuid": VM}
    for count, scode in ((QUERY_MAX_PARAMETERS, 0), (QUERY_MAX_PARAMETERS + 1, ErrorCase.PARAMETER_MALFORMED.code)):
        assert door.get(f"{BASE}/head", **known, **{f"x{number}": "" for number in range(count - 2)})["scode"] == scode


def connections(soft: int, hard: int, wanted: int) -> tuple[int, int, str]:
    """How many are allowed in a process with these limits, its soft limit afterwards, and what it says."""
    code = (
        "import resource; from stillframe.http.server import open_files_for; "
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard})); "
        f"print(open_files_for({wanted}), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    allowed, limit = ran.stdout.split()
    return int(allowed), int(limit), ran.stderr


def test_the_limit_of_open_files_is_raised_as_far_as_connections_need() -> None:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    assert hard >= RESERVED_DESCRIPTORS + 1000, "this machine's own limit"
    assert connections(256, hard, 1000) == (1000, RESERVED_DESCRIPTORS + 1000, "")


def test_fewer_connections_where_the_machine_allows_no_more() -> None:
    allowed, limit, said = connections(256, RESERVED_DESCRIPTORS + 5000, 50_000)
    assert (allowed, limit) == (5000, RESERVED_DESCRIPTORS + 5000)
    assert "at most 5000 connections, not 50000" in said
    assert connections(256, 512, 50_000)[:2] == (128, 512)


def test_a_key_that_asks_too_often_is_told_when_to_come_again() -> None:
    door = DoorClient(requests_per_s=0.001)  # one request at a time
    for key in ("greedy", "modest"):
        door.stub.principals[key] = Principal(key, Role.READER, TENANT)
    where = {"cluster_uuid": CLUSTER, "compute_uuid": VM}

    def ask(key: str) -> httpx.Response:
        return door.request("GET", f"{BASE}/head", key=key, params=where)

    assert ask("greedy").json()["scode"] == 0
    refusal = ask("greedy")
    must_fail(as_envelope(refusal), ErrorCase.RATE_LIMITED)
    assert refusal.status_code == 200
    assert 500 < int(refusal.headers["retry-after"]) <= 1000
    assert len(door.stub.asked) == 1
    assert ask("modest").json()["scode"] == 0
    for _ in range(5):
        assert ask(ADMIN_KEY).json()["scode"] == 0
