"""The seed's Output: the one shape of every answer, for results, refusals and crashes alike.

Source: seed, "Output" and "BatchOutput"; the form of a ``stack`` entry is the platform's.
"""

from __future__ import annotations

import inspect
import json
import logging
import os
import socket
import traceback
from collections.abc import Iterator, Mapping
from pathlib import PurePath
from types import FrameType
from typing import Annotated, Any, Generic, Literal, TypeVar

from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field

from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError

log = logging.getLogger("stillframe.http")

PACKAGE = "stillframe."
STACK_MAX_FRAMES = 64
PATH_MAX_CHARS = 200

T = TypeVar("T")


class EmptyData(BaseModel):
    """``{}``: the seed's "empty"."""

    model_config = ConfigDict(extra="forbid")


class Success(BaseModel, Generic[T]):
    """An Output without an error. The fields stand in the seed's order."""

    model_config = ConfigDict(json_schema_serialization_defaults_required=True)

    scode: Annotated[Literal[0], Field(description="0: no error.")] = 0
    desc: Annotated[Literal[""], Field(description="Empty on success.")] = ""
    message: Literal["success"] = "success"
    message_cn: Literal["成功"] = "成功"
    stack: Annotated[None, Field(description="null on success.")] = None
    data: Annotated[T, Field(description="What the call returns.")]


class Failure(BaseModel, Generic[T]):
    """An Output with an error; docs/errors.md lists every ``scode``."""

    scode: Annotated[int, Field(ge=1, description="The error's code; stable for ever.")]
    desc: Annotated[str, Field(description="This case's details: about which object, whose own words.")]
    message: Annotated[str, Field(description="The code's meaning in English.")]
    message_cn: Annotated[str, Field(description="The code's meaning in Chinese.")]
    stack: Annotated[
        list[str],
        Field(
            description="Where it came from, innermost first: "
            '"host:…,pid:…,module:…,code:…,filename:…,func:…,line:…"; only the service\'s own frames.'
        ),
    ]
    data: Annotated[T, Field(description="Empty; in a batch: what the entry named.")]


class EnvelopeResponse(JSONResponse):
    """UTF-8 JSON in the models' field order, never cached.

    A lone surrogate, which no UTF-8 can carry, becomes "?" rather than a broken answer.
    """

    def __init__(self, content: BaseModel, *, status_code: int = 200, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(content, status_code=status_code, headers={"Cache-Control": "no-store", **(headers or {})})

    def render(self, content: BaseModel) -> bytes:
        text = json.dumps(content.model_dump(), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode("utf-8", "replace")


def failure_of(error: StillframeError, data: object = None) -> Failure[Any]:
    """The Output of an error from the catalogue; ``data`` only in a batch."""
    case = error.case.value
    return Failure[Any](
        scode=case.code,
        desc=_as_text(error.desc),
        message=case.message,
        message_cn=case.message_cn,
        stack=stack_of(error, case.code),
        data=EmptyData() if data is None else data,
    )


def stack_of(error: BaseException, code: int) -> list[str]:
    """The error's way through this package, innermost first: no foreign frame, no variable, no directory.

    An error that was never raised in this package gets the place at which the door answered it.
    """
    way = [(frame, line) for frame, line in traceback.walk_tb(error.__traceback__) if _is_own(frame)]
    way.reverse()
    return [_describe(frame, line, code) for frame, line in (way or list(_own_callers())[:1])][:STACK_MAX_FRAMES]


def log_outcome(request_id: str, call: str, error: StillframeError) -> None:
    """One line for an error outcome, under the id that the answer carries; a failure brings its traceback along.

    ``call`` and ``desc`` are quoted, since clients choose them and a log line must stay one line.
    """
    broke = not isinstance(error, Refused)
    log.log(
        logging.WARNING if broke else logging.INFO,
        "request %s %r: %s %d: %r",
        request_id,
        call,
        error.case.name,
        error.case.code,
        error.desc,
        exc_info=error if broke else None,
    )


def crash_of(request_id: str, call: str, error: BaseException) -> Failure[Any]:
    """The Output of an unforeseen exception: the client gets an id, the log gets everything under it."""
    log.error("request %s %r: crashed", request_id, call, exc_info=error)
    crash = Failed(ErrorCase.INTERNAL, f"request {request_id}")
    return failure_of(crash.with_traceback(error.__traceback__))


def described_call(method: str, path: str) -> str:
    """How log lines and messages name a request."""
    return f"{method[:16]} {path[:PATH_MAX_CHARS]}"


def _as_text(text: str) -> str:
    return text.encode("utf-8", "replace").decode("utf-8")


def _is_own(frame: FrameType) -> bool:
    return str(frame.f_globals.get("__name__", "")).startswith(PACKAGE)


def _own_callers() -> Iterator[tuple[FrameType, int]]:
    frame = inspect.currentframe()
    while frame is not None:
        # the envelope itself is never the place that refused
        if _is_own(frame) and frame.f_globals["__name__"] != __name__:
            yield frame, frame.f_lineno
        frame = frame.f_back


def _describe(frame: FrameType, line: int, code: int) -> str:
    module = str(frame.f_globals["__name__"]).removeprefix(PACKAGE)
    filename = PurePath(frame.f_code.co_filename).name
    return (
        f"host:{socket.gethostname()},pid:{os.getpid()},module:{module},code:{code},"
        f"filename:{filename},func:{frame.f_code.co_name},line:{line}"
    )
