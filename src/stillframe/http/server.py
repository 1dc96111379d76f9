"""The server around the application: what uvicorn is told, and how many connections this process can have."""

from __future__ import annotations

import logging
import resource
import ssl
from typing import Any

import uvicorn
from fastapi import FastAPI

from stillframe.http.crowd import Crowd
from stillframe.http.ebb import give_back_soon
from stillframe.http.protocol import GuardedProtocol
from stillframe.http.tls import TlsProtocol
from stillframe.settings import Settings

log = logging.getLogger("stillframe.http")

BACKLOG = 4096  # a crowd that comes at once is to be let in, not left to knock again after seconds
# for the database, disks and libvirt; and a whole backlog is accepted at once, before anybody is given up for it
RESERVED_DESCRIPTORS = BACKLOG + 1024


def server_config(app: FastAPI, settings: Settings, **where: Any) -> uvicorn.Config:
    """Uvicorn as this service runs it; ``where``: the options that say where it listens."""
    app.state.crowd = crowd = Crowd(open_files_for(settings.max_connections), settings.max_held_bytes, give_back_soon)
    return uvicorn.Config(
        app,
        http=_protocol(settings, crowd),
        ws="none",
        h11_max_incomplete_event_size=settings.max_header_bytes,
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=bool(settings.trusted_proxies),
        forwarded_allow_ips=settings.trusted_proxies or None,
        timeout_graceful_shutdown=settings.shutdown_timeout_s,
        **where,
    )


def _protocol(settings: Settings, crowd: Crowd) -> type[GuardedProtocol]:
    """What uvicorn makes a connection with. All of them share the one crowd."""
    limits = {"settings": settings, "crowd": crowd}
    if settings.tls_certificate is None or settings.tls_key is None:
        return type("_Protocol", (GuardedProtocol,), limits)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(settings.tls_certificate, settings.tls_key)
    return type("_Protocol", (TlsProtocol,), {**limits, "context": context})


def open_files_for(wanted: int) -> int:
    """Raise this process's limit of open files as far as ``wanted`` connections need; returns how many it allows.

    No further than that: children inherit it, and some close every descriptor up to it one by one.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = wanted + RESERVED_DESCRIPTORS
    if soft != resource.RLIM_INFINITY and soft < needed:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_lesser(needed, hard), hard))
        except OSError as error:  # a sandbox may forbid it
            log.info("the limit of open files stays at %d: %s", soft, error)
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    allowed = max(soft - RESERVED_DESCRIPTORS, soft // 4)
    log.warning("at most %d connections, not %d: this process may open %d files (ulimit -n)", allowed, wanted, soft)
    return allowed


def _lesser(wanted: int, hard: int) -> int:
    return wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
