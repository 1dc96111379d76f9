"""The console's files, served as they lie: nothing is built, and nothing is loaded from anywhere else."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib.resources import files

from fastapi import FastAPI, Request, Response

from stillframe.domain.errors import ErrorCase, Refused
from stillframe.http.envelope import described_call
from stillframe.http.transport import respond_to

# name -> media type: what is not here is not served, whatever lies there
FILES = {
    "index.html": "text/html; charset=utf-8",
    "console.css": "text/css; charset=utf-8",
    "icon.svg": "image/svg+xml",
    **{
        f"{name}.js": "text/javascript; charset=utf-8"
        for name in ("main", "api", "words", "dom", "list", "machine", "tree", "dialogs", "activity")
    },
}
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
_HEADERS = {
    "Content-Security-Policy": POLICY,
    "Referrer-Policy": "no-referrer",
    "X-Frame-Options": "DENY",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    # asked for each time, and mostly answered with "as you have it"
    "Cache-Control": "no-cache",
}


def add_to(app: FastAPI) -> None:
    """``/`` is the console, its files lie below ``/console/``; none of it needs a key, nor says anything about the host."""
    app.add_route("/", _page, include_in_schema=False)
    app.add_route("/console/{name}", _file, include_in_schema=False)


async def _page(request: Request) -> Response:
    return _served("index.html", request)


async def _file(request: Request) -> Response:
    name = request.path_params["name"]
    if name not in FILES:
        call = described_call(request.method, request.url.path)
        return respond_to(request, Refused(ErrorCase.CALL_UNKNOWN, f"{call} is not a call of this service"))
    return _served(name, request)


def _served(name: str, request: Request) -> Response:
    content, tag = _content(name)
    headers = {**_HEADERS, "ETag": tag}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type=FILES[name], headers=headers)


@cache
def _content(name: str) -> tuple[bytes, str]:
    content = (files("stillframe.console") / "static" / name).read_bytes()
    return content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
