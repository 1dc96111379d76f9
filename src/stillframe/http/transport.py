"""What surrounds every call, whatever it is: an id, a bounded body, HEAD, and an envelope even for a crash."""

from __future__ import annotations

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from uuid import uuid4

import anyio
from fastapi import Request
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.http.access import BEGUN, Gate
from stillframe.http.envelope import EnvelopeResponse, crash_of, described_call, failure_of, log_outcome
from stillframe.http.ledger import ENTRY, Entry, Ledger
from stillframe.http.links import SCREENSHOT_PATH
from stillframe.http.meter import Answered, Meter
from stillframe.http.parsing import refuse_unsound
from stillframe.http.paths import METRICS_PATH
from stillframe.ports.correlation import in_request
from stillframe.settings import Settings

log = logging.getLogger("stillframe.http")

REQUEST_ID = "stillframe.request_id"  # where the id lies in the ASGI scope
OPERATIONS = "stillframe.operations"  # where the uuids of the operations that the call begins are gathered
OPERATIONS_MAX_NAMED = 100  # a batch may begin thousands; clients and proxies take headers of some kilobytes
# the end of such a request is not known, or not waited for
ENDS_CONNECTION = frozenset({ErrorCase.REQUEST_BROKEN, ErrorCase.REQUEST_TOO_SLOW})
DRAIN_MAX_BYTES = 64 << 20
DRAIN_MAX_S = 30.0


class _ClientGoneError(Exception):
    """The connection ended before the request was complete: there is nobody to answer."""


def respond(settings: Settings, scope: Scope, error: StillframeError) -> EnvelopeResponse:
    """The answer to an error outcome, logged under the request's id."""
    log_outcome(scope[REQUEST_ID], described_call(scope["method"], scope["path"]), error)
    entry: Entry = scope[ENTRY]
    entry.error = error
    response = EnvelopeResponse(failure_of(error), status_code=status_of(settings, error.case, scope["path"]))
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(max(1, math.ceil(error.retry_after_s)))
    return response


def respond_to(request: Request, error: StillframeError) -> EnvelopeResponse:
    """``respond`` for a handler that has the framework's request."""
    return respond(request.app.state.door.settings, request.scope, error)


def status_of(settings: Settings, case: ErrorCase, path: str = "") -> int:
    """The HTTP status of an error: 200 where the settings say so and whoever asks can look into an envelope."""
    # an image element cannot, it needs to see that there is no picture; nor can a scraper, or what is no HTTP
    cannot = path.startswith(f"{SCREENSHOT_PATH}/") or path == METRICS_PATH or case is ErrorCase.REQUEST_BROKEN
    return 200 if settings.http_errors == "ok" and not cannot else case.value.http_status


class Transport:
    """ASGI middleware around the whole application.

    Promises: every response carries ``X-Request-Id``, and ``X-Operation-Id`` where operations were begun; the key is proved,
    and then the body read, up to ``max_body_bytes`` and for ``request_timeout_s``, before the application sees the request,
    so that no worker waits for a client, and behind it the key once more; HEAD answers as GET without the body; an exception becomes an envelope; a refused
    attempt is in the operation log.
    """

    def __init__(self, app: ASGIApp, settings: Settings, gate: Gate, ledger: Ledger, meter: Meter) -> None:
        self._app = app
        self._gate = gate
        self._ledger = ledger
        self._meter = meter
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope = {**scope, REQUEST_ID: uuid4().hex, OPERATIONS: [], BEGUN: time.monotonic()}
        scope[ENTRY] = self._ledger.open(scope)
        is_head = scope["method"] == "HEAD"
        if is_head:
            scope["method"] = "GET"
        with in_request(scope[REQUEST_ID]), self._meter.counting(scope) as answered:
            await self._answer(scope, receive, _Outlet(send, scope, self._ledger, answered, is_head=is_head))

    async def _answer(self, scope: Scope, receive: Receive, outlet: _Outlet) -> None:
        try:
            await self._serve(scope, receive, outlet)
        except _ClientGoneError:
            log.info("request %s: the client left before the request was complete", scope[REQUEST_ID])
        except asyncio.CancelledError:
            # only a server that is being stopped cancels; its time for this request is over, the work goes on
            if outlet.started:
                raise
            stopping = Failed(ErrorCase.STOPPING, f"request {scope[REQUEST_ID]}")
            await respond(self._settings, scope, stopping)(scope, receive, outlet)
        except Exception as error:
            call = described_call(scope["method"], scope["path"])
            crash = crash_of(scope[REQUEST_ID], call, error)
            if outlet.started:
                raise  # half an answer cannot be taken back; the server cuts the connection
            scope[ENTRY].error = Failed(ErrorCase.INTERNAL, type(error).__name__)
            status = status_of(self._settings, ErrorCase.INTERNAL, scope["path"])
            response = EnvelopeResponse(crash, status_code=status)
            await response(scope, receive, outlet)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        incoming = _Incoming(scope, receive)
        try:
            refuse_unsound(scope, self._settings.max_header_bytes)
            await self._gate.admit(scope)
            body = await incoming.read(self._settings.max_body_bytes, self._settings.request_timeout_s)
            scope[ENTRY].body = body
            if incoming.is_announced:  # an empty one as well: its end may be held back
                await self._gate.admit_again(scope)
        except StillframeError as refusal:
            # the rest of the body is thrown away, so that a client that is still sending gets to read the answer
            if refusal.case not in ENDS_CONNECTION:
                await incoming.drain()
            response = respond(self._settings, scope, refusal)
            if not incoming.complete:
                response.headers["Connection"] = "close"
            await response(scope, receive, send)
            return
        await self._app(scope, _Replay(body, receive), send)


