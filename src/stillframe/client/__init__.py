"""Stillframe's API from Python.

    from stillframe.client import Client

    with Client.by_state(Path("/var/lib/stillframe")) as client:
        client.create("web", "before-upgrade", memory=True, wait=True, on_progress=lambda task: print(task.progress))

``Client("https://host:8443", key)`` and ``Client.by_profile("lab")`` reach services elsewhere; ``AsyncClient`` has the same
calls to be awaited. Everything that goes wrong is a ``ClientError``; ``ApiError`` is the service's own "no".

A read that finds nobody is tried again; what changes something never is, since it may have been done. A service that says
"not so often" is asked again when it said, for up to a minute.
"""

from stillframe.client.clients import AsyncClient, Client
from stillframe.client.errors import (
    ApiError,
    ClientError,
    MemoryNotSavedError,
    NoAnswerError,
    NoKeyError,
    NoServiceError,
    NotFoundError,
    NotStillframeError,
    ProfileError,
    StillGoingOnError,
)

__all__ = [
    "ApiError",
    "AsyncClient",
    "Client",
    "ClientError",
    "MemoryNotSavedError",
    "NoAnswerError",
    "NoKeyError",
    "NoServiceError",
    "NotFoundError",
    "NotStillframeError",
    "ProfileError",
    "StillGoingOnError",
]
