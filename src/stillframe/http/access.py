"""Who stands at the door: a request's key is proved before its body is read, and each call says what it needs."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Annotated, Any, TypeVar

import anyio
import anyio.to_thread
from fastapi import Depends, Request
from fastapi.security import APIKeyHeader
from starlette.types import Scope

from stillframe.domain.access import Need, Principal
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.http.links import SCREENSHOT_PATH
from stillframe.http.near import is_near
from stillframe.http.paths import CONSOLE_PATH, CONSOLE_PREFIX, DOCUMENT_PATH, HEALTH_PATH, METRICS_PATH, READY_PATH
from stillframe.http.throttle import Throttle

E = TypeVar("E", bound=Callable[..., Any])

PRINCIPAL = "stillframe.principal"  # where the principal lies in the ASGI scope; absent where a link stands for a key
BEGUN = "stillframe.begun"  # when the request came, seconds of the monotonic clock
_HEADER = b"apikey"
SESSION_COOKIE = "stillframe_session"
CONSOLE_HEADER = b"x-stillframe-console"
SIGN_IN_PATH = "/v1/stillframe/session/open"
_KEY_MAX_BYTES = 256
_THREADS = 8
# what needs no key: the document that clients are made from, whether the service works, and the console's own files
_OPEN_PATHS = frozenset({DOCUMENT_PATH, HEALTH_PATH, READY_PATH, CONSOLE_PATH, SIGN_IN_PATH})
_OPEN_PREFIXES = (f"{SCREENSHOT_PATH}/", CONSOLE_PREFIX)
_BEARER = b"bearer "
# with these a tenant is told that something does not exist for it, whether there is none or it is another's
_HIDING = frozenset({ErrorCase.VM_UNKNOWN, ErrorCase.TASK_UNKNOWN, ErrorCase.LOG_LINE_UNKNOWN})
_LEVEL_S = 0.05

# for the OpenAPI document alone: the gate has proved the key long before
API_KEY = APIKeyHeader(
    name="ApiKey", scheme_name="ApiKey", auto_error=False, description="The key: `sfk_<id>_<secret>`."
)

_NEEDS: dict[Callable[..., Any], Need | None] = {}
_CALLS: dict[Callable[..., Any], str] = {}


def session_of(scope: Scope) -> str:
    """The token of the console's session that the request brings; "" for none."""
    for name, value in scope["headers"]:
        if name == b"cookie":
            for part in value.decode("latin-1").split(";"):
                key, _, token = part.strip().partition("=")
                if key == SESSION_COOKIE:
                    return str(token)
    return ""


def _is_open(scope: Scope) -> bool:
    path: str = scope["path"]
    return path in _OPEN_PATHS or path.startswith(_OPEN_PREFIXES)


def _check_own_page(scope: Scope) -> None:
    """A browser sends its cookie whoever made it ask: what changes something has to come from the console's own page.

    A foreign page can set no header of its own unless we say that it may, and we never do.

    Raises:
        Refused: NOT_AUTHENTICATED.
    """
    headers = dict(scope["headers"])
    if headers.get(b"sec-fetch-site", b"same-origin") not in (b"same-origin", b"none"):
        raise Refused(ErrorCase.NOT_AUTHENTICATED, "the session is for the console's own pages")
    if scope["method"] not in ("GET", "HEAD") and CONSOLE_HEADER not in headers:
        raise Refused(ErrorCase.NOT_AUTHENTICATED, "a session may change something only with the console's own header")


