"""What the tests of this folder stand on: a process that forks services, a private libvirtd, a service for each module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.ground import Ground
from support.lab import Lab, open_lab
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
def lab_settings() -> dict[str, str]:
    """How the lab's service is set; a module that wants it otherwise has a fixture of this name."""
    return {}


@pytest.fixture(scope="module")
def lab(striker: Striker, lab_settings: dict[str, str]) -> Iterator[Lab]:
    with open_lab(striker, **lab_settings) as opened:
        yield opened


@pytest.fixture(scope="module")
def ground_settings() -> dict[str, str]:
    """How the ground's service is set; a module that wants it otherwise has a fixture of this name."""
    return {}


@pytest.fixture(scope="module")
def ground(daemon: PrivateLibvirtd, striker: Striker, ground_settings: dict[str, str]) -> Iterator[Ground]:
    service = StruckService(striker, daemon.uri, **{"host_patience_s": str(PATIENCE_S), **ground_settings})
    ground = Ground(daemon, service)
    try:
        service.start()
        yield ground
        ground.put_away()
    finally:
        service.destroy()
