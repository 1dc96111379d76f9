"""How a call is written once for both clients: as a generator that says what is to be done and is told what came of it.

A flow yields steps and is sent their outcomes; ``ClientError`` of a step is thrown into it. It sends nothing, sleeps
nowhere and opens no file: the drivers (``drivers.py``) do, one by blocking, one by awaiting.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import update_wrapper
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, Self, TypeVar, overload

import httpx

from stillframe.client.endpoints import Request
from stillframe.client.errors import ClientError

if TYPE_CHECKING:
    from stillframe.client.drivers import AsyncDriver, SyncDriver

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class Send:
    """Outcome: ``Received``."""

    request: Request


@dataclass(frozen=True)
class Begin:
    """Send it without waiting for its answer. Outcome: what ``Await`` takes."""

    request: Request


@dataclass(frozen=True)
class Await:
    """Outcome: ``Received``, or None when ``seconds`` have passed without an answer."""

    begun: Any
    seconds: float


@dataclass(frozen=True)
class Sleep:
    """Outcome: None."""

    seconds: float


@dataclass(frozen=True)
class Received:
    """``without_key``: what to say where the service asks for a key and none was sent; None: one was."""

    response: httpx.Response
    without_key: ClientError | None


Step = Send | Begin | Await | Sleep
Flow = Generator[Step, Any, T]


class method(Generic[P, T]):  # noqa: N801 -- stands where a function would
    """A flow as a method of both clients: of ``Client`` it blocks and returns, of ``AsyncClient`` it is awaited."""

    def __init__(self, flow: Callable[P, Flow[T]]) -> None:
        self.flow = flow
        self.__doc__ = flow.__doc__

    @overload
    def __get__(self, client: None, owner: type) -> Self: ...
    @overload
    def __get__(self, client: SyncDriver, owner: type) -> Callable[P, T]: ...
    @overload
    def __get__(self, client: AsyncDriver, owner: type) -> Callable[P, Coroutine[Any, Any, T]]: ...
    def __get__(self, client: SyncDriver | AsyncDriver | None, owner: type) -> Any:
        if client is None:
            return self

        def call(*args: P.args, **kwargs: P.kwargs) -> T | Coroutine[Any, Any, T]:
            return client.run(self.flow(*args, **kwargs))

        return update_wrapper(call, self.flow)