class Gate:
    """Lets requests in that bring a key. What they may do then is each call's own business (``needs``)."""

    def __init__(
        self,
        authenticate: Callable[[str], Principal],
        resume: Callable[[str], Principal],
        throttle: Throttle,
        *,
        metrics_open: bool = False,
    ) -> None:
        """``authenticate`` takes a key and ``resume`` a session's token; both block: they ask the database, with every
        request. ``throttle`` is for tenants' keys. ``metrics_open``: who asks from this machine itself sees the metrics
        without a key.
        """
        self._authenticate = authenticate
        self._resume = resume
        self._throttle = throttle
        self._metrics_open = metrics_open
        self._threads = anyio.CapacityLimiter(_THREADS)

    async def admit(self, scope: Scope) -> None:
        """Note in the scope who asks.

        Raises:
            Refused: NOT_AUTHENTICATED; RATE_LIMITED, with ``retry_after_s``, when a tenant's key asks too often.
            Failed: STORAGE_FAILED, when the keys cannot be read.
        """
        keys = _keys_of(scope)
        if not keys and (_is_open(scope) or self._is_open_metrics(scope)):
            return
        if not keys and session_of(scope):
            _check_own_page(scope)
        elif len(keys) != 1:
            raise Refused(ErrorCase.NOT_AUTHENTICATED, f"{len(keys)} ApiKey headers; expected one")
        principal = await self._prove(scope)
        # also for one that is turned away: whose attempt it was is known
        scope[PRINCIPAL] = principal
        self.hold_back(principal)

    def hold_back(self, principal: Principal) -> None:
        """It does not ask too often.

        Raises:
            Refused: RATE_LIMITED, with ``retry_after_s``, when it is a tenant's key and does.
        """
        if principal.bound is not None:
            self._throttle.check(principal.key_id)

    async def admit_again(self, scope: Scope) -> None:
        """The same, of a request that has been waited for since: its key may have stopped meanwhile.

        Raises:
            Refused: NOT_AUTHENTICATED.
            Failed: STORAGE_FAILED, when the keys cannot be read.
        """
        if PRINCIPAL in scope:
            scope[PRINCIPAL] = await self._prove(scope)

    def _is_open_metrics(self, scope: Scope) -> bool:
        return self._metrics_open and scope["path"] == METRICS_PATH and is_near(scope)

    async def _prove(self, scope: Scope) -> Principal:
        raw = next(iter(_keys_of(scope)), None)
        if raw is None:
            return await anyio.to_thread.run_sync(self._resume, session_of(scope), limiter=self._threads)
        text = raw.decode("latin-1").strip() if len(raw) <= _KEY_MAX_BYTES else ""
        return await anyio.to_thread.run_sync(self._authenticate, text, limiter=self._threads)


def _keys_of(scope: Scope) -> list[bytes]:
    """What it brings as keys. Prometheus can send no header of our choice: for its one path the standard's does as well."""
    headers: list[tuple[bytes, bytes]] = scope["headers"]
    keys = [value for name, value in headers if name == _HEADER]
    if scope["path"] == METRICS_PATH:
        given = [value for name, value in headers if name == b"authorization"]
        keys += [value[len(_BEARER) :] for value in given if value[: len(_BEARER)].lower() == _BEARER]
    return keys


def needs(need: Need, call: str = "") -> Callable[[E], E]:
    """Declares what a call needs; one that declares nothing cannot be routed.

    ``call``: its name in the operation log, which every call that changes something has.
    """

    def declare(endpoint: E) -> E:
        _NEEDS[endpoint] = need
        _CALLS[endpoint] = call
        return endpoint

    return declare


def by_link(endpoint: E) -> E:
    """Declares a call that a signed link opens as well; it checks by itself."""
    _NEEDS[endpoint] = None
    return endpoint


def by_anybody(call: str) -> Callable[[E], E]:
    """Declares a call that needs no key; ``call``: its name in the operation log."""

    def declare(endpoint: E) -> E:
        _NEEDS[endpoint] = None
        _CALLS[endpoint] = call
        return endpoint

    return declare


def need_of(endpoint: Callable[..., Any]) -> Need | None:
    """What was declared.

    Raises:
        LookupError: nothing was.
    """
    if endpoint not in _NEEDS:
        raise LookupError(f"{endpoint.__name__} does not declare what it needs (http/access.py)")
    return _NEEDS[endpoint]


def logged_call_of(endpoint: Callable[..., Any]) -> str:
    """Its name in the operation log.

    Raises:
        LookupError: it has none.
    """
    if not _CALLS.get(endpoint):
        raise LookupError(f"{endpoint.__name__} does not declare its name in the operation log (http/access.py)")
    return _CALLS[endpoint]


def check_allowed(scope: Scope, need: Need | None) -> None:
    """Who asks may make this call.

    Raises:
        Refused: NOT_ALLOWED.
    """
    if need is not None:
        principal: Principal = scope[PRINCIPAL]
        principal.check(need)


async def level(scope: Scope, case: ErrorCase, hiding: frozenset[ErrorCase] = _HIDING) -> None:
    """Let a tenant's "no such …" go at the next full twentieth of a second since its request came.

    How long it took to find out would tell whether there is one that belongs to another tenant. ``hiding``: which cases
    tell that something does not exist for it.
    """
    principal: Principal | None = scope.get(PRINCIPAL)
    if principal is not None and principal.bound is not None and case in hiding:
        await anyio.sleep(-(time.monotonic() - scope[BEGUN]) % _LEVEL_S)


async def _viewer(request: Request) -> Principal:
    principal: Principal = request.scope[PRINCIPAL]
    return principal


ViewerOf = Annotated[Principal, Depends(_viewer)]
