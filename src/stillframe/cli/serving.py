"""``stillframe serve``: the service itself, in the foreground."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated

import typer

from stillframe.cli.connecting import State
from stillframe.cli.plain import settings_with

PORT_MAX = 65535
_LISTEN = re.compile(r"(?:\[[0-9a-fA-F:.%]+\]|[^:\s/\[\]]+):([0-9]{1,5})")


def serve(
    *,
    listen: Annotated[
        str | None,
        typer.Option(metavar="HOST:PORT", help="Address to listen on (default: 127.0.0.1:8080).", show_default=False),
    ] = None,
    state: State = None,
    tls_certificate: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM certificate with its chain.", show_default=False)
    ] = None,
    tls_key: Annotated[
        Path | None, typer.Option(metavar="FILE", help="PEM key of the certificate.", show_default=False)
    ] = None,
    plain_http: Annotated[
        bool | None,
        typer.Option(
            "--plain-http",
            help="Listen beyond loopback without TLS; keys can be read on the network.",
            show_default=False,
        ),
    ] = None,
    connect: Annotated[
        str | None,
        typer.Option(metavar="URI", help="libvirt to connect to (default: found by itself).", show_default=False),
    ] = None,
) -> None:
    """Run the service in the foreground."""
    if listen is not None and not _is_listen(listen):
        raise typer.BadParameter("expected HOST:PORT, such as 127.0.0.1:8080", param_hint="--listen")
    chosen = {
        "listen": listen,
        "state": state,
        "connect": connect,
        "tls_certificate": tls_certificate,
        "tls_key": tls_key,
        "plain_http": plain_http,
    }
    settings = settings_with(**{name: value for name, value in chosen.items() if value is not None})
    # everything that the service is made of; the other commands start faster without it
    from stillframe.bootstrap import serve as run_service  # noqa: PLC0415

    raise typer.Exit(run_service(settings))


def _is_listen(listen: str) -> bool:
    match = _LISTEN.fullmatch(listen)
    return match is not None and int(match[1]) <= PORT_MAX
