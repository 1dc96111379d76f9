"""The operation log: who did what to what, and what came of it; refused attempts as well."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response, Security
from pydantic import BaseModel, BeforeValidator, Field, WithJsonSchema

from stillframe.domain.access import KEY_ID_CHARS, Need
from stillframe.http.access import API_KEY, ViewerOf, needs
from stillframe.http.door import DoorOf, answer, answers, follow
from stillframe.http.fields import INTEGER_MAX, NameText, OpaqueId, QueryBool, Text, UuidOrEmpty, query_integer
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.tasks import ClusterUuid, MaybeMoment
from stillframe.operations.log import LogQuery
from stillframe.ports.log import LogLine

LOG = "/v1/compute/vsd/snapshot/log"
LIMIT_MAX = 1000

router = APIRouter(
    tags=["operation log"], route_class=StrictRoute, dependencies=[Security(API_KEY), Depends(refuse_repeated)]
)

_AFTER_THE_FIRST = {"after": follow("listLog", after="$response.body#/data/list/0/id")}

_Code = Annotated[int, Field(ge=0, le=INTEGER_MAX), BeforeValidator(query_integer)]
# a query has no null: see MaybePageNumber
_MaybeCode = Annotated[_Code | None, WithJsonSchema({"type": "integer", "minimum": 0, "maximum": INTEGER_MAX})]


class LogListParams(BaseModel):
    cluster_uuid: ClusterUuid = ""
    compute_uuid: Annotated[UuidOrEmpty, Field(description="The virtual machine's uuid; empty: every one.")] = ""
    tenant: Annotated[OpaqueId, Field(description="The tenant's uuid; empty: every one that the key may see.")] = ""
    key_id: Annotated[
        str,
        Field(
            pattern=rf"^[0-9a-f]{{{KEY_ID_CHARS}}}$|^$", description="Who: a key's id, its part after sfk_; empty: all."
        ),
    ] = ""
    call: Annotated[Text, Field(description="The call as the lines name it, such as rollback; empty: all.")] = ""
    snapshot: Annotated[NameText, Field(description="The snapshot's name, as a whole; empty: all.")] = ""
    operation_uuid: Annotated[UuidOrEmpty, Field(description="The operation's uuid; empty: all.")] = ""
    scode: Annotated[_MaybeCode, Field(description="How it ended: 0, or the error's code; absent: all.")] = None
    failed: Annotated[QueryBool, Field(description="Only what was refused or failed.")] = False
    since: Annotated[MaybeMoment, Field(description="Ended then or later, Unix seconds.")] = None
    until: Annotated[MaybeMoment, Field(description="Ended then or earlier, Unix seconds.")] = None
    after: Annotated[UuidOrEmpty, Field(description="`next` of the page before; empty: the first page.")] = ""
    limit: Annotated[
        int, Field(ge=1, le=LIMIT_MAX, description="Most lines of a page."), BeforeValidator(query_integer)
    ] = 100

    @property
    def query(self) -> LogQuery:
        return LogQuery(**self.model_dump())


class LogLineData(BaseModel):
    id: Annotated[str, Field(description="The line's own.")]
    at: Annotated[int, Field(description="When the call ended, Unix seconds.")]
    key_id: Annotated[str, Field(description="Who: the id of the key; empty: nobody with a valid one.")]
    tenant: Annotated[
        str,
        Field(
            description="The virtual machine's, or of a refused attempt the key's own; empty: of no tenant, "
            "such as the administrator's."
        ),
    ]
    address: Annotated[str, Field(description="Where the request came from; empty: not known.")]
    call: Annotated[str, Field(description="What: create, rollback, …; empty: a call that changes nothing.")]
    compute_uuid: Annotated[str, Field(description="The virtual machine's uuid, as the request named it; empty: none.")]
    compute_name: Annotated[str, Field(description="Its name; empty where the caller may not know of it.")]
    mark: Annotated[str, Field(description="The request's vm_type: GCD, GDT or empty.")]
    snapshot: Annotated[
        str, Field(description="The snapshot's name; in rollback_volume the volume snapshot's uuid; empty: none.")
    ]
    scode: Annotated[int, Field(description="0: it was done; else the error's code.")]
    desc: Annotated[str, Field(description="Why it was refused or failed; else what more there is to say of it.")]
    duration_ms: int
    operation_uuid: Annotated[str, Field(description="The task that the call was; empty: it was refused before that.")]


class LogListData(BaseModel):
    list: list[LogLineData]
    next: Annotated[str, Field(description="`after` for the next page; empty: there is none.")]


def _data(line: LogLine) -> LogLineData:
    return LogLineData(
        id=line.uuid,
        at=line.at,
        key_id=line.who,
        tenant=line.tenant,
        address=line.address,
        call=line.call,
        compute_uuid=line.vm_uuid,
        compute_name=line.vm_name,
        mark=line.mark,
        snapshot=line.snapshot,
        scode=line.scode,
        desc=line.desc,
        duration_ms=line.duration_ms,
        operation_uuid=line.operation_uuid,
    )


@router.get(f"{LOG}/list", operation_id="listLog", responses=answers(LogListData, links=_AFTER_THE_FIRST))
@needs(Need.LOOK)
async def list_log(params: Annotated[LogListParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """What was done or attempted, newest first; a tenant's key sees its tenant's lines alone."""
    page = await door.recall(door.use_cases.list_log, params.query, viewer)
    return answer(LogListData(list=[_data(line) for line in page.lines], next=page.next))
