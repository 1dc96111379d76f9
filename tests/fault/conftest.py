"""One private libvirtd for the folder, and a service on it for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.ground import Ground
from support.private_libvirtd import PrivateLibvirtd
from support.struck import Striker, StruckService

PATIENCE_S = 60


@pytest.fixture(scope="session")
def striker() -> Iterator[Striker]:
    forks = Striker()
    yield forks
    forks.close()


@pytest.fixture(scope="session")
def daemon() -> Iterator[PrivateLibvirtd]:
    with PrivateLibvirtd() as private:
        yield private


@pytest.fixture(scope="module")
def ground(daemon: PrivateLibvirtd, striker: Striker, request: pytest.FixtureRequest) -> Iterator[Ground]:
    """A module may have ``SERVICE_SETTINGS`` of its own."""
    settings: dict[str, str] = getattr(request.module, "SERVICE_SETTINGS", {})
    service = StruckService(striker, daemon.uri, **{"host_patience_s": str(PATIENCE_S), **settings})
    ground = Ground(daemon, service)
    try:
        service.start()
        yield ground
        ground.put_away()
    finally:
        service.destroy()
