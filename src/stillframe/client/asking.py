"""One call and what comes of it: the envelope, what may be tried again, and lists in pages."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import httpx
from pydantic import ValidationError

from stillframe.client.endpoints import Endpoint, Request
from stillframe.client.errors import ApiError, NoServiceError, NotStillframeError
from stillframe.client.flow import Flow, Received, Send, Sleep
from stillframe.client.models import Record
from stillframe.domain.errors import ErrorCase

# how long to wait before a read is tried again that found nobody
RETRY_AFTER_S = (0.2, 0.8)
# the longest that a call waits, all in all, for a service that says "not so often"
PATIENCE_S = 60.0
PAGE_ROWS = 1000
_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")

T = TypeVar("T", bound=Record)
T_co = TypeVar("T_co", covariant=True)
R = TypeVar("R")


@dataclass(frozen=True)
class Answer:
    """``operation_uuids``: the tasks that the call was."""

    data: Any
    operation_uuids: tuple[str, ...]


def ask(endpoint: Endpoint[T], **fields: Any) -> Flow[T]:
    """The data of one call.

    Raises:
        ClientError: see ``errors``.
    """
    answer = yield from exchange(endpoint.request(fields))
    return read(endpoint, answer)


def read(endpoint: Endpoint[T], answer: Answer) -> T:
    """Raises: NotStillframeError: the data is not what this call's is."""
    try:
        return endpoint.data.model_validate(answer.data)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise NotStillframeError(200, f"{endpoint.path}: {where}: {first['msg']}") from error


def exchange(request: Request) -> Flow[Answer]:
    """Send until there is an answer. A read that found nobody is tried again; what changes something never is, but when
    the service itself has said that it did nothing and wants to be asked later.
    """
    pauses_s = iter(() if request.changes else RETRY_AFTER_S)
    patience_s = PATIENCE_S
    while True:
        try:
            received: Received = yield Send(request)
            return answer_of(received)
        except NoServiceError as error:
            pause_s = next(pauses_s, None)
            if pause_s is None or not error.may_pass:
                raise
            yield Sleep(pause_s)
        except ApiError as error:
            pause_s = throttled_s(error, patience_s)
            if pause_s is None:
                raise
            patience_s -= pause_s
            yield Sleep(pause_s)


def throttled_s(error: ApiError, patience_s: float) -> float | None:
    """How long to wait before the same request is sent again; None: it is not."""
    wait_s = error.retry_after_s
    if error.scode != ErrorCase.RATE_LIMITED.code or wait_s is None or wait_s > patience_s:
        return None
    return wait_s


def answer_of(received: Received) -> Answer:
    """Raises: ApiError: the service said no; NotStillframeError; NoKeyError."""
    response = received.response
    try:
        envelope = response.json()
        scode, data = envelope["scode"], envelope["data"]
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise NotStillframeError(response.status_code) from error
    operations = tuple(uuid for uuid in re.split(r",\s*", response.headers.get("X-Operation-Id", "")) if uuid)
    if scode == 0:
        return Answer(data, operations)
    if not isinstance(scode, int):
        raise NotStillframeError(response.status_code)
    if scode == ErrorCase.NOT_AUTHENTICATED.code and received.without_key is not None:
        raise received.without_key
    message, message_cn, desc = (str(envelope.get(name, "")) for name in ("message", "message_cn", "desc"))
    raise ApiError(
        scode,
        message,
        message_cn,
        desc,
        request_id=response.headers.get("X-Request-Id", ""),
        retry_after_s=_seconds(response),
        operation_uuids=operations,
    )


def _seconds(response: httpx.Response) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if re.fullmatch(r"[0-9]{1,9}", text) else None


class _Page(Protocol[T_co]):
    @property
    def list(self) -> Sequence[T_co]: ...
    @property
    def next(self) -> str: ...


def pages(fetch: Callable[[str, int], Flow[_Page[R]]], limit: int | None) -> Flow[list[R]]:
    """The first ``limit`` rows (None: all) of a list that comes in pages. ``fetch``: of ``after`` and a page's size."""
    rows: list[R] = []
    after = ""
    while limit is None or len(rows) < limit:
        page = yield from fetch(after, PAGE_ROWS if limit is None else min(PAGE_ROWS, limit - len(rows)))
        rows += page.list
        after = page.next
        if not after:
            break
    return rows


def is_uuid(text: str) -> bool:
    return _UUID.fullmatch(text) is not None
