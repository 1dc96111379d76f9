"""Many clients at once on a few VMs, some of which run, and the replay of what was accepted on the model."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx

from fault.crowd_vms import Live, Off
from fault.pressed import READS, Asked, Pressed
from fault.truth import Bench
from stillframe.domain.errors import ErrorCase
from support.lab import make_vm, open_service, settle
from support.ledger import check_census
from support.service import SNAPSHOT, AdminKey
from support.struck import Striker, StruckService

TASK = f"{SNAPSHOT}/task"
_CANCELS_OF_SAVING = 3  # one in so many is carried out: a memory that is never whole is no good for a rollback
_PATIENCE_S = 300  # how much longer a crowd may press until every call was accepted once
_LAST_CLIENTS = 20  # so many do it
_SIGHT_S = 0.1


@dataclass
class Crowd:
    """``answers`` counts (kind of VM, call, scode)."""

    service: StruckService
    vms: list[Pressed]
    random: random.Random
    seed: int
    answers: Counter[tuple[str, str, int]] = field(default_factory=Counter)
    pressed_s: float = 0.0

    def __str__(self) -> str:
        told = [f"crowd: {sum(self.answers.values())} requests in {self.pressed_s:.0f} s, STILLFRAME_SEED={self.seed}"]
        for kind in (Off, Live):
            calls = {call: [0, 0, 0] for call in kind.weights}
            for (on, call, scode), count in self.answers.items():
                if on == kind.kind:
                    calls[call][0 if scode == 0 else 1 if scode == ErrorCase.VM_BUSY.code else 2] += count
            words = ", ".join(f"{call} {ok} ({busy} busy, {no} refused)" for call, (ok, busy, no) in calls.items())
            told.append(f"{kind.kind}: {words}")
        sights = sum(vm.sights.held for vm in self.vms if isinstance(vm, Live))
        return "\n  ".join([*told, f"snapshots of running VMs found as they were first seen: {sights}"])

    @property
    def busy(self) -> int:
        return sum(count for (_on, _call, scode), count in self.answers.items() if scode == ErrorCase.VM_BUSY.code)

    def missing(self, kind: type[Pressed]) -> list[str]:
        """The calls that no VM of this kind has accepted yet."""
        must = (call for call in kind.weights if call not in kind.by_chance)
        return [call for call in must if not self.answers[kind.kind, call, 0]]

    # --- pressing -------------------------------------------------------------------------------------------------

    def press(self, seconds: float, in_flight: int, *, until_all: bool = False) -> None:
        """As many clients as said make one request after the other for a while.

        ``until_all``: and then a few of them, until no call is ``missing``, which they ask for more often.
        """
        with self._noted():
            self.begin()
            begun = time.monotonic()
            asyncio.run(self._press(seconds, in_flight, until_all=until_all))
            self.pressed_s += time.monotonic() - begun

    def begin(self) -> None:
        """From here on requests are followed, until ``compare``."""
        for vm in self.vms:
            vm.begin()

    async def _press(self, seconds: float, in_flight: int, *, until_all: bool) -> None:
        until = time.monotonic() + seconds

        def goes_on() -> bool:
            late = time.monotonic() - until
            return late < 0 or (until_all and late < _PATIENCE_S and any(self.missing(kind) for kind in (Off, Live)))

        async def client(number: int) -> None:
            while goes_on():
                late = time.monotonic() >= until
                if late and number >= _LAST_CLIENTS:
                    return
                vm = self.random.choice(self.vms)
                await self.one_request(http, vm, vm.draw(self.missing(type(vm)) if late else ()))

        async def watch() -> None:
            while goes_on():
                for vm in self.vms:
                    if isinstance(vm, Live):
                        await asyncio.to_thread(vm.sights.look)
                await asyncio.sleep(_SIGHT_S)

        async with self.client() as http:
            await asyncio.gather(watch(), *(client(number) for number in range(in_flight)))

    def client(self) -> httpx.AsyncClient:
        # an idle connection that the service closes at the moment of its next use would look like a crash
        limits = httpx.Limits(max_connections=None, max_keepalive_connections=0)
        auth = AdminKey(self.service.state)
        return httpx.AsyncClient(base_url=self.service.url, timeout=300, limits=limits, auth=auth)

    async def one_request(self, http: httpx.AsyncClient, vm: Pressed, call: str, name: str = "") -> bool:
        """Make it, and follow what is answered: whether it was accepted. ``name``: about this snapshot."""
        if call == "cancel":
            return await self._cancel(http, vm)
        if call in READS:
            accepted, _answer = await self._look(http, vm, call)
            return accepted
        asked = vm.ask(call, name)
        return asked is not None and await self._act(http, vm, asked)

    def _count(self, vm: Pressed, call: str, answer: Mapping[str, Any]) -> bool:
        """Whether it was accepted; what is refused is refused for a reason that this crowd gives."""
        scode = answer["scode"]
        self.answers[vm.kind, call, scode] += 1
        assert scode == 0 or scode in {case.code for case in vm.refusals.get(call, ())}, (vm.vm.name, call, answer)
        return bool(scode == 0)

    async def _look(self, http: httpx.AsyncClient, vm: Pressed, call: str) -> tuple[bool, dict[str, Any]]:
        params = {"cluster_uuid": "", "compute_uuid": vm.vm.uuid}
        if call == "get":
            params["name"] = vm.some_name()
        if call == "tasks":  # those under way
            params["state"] = "running"
        path = f"{TASK}/list" if call == "tasks" else f"{SNAPSHOT}/{call}"
        answer = (await http.get(path, params=params)).json()
        accepted = self._count(vm, call, answer)
        if accepted and call == "get":
            vm.see(answer["data"])
        return accepted, answer

    async def _cancel(self, http: httpx.AsyncClient, vm: Pressed) -> bool:
        """What is found under way, if it can be."""
        _accepted, tasks = await self._look(http, vm, "tasks")
        for task in tasks["data"]["list"]:
            saves = task["kind"] == "save_memory"
            if task["cancellable"] and not (saves and self.random.randrange(_CANCELS_OF_SAVING)):
                answer = (await http.post(f"{TASK}/cancel", json={"uuid": task["uuid"]})).json()
                accepted = self._count(vm, "cancel", answer)
                if accepted:
                    vm.cancelled.add(task["uuid"])
                return accepted
        return False

    async def _act(self, http: httpx.AsyncClient, vm: Pressed, asked: Asked) -> bool:
        body = {"cluster_uuid": "", "compute_uuid": vm.vm.uuid, **asked.body}
        response = await http.post(asked.path, json=body)
        answer = response.json()
        (result,) = answer["data"].get("results", [answer])
        accepted = self._count(vm, asked.call, result)
        if accepted:
            vm.accept(asked, response.headers["X-Operation-Id"])
        elif result["scode"] == ErrorCase.CANCELLED.code:
            vm.undone.add(response.headers["X-Operation-Id"])
        return accepted

    # --- comparing ------------------------------------------------------------------------------------------------

    def compare(self, *, deep: bool = False) -> None:
        """Nothing is open; what was accepted is what callers were told; and it makes what there is, byte for byte.

        ``deep``: doctor reads all files, too.
        """
        with self._noted():
            settle(self.service)
            check_census(self.service)
            for vm in self.vms:
                vm.replay()
                vm.compare()
            report = self.service.get("/v1/stillframe/doctor", deep=deep)
            assert (report["findings"], report["busy"], report["vms"]) == ([], [], len(self.vms)), report

    @contextmanager
    def _noted(self) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            error.add_note(str(self))
            raise


@contextmanager
def open_crowd(off: int, live: int, seed: int) -> Iterator[Crowd]:
    """A service with so many VMs of either kind, each with a few snapshots."""
    chosen = random.Random(seed)
    with closing(Striker()) as striker, open_service(striker) as (daemon, service):
        service.start()
        # so small that all snapshots together stay within their allowance, however long the guests write
        guests = [make_vm(daemon, service, f"live-{number}", size="2M") for number in range(live)]
        for guest in guests:
            guest.start()
        running = [Live(daemon, guest, chosen) for guest in guests]
        still = [Off(Bench(daemon, service, name=f"off-{number}"), chosen) for number in range(off)]
        for vm in running:
            vm.begin_tree()
        crowd = Crowd(service, [*still, *running], chosen, seed)
        settle(service)
        yield crowd
