"""The application on a stub of the use cases, served on a real socket: for the client and the command line."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from support.http_door import DoorClient
from support.http_server import serving


@pytest.fixture(scope="module")
def served() -> Iterator[tuple[DoorClient, str]]:
    door = DoorClient()
    with serving(door.app) as (host, port):
        yield door, f"http://{host}:{port}"


@pytest.fixture
def door(served: tuple[DoorClient, str]) -> DoorClient:
    door, _ = served
    door.stub.__init__()  # type: ignore[misc]
    return door
