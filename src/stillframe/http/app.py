"""The HTTP application: the calls, and the promise that every answer is an envelope."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import cache
from http.client import METHOD_NOT_ALLOWED, NOT_FOUND
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.http import compute, events, keys, log, overview, own, pages, sessions, snapshots, tasks, tenants
from stillframe.http.access import Gate, level
from stillframe.http.door import Door
from stillframe.http.envelope import described_call
from stillframe.http.health import Health, Monitor
from stillframe.http.ledger import Ledger, logged_calls
from stillframe.http.meter import Meter
from stillframe.http.parsing import refusal_of
from stillframe.http.paths import DOCUMENT_PATH, CallNames
from stillframe.http.throttle import Throttle
from stillframe.http.transport import Transport, respond_to
from stillframe.operations.use_cases import UseCases
from stillframe.settings import Settings

DESCRIPTION = """Snapshots of virtual machines on libvirt/QEMU.

Every answer is the envelope `Output`; read `scode`, not the HTTP status: 0 is success, anything else an error of the
catalogue, worded in English (`message`) and Chinese (`message_cn`), with the details in `desc`.
Every response carries `X-Request-Id`, under which the service's log has its story, and every call that changes something
`X-Operation-Id`: the operation that it was, to be watched and cancelled by the task calls."""


def create_app(use_cases: UseCases, settings: Settings, monitor: Monitor) -> FastAPI:
    """The application, ready for an ASGI server.

    Unknown paths, wrong methods, unreadable bodies and crashes end in an envelope too; the only answers of another
    form are ``/openapi.json``, the screenshots, and what machines ask about the service itself (health.py).
    """
    app = FastAPI(
        title="Stillframe",
        version=version("stillframe"),
        summary="Snapshots of virtual machines: disks, configuration and running memory.",
        description=DESCRIPTION,
        # the framework would render the document anew for each request, and its two pages load scripts from third parties
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
        # a redirect would be an answer without an envelope
        redirect_slashes=False,
    )
    app.state.door = Door(use_cases, settings)
    app.state.streams = events.Streams()
    routers = [
        calls.router for calls in (snapshots, tasks, log, compute, overview, sessions, events, own, keys, tenants)
    ]
    for router in routers:
        app.include_router(router)
    pages.add_to(app)
    app.add_route(DOCUMENT_PATH, _document(app), include_in_schema=False)
    Health(monitor, app.state.door).add_to(app)
    for kind, handle in _HANDLERS.items():
        app.add_exception_handler(kind, handle)
    gate = Gate(
        use_cases.authenticate,
        use_cases.resume_session,
        Throttle(settings.requests_per_s),
        metrics_open=settings.metrics_open,
    )
    app.state.gate = gate
    app.add_middleware(
        Transport,
        settings=settings,
        gate=gate,
        ledger=Ledger(use_cases.note_refusal, logged_calls(routers)),
        meter=Meter(monitor.meter, CallNames(routers)),
    )
    return app


def _document(app: FastAPI) -> Callable[[Request], Awaitable[Response]]:
    @cache
    def rendered() -> bytes:
        return bytes(JSONResponse(app.openapi()).body)

    async def document(_request: Request) -> Response:
        return Response(rendered(), media_type="application/json")

    return document


async def _refused(request: Request, error: StillframeError) -> Response:
    await level(request.scope, error.case)
    return respond_to(request, error)


async def _invalid(request: Request, error: RequestValidationError) -> Response:
    return respond_to(request, refusal_of(error.errors()))


async def _unroutable(request: Request, error: HTTPException) -> Response:
    if error.status_code in (NOT_FOUND, METHOD_NOT_ALLOWED):
        call = described_call(request.method, request.url.path)
        refusal = Refused(ErrorCase.CALL_UNKNOWN, f"{call} is not a call of this service")
    else:
        refusal = Refused(ErrorCase.PARAMETER_MALFORMED, str(error.detail))
    response = respond_to(request, refusal)
    response.headers.update(error.headers or {})  # Allow, for a wrong method
    if error.status_code == METHOD_NOT_ALLOWED and request.app.state.door.settings.http_errors == "semantic":
        response.status_code = METHOD_NOT_ALLOWED
    return response


_HANDLERS: dict[type[Exception], Callable[[Request, Any], Awaitable[Response]]] = {
    StillframeError: _refused,
    RequestValidationError: _invalid,
    HTTPException: _unroutable,
}
