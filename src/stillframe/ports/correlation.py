"""Which request and which operation the running code is part of, for whoever writes a line about it.

Worker threads take both along from the request that they work for; a thread that is started by hand is given a copy of the
context by who starts it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

_request_id: ContextVar[str] = ContextVar("stillframe_request_id", default="")
_operation_id: ContextVar[str] = ContextVar("stillframe_operation_id", default="")


def request_id() -> str:
    """The id of the request; "" where there is none."""
    return _request_id.get()


def operation_id() -> str:
    """The uuid of the operation; "" where there is none."""
    return _operation_id.get()


@contextmanager
def in_request(request_id: str) -> Iterator[None]:
    """What runs inside is part of this request."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


@contextmanager
def in_operation(operation_uuid: str) -> Iterator[None]:
    """What runs inside is part of this operation, also where it interrupts another one."""
    token = _operation_id.set(operation_uuid)
    try:
        yield
    finally:
        _operation_id.reset(token)
