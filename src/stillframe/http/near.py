"""Whether a request comes from this machine itself."""

from __future__ import annotations

import ipaddress

from starlette.datastructures import Headers
from starlette.types import Scope


def is_near(scope: Scope) -> bool:
    """Who asks is on this machine, asks directly, and knows that it does.

    Not what a proxy on this machine hands on, nor what a web page makes a browser here ask under a name of its own.
    """
    headers = Headers(scope=scope)
    if any(name in headers for name in ("forwarded", "x-forwarded-for", "x-forwarded-host", "x-real-ip", "via")):
        return False
    host = headers.get("host", "").rpartition(":")[0] or headers.get("host", "")
    return _is_loopback(scope["client"][0] if scope.get("client") else "") and (
        host == "localhost" or _is_loopback(host.strip("[]"))
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
