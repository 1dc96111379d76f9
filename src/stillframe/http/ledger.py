"""Whether a call has its line in the operation log; where no use case wrote one, the door does before it answers."""

from __future__ import annotations

import ipaddress
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import anyio
import anyio.to_thread
from fastapi import APIRouter
from fastapi.routing import APIRoute
from starlette.types import Scope

from stillframe.domain.access import Principal
from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.http.access import BEGUN, PRINCIPAL, logged_call_of
from stillframe.http.fields import canonical_uuid, is_uuid
from stillframe.http.parsing import parse_json
from stillframe.operations.refusals import RefusedCall

ENTRY = "stillframe.entry"  # where the call's entry lies in the ASGI scope
# of a body that was refused only so much is looked at; a body that names a machine is shorter by far
_CLAIMS_MAX_BYTES = 64 << 10
_ATTEMPTS = frozenset({ErrorCase.NOT_AUTHENTICATED, ErrorCase.NOT_ALLOWED})
# where they are a tenant's: whether there is none or it is another's
_PROBES = frozenset({ErrorCase.VM_UNKNOWN, ErrorCase.TASK_UNKNOWN, ErrorCase.LOG_LINE_UNKNOWN})
_MARKS = ("GCD", "GDT")
_THREADS = 8


@dataclass
class Entry:
    """What is known of a call while it goes on. ``call``: its name in the log, "" for one that changes nothing."""

    call: str
    body: bytes = b""
    error: StillframeError | None = None
    is_logged: bool = False

    def noted(self) -> None:
        """The operation log gets a line about it."""
        self.is_logged = True


class Ledger:
    """Opens an entry for each request, and closes it before the first byte of the answer."""

    def __init__(self, note_refusal: Callable[[RefusedCall], None], calls: Mapping[str, str]) -> None:
        """``note_refusal`` blocks. ``calls``: path -> name in the log, of the POSTs that change something."""
        self._note_refusal = note_refusal
        self._calls = calls
        self._threads = anyio.CapacityLimiter(_THREADS)

    def open(self, scope: Scope) -> Entry:
        return Entry(self._calls.get(scope["path"], "") if scope["method"] == "POST" else "")

    async def close(self, scope: Scope) -> None:
        """A refused attempt that no use case has written a line about gets one. Repeatable.

        Of calls that change nothing those are attempts that bring no key or one that does not allow them, and a tenant's
        at what does not exist for it. A service that is being stopped does not
        wait: what it cuts off is finished or undone at its next start, and is no refusal.
        """
        entry: Entry = scope[ENTRY]
        error, principal = entry.error, scope.get(PRINCIPAL)
        if error is None or entry.is_logged or error.case is ErrorCase.STOPPING:
            return
        if not entry.call and not _is_attempt(error.case, principal):
            return
        entry.noted()
        refused = _refused_call(scope, entry, error, principal)
        await anyio.to_thread.run_sync(partial(self._note_refusal, refused), limiter=self._threads)


def _is_attempt(case: ErrorCase, principal: Principal | None) -> bool:
    is_tenants = principal is not None and principal.bound is not None
    return case in _ATTEMPTS or (is_tenants and case in _PROBES)


def logged_calls(routers: Iterable[APIRouter]) -> dict[str, str]:
    """Path -> name in the operation log, of every POST.

    Raises:
        LookupError: one does not declare its name.
    """
    routes = (route for router in routers for route in router.routes)
    return {
        route.path: logged_call_of(route.endpoint)
        for route in routes
        if isinstance(route, APIRoute) and "POST" in (route.methods or ())
    }


def address_of(scope: Scope) -> str:
    """Where the request comes from: an address, or "" for what is none.

    A trusted proxy may say it for its client, and with it anything at all.
    """
    host = scope["client"][0] if scope.get("client") else ""
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        return ""


def _refused_call(scope: Scope, entry: Entry, error: StillframeError, principal: Principal | None) -> RefusedCall:
    # of a stranger nothing is looked at
    vm_uuid, snapshot, mark = _claims(entry.body) if principal is not None else ("", "", "")
    return RefusedCall(
        principal,
        address_of(scope),
        entry.call,
        error.case,
        error.desc,
        vm_uuid=vm_uuid,
        snapshot=snapshot,
        mark=mark,
        duration_ms=int((time.monotonic() - scope[BEGUN]) * 1000),
    )


def _claims(body: bytes) -> tuple[str, str, str]:
    """The VM, the snapshot and the mark that a refused body names, as far as it can be read."""
    if not body or len(body) > _CLAIMS_MAX_BYTES:
        return "", "", ""
    try:
        parsed = parse_json(body)
    except Refused:
        return "", "", ""
    if not isinstance(parsed, dict):
        return "", "", ""
    vm_uuid, name, mark = (parsed.get(field) for field in ("compute_uuid", "name", "vm_type"))
    if not isinstance(vm_uuid, str) or not is_uuid(vm_uuid):
        return "", "", ""  # without a virtual machine a name is no snapshot's
    return canonical_uuid(vm_uuid), name if isinstance(name, str) else "", str(mark) if mark in _MARKS else ""
