"""Where a request leaves the event loop: use cases block, so each runs in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request

from stillframe.domain.access import Principal
from stillframe.http.access import PRINCIPAL
from stillframe.http.envelope import EmptyData, EnvelopeResponse, Failure, Success
from stillframe.http.lanes import FairShare
from stillframe.http.ledger import ENTRY, Entry, address_of
from stillframe.http.links import Links, SignerWhenNeeded
from stillframe.http.transport import OPERATIONS, OPERATIONS_MAX_NAMED
from stillframe.operations.requests import Caller
from stillframe.operations.use_cases import UseCases
from stillframe.ports.instruments import Pool
from stillframe.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")
R = TypeVar("R")

LOOKING_THREADS = 16
# of one tenant's, and of one viewer's about one virtual machine, at a time
TENANT_LOOKS = LOOKING_THREADS // 4
VM_LOOKS = TENANT_LOOKS // 2
RECALLING_THREADS = 8
# beside those whose operations are under way: who comes on top is told so instead of waiting for one of them to end
SPARE_ACTING_THREADS = 16
# of which one tenant has so many beside its own operations under way
TENANT_SPARE_ACTS = SPARE_ACTING_THREADS // 4
# one VM has one operation at a time; the others are there to be told so, or to learn that the VM hangs
VM_ACTS = 4

_OPERATION_ID = {
    "description": "The operations that the call began, comma-separated, of a long batch the first "
    f"{OPERATIONS_MAX_NAMED}; `task/get` tells of each. Absent when the call was refused before there was one.",
    "schema": {"type": "string"},
}

# what FastAPI takes as ``responses``
Responses = dict[int | str, dict[str, Any]]
# OpenAPI's links by name
Follow = dict[str, dict[str, Any]]


class Door:
    """The use cases as coroutines. Each way in has threads of its own: long deletes cannot starve a list, nor can a
    hypervisor that hangs starve what it is not asked for. And each tenant has its share of them (``FairShare``): a virtual
    machine that hangs holds the threads of who asks about it, and no others.
    """

    def __init__(self, use_cases: UseCases, settings: Settings) -> None:
        self.use_cases = use_cases
        self.settings = settings
        self._looking = anyio.CapacityLimiter(LOOKING_THREADS)
        self._recalling = anyio.CapacityLimiter(RECALLING_THREADS)
        self._acting = anyio.CapacityLimiter(settings.max_operations + SPARE_ACTING_THREADS)
        self._looks = FairShare(of_tenant=TENANT_LOOKS, of_vm=VM_LOOKS)
        self._acts = FairShare(of_tenant=settings.max_operations_per_tenant + TENANT_SPARE_ACTS, of_vm=VM_ACTS)

    def pools(self) -> dict[str, Pool]:
        """How busy each way in is. On the event loop alone."""
        limiters = {"looking": self._looking, "recalling": self._recalling, "acting": self._acting}
        in_lanes = {"looking": self._looks.waiting, "acting": self._acts.waiting}
        return {
            name: Pool(limiter.borrowed_tokens, limiter.statistics().tasks_waiting + in_lanes.get(name, 0))
            for name, limiter in limiters.items()
        }

    async def look(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a reading use case, when it is its turn.

        Raises:
            Refused: TOO_BUSY, beside what the use case raises: too many of this tenant, or about this VM, wait already.
        """
        async with self._looks.turn((*args, *kwargs.values())):
            return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._looking)

    async def recall(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a use case that asks nothing but the database and our own files, and is done at once.

        What stops a key is among them: it must not wait until tenants' long work lets it.
        """
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._recalling)

    async def look_with_links(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> tuple[T, Links]:
        """``look``, with what makes the links in its answer."""

        def both(*args: P.args, **kwargs: P.kwargs) -> tuple[T, Links]:
            return call(*args, **kwargs), self.links()

        return await self.look(both, *args, **kwargs)

    async def show(
        self, written: Callable[[T, Links], R], call: Callable[P, T], *args: P.args, **kwargs: P.kwargs
    ) -> R:
        """``look``, and write the answer there and then, with what makes the links in it."""

        def both(*args: P.args, **kwargs: P.kwargs) -> R:
            found = call(*args, **kwargs)
            return written(found, Links(self.settings.base_url, SignerWhenNeeded(self.use_cases.link_signer)))

        return await self.look(both, *args, **kwargs)

    def links(self) -> Links:
        """Makes links from now on; blocks."""
        return Links(self.settings.base_url, self.use_cases.link_signer())

    async def act(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a mutating use case, when it is its turn. Once begun it runs to its end: cancelling the request, as when the
        client has gone, waits for it instead of cutting it.

        Raises:
            Refused: TOO_BUSY, as ``look`` does.
        """
        async with self._acts.turn((*args, *kwargs.values())):
            return await anyio.to_thread.run_sync(
                partial(call, *args, **kwargs), abandon_on_cancel=False, limiter=self._acting
            )


async def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


async def _caller(request: Request) -> Caller:
    hears: list[str] = request.scope[OPERATIONS]
    principal: Principal = request.scope[PRINCIPAL]
    entry: Entry = request.scope[ENTRY]
    return Caller(principal, address=address_of(request.scope), hears=hears.append, noted=entry.noted)


DoorOf = Annotated[Door, Depends(_door)]
CallerOf = Annotated[Caller, Depends(_caller)]


def answer(data: object = None) -> EnvelopeResponse:
    """A successful Output about a model or dataclass; None is the seed's "empty"."""
    return EnvelopeResponse(Success[Any](data=EmptyData() if data is None else data))


def answers(*kinds: Any, links: Follow | None = None) -> Responses:
    """What the OpenAPI document says of a call: a result or an error under 200, an error under any other status.

    ``kinds``: what ``data`` may be on success; none is the seed's "empty". ``links``: the calls that may follow, by name.
    """
    results = [Success.__class_getitem__(kind) for kind in kinds or (EmptyData,)]
    return {
        200: {
            "model": reduce(or_, [*results, Failure[EmptyData]]),
            "description": "The Output envelope. `scode` 0: `data` is the result; else the call was refused or failed.",
            **({"links": links} if links else {}),
        },
        "default": {
            "model": Failure[EmptyData],
            "description": 'The same envelope with an error, where the service is set to `http_errors = "semantic"`.',
        },
    }


def acts(*kinds: Any, links: Follow | None = None) -> Responses:
    """``answers`` of a call that changes something: it names the operations that it was."""
    return {
        status: {**response, "headers": {"X-Operation-Id": _OPERATION_ID}}
        for status, response in answers(*kinds, links=links).items()
    }


def follow(operation_id: str, **parameters: str) -> dict[str, Any]:
    """A link of the document: a call to which something of this one's request or answer belongs, by a runtime expression."""
    return {"operationId": operation_id, "parameters": parameters}


def follow_with_body(operation_id: str, **fields: str) -> dict[str, Any]:
    """The same, to a POST."""
    return {"operationId": operation_id, "requestBody": fields}
