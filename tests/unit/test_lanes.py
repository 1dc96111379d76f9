"""Fair shares of threads: who waits behind whom, and who does not."""

from __future__ import annotations

import threading
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from typing import Any

import anyio
import httpx
import pytest

from stillframe.domain.access import Principal, Role
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.http.door import LOOKING_THREADS, TENANT_LOOKS, VM_ACTS, VM_LOOKS
from stillframe.http.lanes import FairShare, Lanes
from stillframe.operations.requests import Caller, VmRef
from stillframe.ports.instruments import Pool
from support.http_door import ADMIN, ADMIN_KEY, SNAPSHOT, VM, VOLUME, DoorClient, an_info

BASE = "/v1/compute/vsd/snapshot"
ONE, TWO = Principal("1" * 12, Role.READER, "one"), Principal("2" * 12, Role.READER, "two")


def ref(vm_uuid: str) -> VmRef:
    return VmRef("", "", vm_uuid)


class Crowd:
    """Who is in a lane, in the order in which they came; each stays until it is told to go."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.inside: list[str] = []
        self.refused: list[Refused] = []
        self._may_go: dict[str, anyio.Event] = {}

    async def comes(self, name: str, turn: AbstractAsyncContextManager[None]) -> None:
        self._may_go[name] = anyio.Event()
        self.group.start_soon(self._stay, name, turn)
        await anyio.wait_all_tasks_blocked()

    async def goes(self, name: str) -> None:
        self._may_go[name].set()
        await anyio.wait_all_tasks_blocked()

    async def _stay(self, name: str, turn: AbstractAsyncContextManager[None]) -> None:
        try:
            async with turn:
                self.inside.append(name)
                await self._may_go[name].wait()
                self.inside.remove(name)
        except Refused as refused:
            self.refused.append(refused)


def with_a_crowd(story: Callable[[Crowd], Awaitable[None]]) -> None:
    """Nobody of it is left when the story ends: who is inside is cut off."""

    async def tell() -> None:
        async with anyio.create_task_group() as group:
            await story(Crowd(group))
            group.cancel_scope.cancel()

    anyio.run(tell)


def test_so_many_at_a_time_and_the_next_in_the_order_in_which_they_came() -> None:
    async def story(crowd: Crowd) -> None:
        lanes = Lanes(2)
        for name in "abcd":
            await crowd.comes(name, lanes.turn("key"))
        assert crowd.inside == ["a", "b"]
        await crowd.goes("b")
        assert crowd.inside == ["a", "c"]
        await crowd.comes("x", lanes.turn("another"))
        assert crowd.inside == ["a", "c", "x"]
        for name in "axcd":
            await crowd.goes(name)
        assert (crowd.inside, len(lanes)) == ([], 0)

    with_a_crowd(story)


def test_beyond_those_who_may_wait_one_is_told_when_to_come_again() -> None:
    async def story(crowd: Crowd) -> None:
        lanes = Lanes(1, waiting_max=2)
        for name in "abcde":
            await crowd.comes(name, lanes.turn("key"))
        assert crowd.inside == ["a"]
        assert [(refused.case, bool(refused.retry_after_s)) for refused in crowd.refused] == [
            (ErrorCase.TOO_BUSY, True)
        ] * 2
        await crowd.goes("a")
        await crowd.comes("f", lanes.turn("key"))
        assert len(crowd.refused) == 2, "there was room again"

    with_a_crowd(story)


def test_who_gives_up_waiting_leaves_no_trace() -> None:
    async def story(crowd: Crowd) -> None:
        lanes = Lanes(1, waiting_max=1)
        await crowd.comes("a", lanes.turn("key"))
        with anyio.move_on_after(0):
            async with lanes.turn("key"):
                raise AssertionError("it was not its turn")
        await crowd.comes("b", lanes.turn("key"))
        assert not crowd.refused
        await crowd.goes("a")
        assert crowd.inside == ["b"]
        await crowd.goes("b")
        assert len(lanes) == 0

    with_a_crowd(story)


def test_what_waits_for_one_vm_takes_no_place_of_its_tenants_other_ones() -> None:
    async def story(crowd: Crowd) -> None:
        share = FairShare(of_tenant=4, of_vm=2)
        for number in range(10):
            await crowd.comes(f"hung {number}", share.turn((ref("hung"), ONE)))
        await crowd.comes("well", share.turn((ref("well"), "name", ONE)))
        await crowd.comes("list", share.turn((ONE,)))
        assert crowd.inside == ["hung 0", "hung 1", "well", "list"]
        await crowd.comes("more", share.turn((ONE,)))
        assert crowd.inside[-1] == "list", "that was the tenant's share"
        await crowd.comes("another's", share.turn((ref("hung"), TWO)))
        assert crowd.inside[-1] == "another's", "a full lane says nothing to others, also of the same uuid"

    with_a_crowd(story)


def test_administrators_are_not_one_tenant() -> None:
    async def story(crowd: Crowd) -> None:
        share = FairShare(of_tenant=1, of_vm=2)
        for number in range(3):
            await crowd.comes(f"hung {number}", share.turn((ref("hung"), Caller(ADMIN, ""))))
            await crowd.comes(f"list {number}", share.turn((ADMIN,)))
            await crowd.comes(f"vm {number}", share.turn((ref(str(number)), ADMIN)))
        assert "hung 2" not in crowd.inside
        assert len(crowd.inside) == 8

    with_a_crowd(story)


def test_the_tenant_of_a_mutating_call_is_its_callers() -> None:
    async def story(crowd: Crowd) -> None:
        share = FairShare(of_tenant=1, of_vm=9)
        await crowd.comes("first", share.turn((ref("a"), Caller(ONE, "192.0.2.1"))))
        await crowd.comes("second", share.turn((ref("b"), Caller(ONE, "192.0.2.2"))))
        assert crowd.inside == ["first"]

    with_a_crowd(story)


# --- through the door ------------------------------------------------------------------------------------------------


@pytest.fixture
def door() -> DoorClient:
    door = DoorClient()
    door.stub.principals |= {
        "one's": Principal("1" * 12, Role.OPERATOR, "one"),
        "two's": Principal("2" * 12, Role.OPERATOR, "two"),
    }
    return door


class Hang:
    """What is asked about ``VM`` has no answer until it ends."""

    def __init__(self, answer: Any = None) -> None:
        self.ended = threading.Event()
        self.asked = 0
        self._arrived = threading.Semaphore(0)
        self._answer = answer

    def __call__(self, where: VmRef, *_more: Any) -> Any:
        if where.compute_uuid == VM:
            self.asked += 1
            self._arrived.release()
            assert self.ended.wait(60)
        return self._answer

    async def holds(self, count: int) -> None:
        """Return when so many have asked."""
        for _ in range(count):
            assert await anyio.to_thread.run_sync(self._arrived.acquire, True, 60)


Send = Callable[..., Awaitable[dict[str, Any]]]


def while_it_hangs(
    door: DoorClient, hang: Hang, crowd: Callable[[Send], Awaitable[Any]], count: int, story: Callable[[Send], Any]
) -> list[dict[str, Any]]:
    """``story`` runs while ``count`` requests of ``crowd`` wait; returns what they were answered when the hang ended."""
    answers: list[dict[str, Any]] = []

    async def tell() -> None:
        transport = httpx.ASGITransport(app=door.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:

            async def send(key: str, method: str, path: str, **fields: Any) -> dict[str, Any]:
                body: dict[str, Any] = {"cluster_uuid": "", **fields}
                way: dict[str, Any] = {"params": body} if method == "GET" else {"json": body}
                answer = await client.request(method, path, headers={"ApiKey": key}, **way)
                parsed: dict[str, Any] = answer.json()
                return parsed

            async def one() -> None:
                answers.append(await crowd(send))

            async with anyio.create_task_group() as group:
                for _ in range(count):
                    group.start_soon(one)
                try:
                    with anyio.fail_after(60):
                        await story(send)
                        assert answers == []
                finally:
                    hang.ended.set()

    anyio.run(tell)
    return answers


def test_a_tenants_vm_that_hangs_stops_nobody_elses_looks(door: DoorClient) -> None:
    hang = door.stub.outcomes["inspect"] = Hang(an_info())
    inspect = "/v1/compute/inspect"

    async def others(send: Send) -> None:
        await hang.holds(VM_LOOKS)
        for key, uuid in (("two's", VOLUME), (ADMIN_KEY, VOLUME), ("one's", SNAPSHOT)):
            for _ in range(LOOKING_THREADS + 1):
                assert (await send(key, "GET", inspect, compute_uuid=uuid))["scode"] == 0
        assert (await send("one's", "GET", "/v1/compute/list"))["scode"] == 0
        assert hang.asked == VM_LOOKS < TENANT_LOOKS
        assert door.app.state.door.pools()["looking"] == Pool(busy=VM_LOOKS, waiting=count - VM_LOOKS)

    count = 40
    answers = while_it_hangs(door, hang, lambda send: send("one's", "GET", inspect, compute_uuid=VM), count, others)
    assert [answer["scode"] for answer in answers] == [0] * count, "who waited had its turn"


def test_a_tenants_vm_that_hangs_stops_nobody_elses_acts(door: DoorClient) -> None:
    hang = door.stub.outcomes["delete"] = Hang()

    async def others(send: Send) -> None:
        await hang.holds(VM_ACTS)
        for key, uuid in (("two's", VOLUME), (ADMIN_KEY, VOLUME), ("one's", SNAPSHOT)):
            assert (await send(key, "POST", f"{BASE}/delete", compute_uuid=uuid, name="a"))["scode"] == 0
        assert hang.asked == VM_ACTS
        assert door.app.state.door.pools()["acting"] == Pool(busy=VM_ACTS, waiting=count - VM_ACTS)

    count = door.settings.max_operations + 40
    answers = while_it_hangs(
        door, hang, lambda send: send("one's", "POST", f"{BASE}/delete", compute_uuid=VM, name="a"), count, others
    )
    assert [answer["scode"] for answer in answers] == [0] * count
