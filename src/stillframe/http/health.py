"""What machines ask about the service itself: ``/healthz``, ``/readyz`` and ``/metrics``. No envelope, no part of the document.

They are for load balancers, supervisors and Prometheus, which read a status, or a format of their own.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from http.client import OK, SERVICE_UNAVAILABLE

import anyio
import anyio.to_thread
from fastapi import FastAPI, Request, Response

from stillframe.domain.access import Need, Principal
from stillframe.http.access import PRINCIPAL
from stillframe.http.crowd import Crowd
from stillframe.http.door import Door
from stillframe.http.paths import HEALTH_PATH, METRICS_PATH, READY_PATH
from stillframe.ports.instruments import RequestMeter, Standing, Traffic

# beside every other call's: a probe must tell of a service whose threads all hang
_SCRAPE_THREADS = 2
_PROBE_THREADS = 4
_PROBES_MAX_WAITING = 32  # strangers may ask; what they cannot do is queue without end
_METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"


@dataclass(frozen=True)
class Monitor:
    """``standing`` and ``why_not_ready`` may block for as long as their own limits let them, ``render`` does not."""

    meter: RequestMeter
    standing: Callable[[], Standing]
    render: Callable[[Standing, Traffic], bytes]
    why_not_ready: Callable[[], str]


class Health:
    """The three answers. ``pools`` of the door are looked at on the event loop, everything else in threads."""

    def __init__(self, monitor: Monitor, door: Door) -> None:
        self._monitor = monitor
        self._door = door
        self._scrapes = anyio.CapacityLimiter(_SCRAPE_THREADS)
        self._probes = anyio.CapacityLimiter(_PROBE_THREADS)

    def add_to(self, app: FastAPI) -> None:
        app.add_route(HEALTH_PATH, self._healthz, include_in_schema=False)
        app.add_route(READY_PATH, self._readyz, include_in_schema=False)
        app.add_route(METRICS_PATH, self._metrics, include_in_schema=False)

    async def _healthz(self, _request: Request) -> Response:
        return _plain("ok", OK)

    async def _readyz(self, _request: Request) -> Response:
        if self._probes.statistics().tasks_waiting >= _PROBES_MAX_WAITING:
            return _plain("not ready: busy", SERVICE_UNAVAILABLE)
        why = await anyio.to_thread.run_sync(self._monitor.why_not_ready, limiter=self._probes)
        return _plain(f"not ready: {why}", SERVICE_UNAVAILABLE) if why else _plain("ready", OK)

    async def _metrics(self, request: Request) -> Response:
        principal: Principal | None = request.scope.get(PRINCIPAL)
        if principal is not None:  # else the gate has let it in without a key
            principal.check(Need.ADMINISTER)
        crowd: Crowd | None = getattr(request.app.state, "crowd", None)
        traffic = Traffic(None if crowd is None else len(crowd), self._door.pools())
        page = await anyio.to_thread.run_sync(partial(self._page, traffic), limiter=self._scrapes)
        return Response(page, headers={"Content-Type": _METRICS_TYPE, "Cache-Control": "no-store"})

    def _page(self, traffic: Traffic) -> bytes:
        return self._monitor.render(self._monitor.standing(), traffic)


def _plain(words: str, status: int) -> Response:
    return Response(f"{words}\n", status, {"Content-Type": "text/plain; charset=utf-8", "Cache-Control": "no-store"})
