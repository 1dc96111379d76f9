"""Paths that more than one part of the door knows, and the names by which figures know calls."""

from __future__ import annotations

import re
from collections.abc import Iterable

from fastapi import APIRouter
from fastapi.routing import APIRoute

HEALTH_PATH = "/healthz"
READY_PATH = "/readyz"
METRICS_PATH = "/metrics"
DOCUMENT_PATH = "/openapi.json"
CONSOLE_PATH = "/"
CONSOLE_PREFIX = "/console/"
OTHER = "other"
_CONSOLE = "console"
_BESIDE = {
    HEALTH_PATH: "healthz",
    READY_PATH: "readyz",
    METRICS_PATH: "metrics",
    DOCUMENT_PATH: "document",
    CONSOLE_PATH: _CONSOLE,
}


class CallNames:
    """A request's call by its ``operationId``, also where it never came as far as its route. A bounded set of names."""

    def __init__(self, routers: Iterable[APIRouter]) -> None:
        self._exact: dict[tuple[str, str], str] = {("GET", path): name for path, name in _BESIDE.items()}
        self._patterns: list[tuple[str, re.Pattern[str], str]] = []
        for route in (route for router in routers for route in router.routes):
            if not isinstance(route, APIRoute):
                continue
            name = route.operation_id or route.name
            for method in route.methods or ():
                if route.param_convertors:
                    self._patterns.append((method, route.path_regex, name))
                else:
                    self._exact[method, route.path] = name

    def of(self, method: str, path: str) -> str:
        """``method`` of a HEAD is GET. What is no call of the service has one name for all."""
        found = self._exact.get((method, path))
        if found is None and path.startswith(CONSOLE_PREFIX):
            return _CONSOLE
        if found is None:
            found = next((name for verb, form, name in self._patterns if verb == method and form.match(path)), OTHER)
        return found
