"""The two clients against a real door on loopback: what is tried again and what never is, waiting, and how they connect."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest

from stillframe.client import (
    ApiError,
    AsyncClient,
    Client,
    MemoryNotSavedError,
    NoAnswerError,
    NoServiceError,
    NotFoundError,
    NotStillframeError,
    StillGoingOnError,
)
from stillframe.client.models import Task
from stillframe.domain.errors import ErrorCase
from stillframe.domain.snapshot import MemoryStatus
from stillframe.operations.requests import VmPage
from stillframe.operations.tasks import TaskPage, TaskState
from support.http_door import (
    ADMIN_KEY,
    OPERATION,
    SNAPSHOT,
    VM,
    DoorClient,
    a_memory,
    a_row,
    a_snapshot,
    a_task,
    refused,
)
from unit.test_http_tls import certificate

__all__ = ["certificate"]  # a fixture


@pytest.fixture
def client(door: DoorClient, served: tuple[DoorClient, str]) -> Iterator[Client]:
    with Client(served[1], ADMIN_KEY) as client:
        yield client


@dataclass
class Script:
    """A server that answers one thing after the other, and remembers what was asked."""

    answers: list[tuple[dict[str, Any] | None, dict[str, str]]]
    asked: list[str] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


@contextmanager
def scripted(*answers: tuple[dict[str, Any] | None, dict[str, str]]) -> Iterator[tuple[Script, str]]:
    """Each an envelope and its headers; None: the connection ends without an answer."""
    script = Script(list(answers))

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            script.asked.append(f"{self.command} {self.path.split('?')[0]}")
            script.keys.append(self.headers["ApiKey"])
            self.rfile.read(int(self.headers["Content-Length"] or 0))
            envelope, headers = script.answers.pop(0)
            if envelope is None:
                self.close_connection = True
                return
            body = json.dumps(envelope).encode()
            self.send_response(200)
            for name, value in {**headers, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        do_POST = do_GET  # noqa: N815 -- the base class's spelling

        def log_message(self, *_: Any) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        try:
            yield script, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def output(data: Any = None, scode: int = 0) -> dict[str, Any]:
    return {"scode": scode, "desc": "d", "message": "m", "message_cn": "中", "stack": None, "data": data or {}}


TOO_OFTEN = (output(scode=ErrorCase.RATE_LIMITED.code), {"Retry-After": "1"})
VERSION = (output({"version": "1", "cluster_uuid": "u", "cluster_name": "n"}), {})


def test_both_clients_make_the_same_calls(client: Client, door: DoorClient, served: tuple[DoorClient, str]) -> None:
    async def same() -> list[Any]:
        async with AsyncClient(served[1], ADMIN_KEY) as other:
            return [
                await other.vms(),
                await other.inspect("测试"),
                await other.snapshots(VM),
                await other.head(VM),
                await other.tasks(),
                await other.create(VM, "n", on_progress=lambda _: None),
            ]

    blocking = [
        client.vms(),
        client.inspect("测试"),
        client.snapshots(VM),
        client.head(VM),
        client.tasks(),
        client.create(VM, "n", on_progress=lambda _: None),
    ]
    asked = list(door.stub.asked)
    door.stub.asked.clear()
    assert asyncio.run(same()) == blocking
    assert door.stub.asked == asked


def test_what_the_service_says_is_in_the_error(client: Client, door: DoorClient) -> None:
    door.stub.outcomes["delete"] = refused(ErrorCase.SNAPSHOT_HAS_CHILDREN, "a and b")
    with pytest.raises(ApiError) as caught:
        client.delete(VM, "origin")
    error, case = caught.value, ErrorCase.SNAPSHOT_HAS_CHILDREN.value
    assert (error.scode, error.message, error.message_cn) == (case.code, case.message, case.message_cn)
    assert (error.desc, len(error.request_id), error.retry_after_s) == ("a and b", 32, None)
    assert not error.is_open


def test_a_head_may_be_none(client: Client, door: DoorClient) -> None:
    door.stub.outcomes["head_snapshot"] = None
    assert client.head(VM) is None


def test_a_snapshot_by_uuid_and_a_name_that_looks_like_one(client: Client, door: DoorClient) -> None:
    client.snapshot(VM, SNAPSHOT)
    assert door.stub.asked[-1][0] == "get_snapshot"
    assert door.stub.asked[-1][2] == "origin"
    door.stub.outcomes["list_snapshots"] = type(door.stub.outcomes["list_snapshots"])(
        (a_snapshot(), a_snapshot(uuid=VM, name=SNAPSHOT)), 2
    )
    client.snapshot(VM, SNAPSHOT)
    assert door.stub.asked[-1][2] == SNAPSHOT
    with pytest.raises(NotFoundError):
        client.snapshot(VM, OPERATION)


@pytest.mark.parametrize("count", [0, 2])
def test_a_name_must_be_one_vms(client: Client, door: DoorClient, count: int) -> None:
    door.stub.outcomes["list_vms"] = VmPage((a_row(),) * count, count)
    with pytest.raises(NotFoundError) as caught:
        client.start("测试")
    assert "测试" in caught.value.message
    assert "测试" in caught.value.message_cn
    assert [call[0] for call in door.stub.asked] == ["list_vms"]


def test_disks_are_named_by_their_place(client: Client, door: DoorClient) -> None:
    batch = client.rollback_disks(VM, "origin", ["sda"])
    assert (batch.success, batch.fail, batch.results[0].data.disk) == (1, 0, "sda")
    with pytest.raises(NotFoundError, match="it has sda"):
        client.rollback_disks(VM, "origin", ["sda", "vdb"])
    assert [call[0] for call in door.stub.asked].count("rollback_volumes") == 1


# --- what is tried again ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [False, True])
def test_not_so_often_is_asked_again_when_it_said(changes: bool) -> None:
    with scripted(TOO_OFTEN, (output(), {}) if changes else VERSION) as (script, url), Client(url, "k") as client:
        if changes:
            client.delete(VM, "a", on_progress=lambda _: None)
        else:
            assert client.version().version == "1"
        assert len(script.asked) == 2


def test_not_so_often_for_too_long_is_an_error() -> None:
    answer = (output(scode=ErrorCase.RATE_LIMITED.code), {"Retry-After": "3600"})
    with scripted(answer) as (_, url), Client(url, "k") as client, pytest.raises(ApiError) as caught:
        client.version()
    assert caught.value.retry_after_s == 3600


def test_a_mutation_without_an_answer_is_not_repeated() -> None:
    with scripted((None, {})) as (script, url), Client(url, "k") as client:
        with pytest.raises(NoAnswerError) as caught:
            client.modify(VM, "a", "d")
        assert caught.value.is_open
        assert "may or may not" in caught.value.message
        assert len(script.asked) == 1


def test_a_read_without_an_answer_says_so() -> None:
    with scripted((None, {})) as (_, url), Client(url, "k") as client, pytest.raises(NoAnswerError) as caught:
        client.version()
    assert not caught.value.is_open


def _closed_port() -> int:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        port: int = unused.getsockname()[1]
        return port


def test_a_read_that_finds_nobody_finds_who_comes_a_moment_later(door: DoorClient) -> None:
    """The port is bound and refuses until somebody listens; then it is who was meant."""
    body = json.dumps(VERSION[0]).encode()
    with socket.socket() as late:
        late.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{late.getsockname()[1]}"

        def come() -> None:
            late.listen()
            with late.accept()[0] as connection:
                connection.recv(65536)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))

        with Client(url, "k") as client:
            timer = threading.Timer(0.1, come)
            timer.start()
            try:
                assert client.version().version == "1"
            finally:
                timer.join()


def test_a_mutation_that_finds_nobody_is_not_repeated() -> None:
    with Client(f"http://127.0.0.1:{_closed_port()}", "k") as client, pytest.raises(NoServiceError) as caught:
        client.modify(VM, "a", "d")
    assert not caught.value.is_open


@pytest.mark.parametrize("data", [{}, {"version": 5}, [], "x"])
def test_another_server_is_told_from_this_api(data: Any) -> None:
    with scripted((output(data), {})) as (_, url), Client(url, "k") as client, pytest.raises(NotStillframeError):
        client.version()


# --- waiting ------------------------------------------------------------------------------------------------------


def _in_turn(*outcomes: Any) -> Callable[..., Any]:
    """One after the other, the last for ever."""
    left = list(outcomes)
    return lambda *_: left.pop(0) if len(left) > 1 else left[0]


def test_create_waits_until_memory_is_saved_and_tells_how_far(client: Client, door: DoorClient) -> None:
    saving = a_snapshot(memory=a_memory(status=MemoryStatus.SAVING, progress=40))
    door.stub.outcomes["get_snapshot"] = _in_turn(saving, saving, a_snapshot(memory=a_memory()))
    door.stub.outcomes["get_task"] = a_task(state=TaskState.DONE)
    seen: list[Task] = []
    taken = client.create(VM, "origin", memory=True, wait=True, on_progress=seen.append)
    assert taken.memory_status == "available"
    assert [(task.uuid, task.state) for task in seen] == [(OPERATION, "running")] * 2 + [(OPERATION, "done")]
    assert (seen[0].rate_bytes_s, seen[0].time_left_s) == (100 << 20, 11)


def test_memory_that_could_not_be_saved_is_an_error(client: Client, door: DoorClient) -> None:
    door.stub.outcomes["get_snapshot"] = a_snapshot(memory=a_memory(status=MemoryStatus.FAILED, reason="no space"))
    with pytest.raises(MemoryNotSavedError) as caught:
        client.create(VM, "origin", memory=True, wait=True)
    assert caught.value.desc == "no space"


def test_a_wait_that_is_too_short_names_the_task(client: Client, door: DoorClient) -> None:
    door.stub.outcomes["get_snapshot"] = a_snapshot(memory=a_memory(status=MemoryStatus.UPLOADING))
    with pytest.raises(StillGoingOnError) as caught:
        client.create(VM, "origin", memory=True, wait=True, timeout_s=0)
    assert caught.value.task.uuid == OPERATION
    assert caught.value.is_open
    with pytest.raises(StillGoingOnError):
        client.wait(OPERATION, timeout_s=0)


@pytest.mark.parametrize("state", [TaskState.DONE, TaskState.REFUSED, TaskState.UNDONE, TaskState.LEFT])
def test_wait_ends_with_the_task(client: Client, door: DoorClient, state: TaskState) -> None:
    door.stub.outcomes["get_task"] = _in_turn(a_task(), a_task(state=state))
    seen: list[str] = []
    assert client.wait(OPERATION, on_progress=lambda task: seen.append(task.state)).state == state
    assert seen == ["running", state]


def test_a_long_call_tells_how_far_it_is(client: Client, door: DoorClient) -> None:
    """Both clients: the call goes on until its progress has been told; the last that is told is its end."""
    told = threading.Event()
    mine = a_task(kind="delete", snapshot="a", progress=70)
    door.stub.outcomes["list_tasks"] = TaskPage((a_task(kind="delete", snapshot="b"), mine), "")
    door.stub.outcomes["delete"] = lambda *_: told.wait(30) and None
    door.stub.outcomes["get_task"] = a_task(kind="delete", snapshot="a", progress=100, state=TaskState.DONE)
    seen: list[int] = []

    def tell(task: Task) -> None:
        seen.append(task.progress)
        told.set()

    client.delete(VM, "a", on_progress=tell)
    assert (set(seen), seen[-1]) == ({70, 100}, 100)
    seen.clear()
    told.clear()

    async def same(url: str) -> None:
        async with AsyncClient(url, ADMIN_KEY) as other:
            await other.delete(VM, "a", on_progress=tell)

    asyncio.run(same(str(client._http[1].base_url)))  # type: ignore[index] -- it has just been used
    assert (set(seen), seen[-1]) == ({70, 100}, 100)