class _Outlet:
    """``send`` with the ids in the headers, and without the body when the client asked by HEAD.

    Before the first byte the operation log has what it is to have about the call.
    """

    def __init__(self, send: Send, scope: Scope, ledger: Ledger, answered: Answered, *, is_head: bool) -> None:
        self._send = send
        self._scope = scope
        self._ledger = ledger
        self._request_id: str = scope[REQUEST_ID]
        self._operations: list[str] = scope[OPERATIONS]
        self._answered = answered
        self._is_head = is_head
        self.started = False

    async def __call__(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            await self._ledger.close(self._scope)
            self.started = True
            self._answered.begins(message["status"])
            headers = MutableHeaders(scope=message)
            headers["X-Request-Id"] = self._request_id
            if self._operations:
                headers["X-Operation-Id"] = ", ".join(self._operations[:OPERATIONS_MAX_NAMED])
            headers["X-Content-Type-Options"] = "nosniff"
        elif message["type"] == "http.response.body" and self._is_head:
            message = {**message, "body": b""}
        await self._send(message)


class _Replay:
    """``receive`` that gives the body once more, then what else the connection says."""

    def __init__(self, body: bytes, receive: Receive) -> None:
        self._body: bytes | None = body
        self._receive = receive

    async def __call__(self) -> Message:
        if self._body is None:
            return await self._receive()
        body, self._body = self._body, None
        return {"type": "http.request", "body": body, "more_body": False}


class _Incoming:
    """A request's body. ``is_announced``: there is to be one, of known length or in chunks. ``complete``: its end was seen."""

    def __init__(self, scope: Scope, receive: Receive) -> None:
        self._receive = receive
        headers = Headers(scope=scope)
        announced = headers.get("content-length", "")
        self._announced_bytes = int(announced) if announced.isascii() and announced.isdigit() else 0
        self.is_announced = self._announced_bytes > 0 or "transfer-encoding" in headers
        self._waits_for_continue = "expect" in headers
        self.complete = False

    async def read(self, limit_bytes: int, timeout_s: float) -> bytes:
        """The whole body.

        Raises:
            Refused: BODY_TOO_LARGE, as soon as that is known; REQUEST_TOO_SLOW. The rest is unread.
        """
        try:
            with anyio.fail_after(timeout_s):
                return await self._read(limit_bytes)
        except TimeoutError:
            raise Refused(
                ErrorCase.REQUEST_TOO_SLOW, f"the body took longer than the {timeout_s:g} s that it is waited for"
            ) from None

    async def _read(self, limit_bytes: int) -> bytes:
        if self._announced_bytes > limit_bytes:
            raise Refused(
                ErrorCase.BODY_TOO_LARGE, f"{self._announced_bytes} bytes; at most {limit_bytes} are accepted"
            )
        body = bytearray()
        async for part in self._parts():
            body += part
            if len(body) > limit_bytes:
                raise Refused(ErrorCase.BODY_TOO_LARGE, f"more than the {limit_bytes} bytes that are accepted")
        return bytes(body)

    async def drain(self) -> None:
        """Read and forget the rest, within reason.

        A client that waits for "100 Continue" has sent nothing yet: asking for more would invite the body.
        """
        if self._waits_for_continue or self._announced_bytes > DRAIN_MAX_BYTES:
            return
        seen = 0
        with anyio.move_on_after(DRAIN_MAX_S):
            async for part in self._parts():
                seen += len(part)
                if seen > DRAIN_MAX_BYTES:
                    return

    async def _parts(self) -> AsyncIterator[bytes]:
        while not self.complete:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise _ClientGoneError
            self.complete = not message.get("more_body", False)
            yield message.get("body", b"")
