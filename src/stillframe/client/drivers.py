"""The two thin drivers of flows: one blocks, one awaits. What a call means is in the flows alone."""

from __future__ import annotations

import asyncio
import ssl
import threading
import time
from pathlib import Path
from typing import Any, Self, TypeVar

import httpx

from stillframe.client.endpoints import Request
from stillframe.client.errors import ClientError, NoAnswerError, NoServiceError
from stillframe.client.flow import Await, Begin, Flow, Received, Send, Sleep, Step
from stillframe.client.profiles import way_of_profile
from stillframe.client.ways import ByState, ByUrl, Target, Way

CONNECT_TIMEOUT_S = 5.0
# making a guest or deleting its snapshots may take as long as the storage does
ANSWER_TIMEOUT_S = 3600.0

T = TypeVar("T")


class _Driver:
    def __init__(
        self,
        where: str | Way,
        key: str = "",
        *,
        certificate: Path | None = None,
        plain_http: bool = False,
        connect_timeout_s: float = CONNECT_TIMEOUT_S,
        answer_timeout_s: float = ANSWER_TIMEOUT_S,
    ) -> None:
        """A service by its address. ``certificate``: the PEM file of what is trusted alone.

        Raises:
            ValueError: it is no address, or would show the key to the network and ``plain_http`` does not allow that.
        """
        self.way = (
            ByUrl(where, key, certificate=certificate, plain_http=plain_http) if isinstance(where, str) else where
        )
        self._timeout = httpx.Timeout(answer_timeout_s, connect=connect_timeout_s)

    @classmethod
    def by_state(cls, state: Path) -> Self:
        """The service of this machine whose state directory it is, with the key that it keeps there."""
        return cls(ByState(state))

    @classmethod
    def by_profile(cls, name: str) -> Self:
        """The service of this name in profiles.toml.

        Raises:
            ProfileError: there is none, or it cannot be used.
        """
        return cls(way_of_profile(name))

    def _options(self, target: Target) -> dict[str, Any]:
        """What both of httpx's clients are made with. No proxy of the environment: it would see the key."""
        try:
            trust: ssl.SSLContext | bool = target.trust() if target.url.startswith("https://") else False
        except OSError as error:  # ssl.SSLError is one
            raise self._unusable(target, error) from error
        return {"base_url": target.url, "timeout": self._timeout, "trust_env": False, "verify": trust}

    def _connection_of(self, target: Target) -> tuple[str, str, int]:
        try:
            return target.connection
        except OSError as error:
            raise self._unusable(target, error) from error

    def _unusable(self, target: Target, error: OSError) -> NoServiceError:
        what = self.way.unreachable(f"{target.certificate}: {error.strerror or error}")
        what.may_pass = False
        return what

    def _meaning(self, error: httpx.HTTPError | httpx.InvalidURL, request: Request) -> ClientError:
        """What a failure to get an answer says of the request."""
        why = str(error) or type(error).__name__
        if isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.InvalidURL | httpx.UnsupportedProtocol):
            return self.way.unreachable(why)
        return NoAnswerError(request.changes, why)


def _arguments(request: Request, target: Target) -> dict[str, Any]:
    sent: dict[str, Any] = {"method": request.method, "url": request.path, "headers": target.headers}
    if request.body is None:
        return {**sent, "params": request.query}
    return {**sent, "json": request.body}


class _Begun:
    """A request whose answer is waited for elsewhere."""

    def __init__(self) -> None:
        self.over = threading.Event()
        self.outcome: Received | BaseException | None = None


class SyncDriver(_Driver):
    _http: tuple[tuple[str, str, int], httpx.Client] | None = None
    _under_way: tuple[_Begun, ...] = ()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Not where an answer is still under way that nobody waits for any more: the service would be cut off with it."""
        if self._http is not None and all(one.over.is_set() for one in self._under_way):
            self._http[1].close()
            self._http = None

    def run(self, flow: Flow[T]) -> T:
        """Carry a flow out.

        Raises:
            ClientError: as the flow says.
        """
        outcome: Any = None
        error: ClientError | None = None
        try:
            while True:
                step = flow.throw(error) if error is not None else flow.send(outcome)
                outcome, error = None, None
                try:
                    outcome = self._perform(step)
                except ClientError as caught:
                    error = caught
        except StopIteration as done:
            result: T = done.value
            return result

    def _perform(self, step: Step) -> Any:
        match step:
            case Send(request):
                return self._send(request)
            case Begin(request):
                return self._begin(request)
            case Await(begun, seconds):
                return self._wait_for(begun, seconds)
            case Sleep(seconds):
                time.sleep(seconds)
                return None

    def _send(self, request: Request) -> Received:
        target = self.way.target()
        try:
            response = self._connected(target).request(**_arguments(request, target))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._meaning(error, request) from error
        return Received(response, target.without_key)

    def _connected(self, target: Target) -> httpx.Client:
        connection = self._connection_of(target)
        if self._http is None or self._http[0] != connection:
            self.close()
            self._http = connection, httpx.Client(**self._options(target))
        return self._http[1]

    def _begin(self, request: Request) -> _Begun:
        begun = _Begun()
        self._under_way = (*(one for one in self._under_way if not one.over.is_set()), begun)

        def send() -> None:
            try:
                begun.outcome = self._send(request)
            except BaseException as error:  # noqa: BLE001 -- raised where it is waited for
                begun.outcome = error
            begun.over.set()

        # a daemon: whoever stops waiting, as by Ctrl-C, must not be kept by an answer that takes hours
        threading.Thread(target=send, daemon=True).start()
        return begun

    def _wait_for(self, begun: _Begun, seconds: float) -> Received | None:
        if not begun.over.wait(seconds):
            return None
        if isinstance(begun.outcome, BaseException):
            raise begun.outcome
        return begun.outcome


class AsyncDriver(_Driver):
    """For asyncio."""

    _http: tuple[tuple[str, str, int], httpx.AsyncClient] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        if self._http is not None:
            http, self._http = self._http[1], None
            await http.aclose()

    async def run(self, flow: Flow[T]) -> T:
        """Carry a flow out. Cancelling ends the wait; what the service has begun goes on.

        Raises:
            ClientError: as the flow says.
        """
        outcome: Any = None
        error: ClientError | None = None
        begun: set[asyncio.Task[Received]] = set()
        try:
            while True:
                step = flow.throw(error) if error is not None else flow.send(outcome)
                outcome, error = None, None
                try:
                    outcome = await self._perform(step, begun)
                except ClientError as caught:
                    error = caught
        except StopIteration as done:
            result: T = done.value
            return result
        finally:
            for task in begun:
                task.cancel()
            await asyncio.gather(*begun, return_exceptions=True)

    async def _perform(self, step: Step, begun: set[asyncio.Task[Received]]) -> Any:
        match step:
            case Send(request):
                return await self._send(request)
            case Begin(request):
                task = asyncio.create_task(self._send(request))
                begun.add(task)
                return task
            case Await(task, seconds):
                await asyncio.wait({task}, timeout=seconds)
                return task.result() if task.done() else None
            case Sleep(seconds):
                await asyncio.sleep(seconds)
                return None

    async def _send(self, request: Request) -> Received:
        target = self.way.target()
        try:
            response = await (await self._connected(target)).request(**_arguments(request, target))
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise self._meaning(error, request) from error
        return Received(response, target.without_key)

    async def _connected(self, target: Target) -> httpx.AsyncClient:
        connection = self._connection_of(target)
        if self._http is None or self._http[0] != connection:
            await self.aclose()
            self._http = connection, httpx.AsyncClient(**self._options(target))
        return self._http[1]
