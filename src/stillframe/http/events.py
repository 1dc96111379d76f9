"""What goes on, told as it happens: server-sent events for the console, so that nobody has to ask again and again."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from typing import Annotated, Any

import anyio
from fastapi import APIRouter, Depends, Query, Request, Response, Security
from fastapi.responses import StreamingResponse
from pydantic import BaseModel, BeforeValidator, Field

from stillframe.domain.access import Need, Principal
from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.http.access import API_KEY, ViewerOf, level, needs
from stillframe.http.door import Door, DoorOf
from stillframe.http.envelope import EmptyData, Failure, failure_of
from stillframe.http.fields import UuidOrEmpty, query_integer
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.tasks import ClusterUuid, task_data
from stillframe.http.transport import respond_to
from stillframe.operations.requests import VmRef
from stillframe.operations.tasks import TaskQuery

log = logging.getLogger("stillframe.http")

STREAMS_MAX = 200
STREAMS_MAX_PER_KEY = 20
_LOOK_EVERY_S = 0.5
_VM_EVERY_S = 2.0
_HEARTBEAT_S = 15.0
_WAIT_MAX_S = 3600
_HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
_TASKS = 20  # the newest, and
_UNDER_WAY = 200  # what is older and still goes on: more than can

router = APIRouter(
    tags=["console"], route_class=StrictRoute, dependencies=[Security(API_KEY), Depends(refuse_repeated)]
)


class EventsParams(BaseModel):
    cluster_uuid: ClusterUuid = ""
    compute_uuid: Annotated[UuidOrEmpty, Field(description="The virtual machine's uuid; empty: every one.")] = ""
    wait_s: Annotated[
        int,
        Field(ge=0, le=_WAIT_MAX_S, description="For how long to tell; 0: how it is now, and no more."),
        BeforeValidator(query_integer),
    ] = 600


# one event of the stream, as the document tells of it
_EVENT = {
    "type": "object",
    "properties": {"event": {"type": "string", "enum": ["state", "end"]}, "data": {"type": "string"}},
    "required": ["event", "data"],
}


class Streams:
    """How many are open, of each key and of all; on the event loop alone. ``stop`` ends them all."""

    def __init__(self) -> None:
        self._open: dict[str, int] = {}
        self.stopping = False

    def enter(self, key_id: str) -> None:
        """Raises ``Refused`` TOO_BUSY."""
        if sum(self._open.values()) >= STREAMS_MAX or self._open.get(key_id, 0) >= STREAMS_MAX_PER_KEY:
            raise Refused(ErrorCase.TOO_BUSY, f"{self._open.get(key_id, 0)} event streams of this key are open")
        self._open[key_id] = self._open.get(key_id, 0) + 1

    def leave(self, key_id: str) -> None:
        self._open[key_id] -= 1
        if not self._open[key_id]:
            del self._open[key_id]

    def stop(self) -> None:
        self.stopping = True


@router.get(
    "/v1/stillframe/events",
    operation_id="getEvents",
    response_class=Response,
    responses={
        200: {
            "content": {
                "text/event-stream": {"schema": _EVENT},
                "application/json": {"schema": {"anyOf": [{"$ref": "#/components/schemas/Failure_EmptyData_"}]}},
            },
            "description": "Events named `state`, each the whole of what is known as JSON: `vm` (its `state`, null where "
            "none was asked for) and `tasks`, the newest and all that go on, as `task/list` tells them. One at once, and one whenever "
            "something has changed. `end` comes last, with an envelope where the stream ends with an error; to who accepts "
            "`text/event-stream` also one that it begins with.",
        },
        "default": {"model": Failure[EmptyData], "description": "The envelope with an error, before the first event."},
    },
)
@needs(Need.LOOK)
async def events(
    params: Annotated[EventsParams, Query()], request: Request, door: DoorOf, viewer: ViewerOf
) -> Response:
    """Tell what goes on, as it happens (server-sent events)."""
    streams: Streams = request.app.state.streams
    teller = _Teller(door, viewer, params, lambda: request.app.state.gate.admit_again(request.scope))
    try:
        first = await teller.look()
        streams.enter(viewer.key_id)
    except StillframeError as error:
        if "text/event-stream" not in request.headers.get("accept", ""):
            raise
        # a browser's event source cannot read an envelope, and would come again and again
        await level(request.scope, error.case)
        told = respond_to(request, error)
        return Response(_event("end", bytes(told.body).decode()), media_type="text/event-stream", headers=_HEADERS)
    stream = _tell(teller, first, params.wait_s, streams)
    return _Stream(stream, lambda: streams.leave(viewer.key_id), headers=_HEADERS)


class _Stream(StreamingResponse):
    """Says when it is over, however it ends."""

    media_type = "text/event-stream"

    def __init__(self, content: AsyncIterator[str], on_end: Any, headers: dict[str, str]) -> None:
        super().__init__(content, headers=headers)
        self._on_end = on_end

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._on_end()


class _Teller:
    """Looks how it is."""

    def __init__(
        self, door: Door, viewer: Principal, params: EventsParams, admit_again: Callable[[], Awaitable[None]]
    ) -> None:
        self._admit_again = admit_again
        self._door = door
        self._viewer = viewer
        self._params = params
        self._vm: dict[str, str] | None = None
        self._vm_at = 0.0

    async def look(self) -> str:
        """Raises ``StillframeError``: the VM is no more, or the key or session, or libvirt or the database are away."""
        await self._admit_again()
        params, use_cases = self._params, self._door.use_cases
        now = time.monotonic()
        if params.compute_uuid and now - self._vm_at >= _VM_EVERY_S:
            ref = VmRef(params.cluster_uuid, "", params.compute_uuid)
            self._vm = {"state": await self._door.look(use_cases.power_state, ref, self._viewer)}
            self._vm_at = now
        query = TaskQuery(cluster_uuid=params.cluster_uuid, compute_uuid=params.compute_uuid, limit=_TASKS)
        page = await self._door.recall(use_cases.list_tasks, query, self._viewer)
        found = {task.uuid: task for task in page.tasks}
        if page.next:
            older = await self._door.recall(
                use_cases.list_tasks, replace(query, limit=_UNDER_WAY, under_way=True), self._viewer
            )
            found = {**found, **{task.uuid: task for task in older.tasks}}
        tasks = [task_data(task).model_dump(mode="json") for task in found.values()]
        return json.dumps({"vm": self._vm, "tasks": tasks}, ensure_ascii=False)


async def _tell(teller: _Teller, first: str, wait_s: int, streams: Streams) -> AsyncIterator[str]:
    """Each event is the whole state: one that is missed is made good by the next."""
    told, said_at = first, time.monotonic()
    until = said_at + wait_s
    yield _event("state", first)
    why = "{}"
    while time.monotonic() < until and not streams.stopping:
        await anyio.sleep(_LOOK_EVERY_S)
        try:
            seen = await teller.look()
        except StillframeError as error:
            why = failure_of(error).model_dump_json()
            break
        if seen != told:
            yield _event("state", seen)
        elif time.monotonic() - said_at > _HEARTBEAT_S:
            yield ": still here\n\n"
        else:
            continue
        told, said_at = seen, time.monotonic()
    yield _event("end", why)


def _event(name: str, data: str) -> str:
    return f"event: {name}\ndata: {data}\n\n"  # JSON has no line breaks of its own
