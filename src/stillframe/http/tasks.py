"""Long work, watched and stopped: every mutating call is a task with an id."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response, Security
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema, field_validator

from stillframe.domain.access import Need
from stillframe.http.access import API_KEY, ViewerOf, needs
from stillframe.http.door import CallerOf, DoorOf, acts, answer, answers, follow, follow_with_body
from stillframe.http.fields import INTEGER_MAX, OpaqueId, Text, Uuid, UuidOrEmpty, one_of_or_empty, query_integer
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.schemas import Body
from stillframe.operations.tasks import Task, TaskQuery, TaskState

TASK = "/v1/compute/vsd/snapshot/task"
LIMIT_MAX = 1000

router = APIRouter(tags=["tasks"], route_class=StrictRoute, dependencies=[Security(API_KEY), Depends(refuse_repeated)])

_OF_THE_FIRST = {
    "get": follow("getTask", uuid="$response.body#/data/list/0/uuid"),
    "cancel": follow_with_body("cancelTask", uuid="$response.body#/data/list/0/uuid"),
}

ClusterUuid = Annotated[UuidOrEmpty, Field(description="The cluster's uuid; empty: every managed cluster.")]
_Moment = Annotated[int, Field(ge=0, le=INTEGER_MAX), BeforeValidator(query_integer)]
# a query has no null: see MaybePageNumber
MaybeMoment = Annotated[_Moment | None, WithJsonSchema({"type": "integer", "minimum": 0, "maximum": INTEGER_MAX})]


class TaskListParams(BaseModel):
    cluster_uuid: ClusterUuid = ""
    compute_uuid: Annotated[UuidOrEmpty, Field(description="The virtual machine's uuid; empty: every one.")] = ""
    tenant: Annotated[OpaqueId, Field(description="The tenant's uuid; empty: every tenant.")] = ""
    state: Annotated[
        Text, Field(description=f"One of {', '.join(TaskState)}; empty: all."), one_of_or_empty(TaskState)
    ] = ""
    since: Annotated[MaybeMoment, Field(description="Begun then or later, Unix seconds.")] = None
    until: Annotated[MaybeMoment, Field(description="Begun then or earlier, Unix seconds.")] = None
    after: Annotated[UuidOrEmpty, Field(description="`next` of the page before; empty: the first page.")] = ""
    limit: Annotated[
        int, Field(ge=1, le=LIMIT_MAX, description="Most tasks of a page."), BeforeValidator(query_integer)
    ] = 100

    @field_validator("state")
    @classmethod
    def _is_state(cls, raw: str) -> str:
        if raw and raw not in list(TaskState):
            raise ValueError(f"one of {', '.join(TaskState)}, or nothing")
        return raw

    @property
    def query(self) -> TaskQuery:
        return TaskQuery(**self.model_dump())


class TaskParams(BaseModel):
    cluster_uuid: ClusterUuid = ""
    uuid: Annotated[Uuid, Field(description="The task's uuid.")]


class TaskCancelBody(Body):
    cluster_uuid: Annotated[UuidOrEmpty | None, Field(description="The cluster's uuid; empty: every one.")] = None
    uuid: Annotated[Uuid, Field(description="The task's uuid.")]


class TaskData(BaseModel):
    uuid: Annotated[str, Field(description="The task's uuid: X-Operation-Id of the call that began it.")]
    kind: Annotated[
        str,
        Field(
            description="create, save_memory (what goes on behind a create with memory), rollback, rollback_volume, "
            "check_memory (of a guest that was restored and runs on its memory file; there is one where that was found damaged, and the "
            "guest is paused), delete, modify, power, assign, doctor (a repair), guest_create or forget (a witness guest deleted)."
        ),
    ]
    compute_uuid: Annotated[str, Field(description="The virtual machine's uuid.")]
    compute_name: str
    tenant: Annotated[str, Field(description="The virtual machine's tenant when the task began.")]
    snapshot: Annotated[
        str, Field(description="The snapshot's name; in rollback_volume the volume snapshot's uuid; empty: none.")
    ]
    state: Annotated[
        TaskState,
        Field(
            description="planning, running and cancelling: before the point of no return. finishing: past it. undoing. "
            "Ended: done, refused (nothing was done), undone, left (not finished yet; the service tries again)."
        ),
    ]
    cancellable: Annotated[
        bool, Field(description="Whether task/cancel can stop it, and nobody has asked for that yet.")
    ]
    step: Annotated[str, Field(description="The step under way; empty: none.")]
    steps_done: int
    steps_total: Annotated[int, Field(description="0 while it is being planned, and for what has no steps.")]
    progress: Annotated[int, Field(ge=0, le=100, description="Of the whole task, in per cent; 100 only when done.")]
    bytes_done: Annotated[int, Field(description="Of the step under way; 0 where nothing is counted.")]
    bytes_total: int
    rate_bytes_s: Annotated[int, Field(description="Bytes per second, over the step so far.")]
    time_left_s: Annotated[int | None, Field(description="Of the step under way, seconds; null: unknown.")]
    started_at: Annotated[int, Field(description="Unix seconds.")]
    ended_at: Annotated[int | None, Field(description="Unix seconds; null: it has not ended.")]
    error: Annotated[str, Field(description="Why it failed, or why it is being undone; empty: neither.")]
    scode: Annotated[
        int | None,
        Field(
            description="The code of `error`, to be said in another language; null: not known, as of most that were "
            "begun and failed, or there is no error."
        ),
    ]


class TaskListData(BaseModel):
    list: list[TaskData]
    next: Annotated[str, Field(description="`after` for the next page; empty: there is none.")]


def task_data(task: Task) -> TaskData:
    return TaskData(**asdict(task))


@router.get(f"{TASK}/list", operation_id="listTasks", responses=answers(TaskListData, links=_OF_THE_FIRST))
@needs(Need.LOOK)
async def list_tasks(params: Annotated[TaskListParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """Every operation, newest first, in pages that stay as they are while new ones begin."""
    page = await door.recall(door.use_cases.list_tasks, params.query, viewer)
    return answer(TaskListData(list=[task_data(task) for task in page.tasks], next=page.next))


@router.get(f"{TASK}/get", operation_id="getTask", responses=answers(TaskData))
@needs(Need.LOOK)
async def get_task(params: Annotated[TaskParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """One operation: its state, how far it is, and why it failed if it did."""
    return answer(task_data(await door.recall(door.use_cases.get_task, params.cluster_uuid, params.uuid, viewer)))


@router.post(f"{TASK}/cancel", operation_id="cancelTask", responses=acts(TaskData))
@needs(Need.ACT, "cancel")
async def cancel_task(body: TaskCancelBody, door: DoorOf, caller: CallerOf) -> Response:
    """Let an operation be undone that has not passed its point of no return; answers at once with the task.

    `X-Operation-Id` is the cancelled task itself. Another one is refused, and `desc` says why.
    """
    # not among those who act: long work, which it is to end, may hold all their threads
    return answer(task_data(await door.recall(door.use_cases.cancel_task, body.cluster_uuid or "", body.uuid, caller)))
