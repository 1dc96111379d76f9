"""Where a request leaves the event loop: use cases block, so each runs in a worker thread."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial, reduce
from operator import or_
from typing import Annotated, Any, ParamSpec, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request

from stillframe.http.envelope import EmptyData, EnvelopeResponse, Failure, Success
from stillframe.http.transport import OPERATIONS, OPERATIONS_MAX_NAMED
from stillframe.operations.requests import Caller
from stillframe.operations.use_cases import UseCases
from stillframe.settings import Settings

P = ParamSpec("P")
T = TypeVar("T")

LOOKING_THREADS = 16
RECALLING_THREADS = 8
# A VM has one operation at a time and the rest is refused at once: this bounds how many VMs work in parallel.
ACTING_THREADS = 64

_OPERATION_ID = {
    "description": "The operations that the call began, comma-separated, of a long batch the first "
    f"{OPERATIONS_MAX_NAMED}; `task/get` tells of each. Absent when the call was refused before there was one.",
    "schema": {"type": "string"},
}

# what FastAPI takes as ``responses``
Responses = dict[int | str, dict[str, Any]]


class Door:
    """The use cases as coroutines. Each way in has threads of its own: long deletes cannot starve a list, nor can a
    hypervisor that hangs starve what it is not asked for.
    """

    def __init__(self, use_cases: UseCases, settings: Settings) -> None:
        self.use_cases = use_cases
        self.settings = settings
        self._looking = anyio.CapacityLimiter(LOOKING_THREADS)
        self._recalling = anyio.CapacityLimiter(RECALLING_THREADS)
        self._acting = anyio.CapacityLimiter(ACTING_THREADS)

    async def look(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a reading use case."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._looking)

    async def recall(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a use case that asks nothing but the database and our own files, and is done at once."""
        return await anyio.to_thread.run_sync(partial(call, *args, **kwargs), limiter=self._recalling)

    async def act(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run a mutating use case. Once begun it runs to its end: cancelling the request, as when the client has
        gone, waits for it instead of cutting it.
        """
        return await anyio.to_thread.run_sync(
            partial(call, *args, **kwargs), abandon_on_cancel=False, limiter=self._acting
        )


async def _door(request: Request) -> Door:
    door: Door = request.app.state.door
    return door


async def _caller(request: Request) -> Caller:
    hears: list[str] = request.scope[OPERATIONS]
    return Caller(who="anonymous", address=request.client.host if request.client else "", hears=hears.append)


DoorOf = Annotated[Door, Depends(_door)]
CallerOf = Annotated[Caller, Depends(_caller)]


def answer(data: object = None) -> EnvelopeResponse:
    """A successful Output about a model or dataclass; None is the seed's "empty"."""
    return EnvelopeResponse(Success[Any](data=EmptyData() if data is None else data))


def answers(*kinds: Any) -> Responses:
    """What the OpenAPI document says of a call: a result or an error under 200, an error under any other status.

    ``kinds``: what ``data`` may be on success; none is the seed's "empty".
    """
    results = [Success.__class_getitem__(kind) for kind in kinds or (EmptyData,)]
    return {
        200: {
            "model": reduce(or_, [*results, Failure[EmptyData]]),
            "description": "The Output envelope. `scode` 0: `data` is the result; else the call was refused or failed.",
        },
        "default": {
            "model": Failure[EmptyData],
            "description": 'The same envelope with an error, where the service is set to `http_errors = "semantic"`.',
        },
    }


def acts(*kinds: Any) -> Responses:
    """``answers`` of a call that changes something: it names the operations that it was."""
    return {
        status: {**response, "headers": {"X-Operation-Id": _OPERATION_ID}}
        for status, response in answers(*kinds).items()
    }
