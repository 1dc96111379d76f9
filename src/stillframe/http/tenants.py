"""Tenants: what an administrator allows them, and what they use of it."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response, Security
from pydantic import BaseModel, BeforeValidator, Field

from stillframe.domain.access import Need
from stillframe.domain.quota import TenantLimits
from stillframe.http.access import API_KEY, ViewerOf, needs
from stillframe.http.door import CallerOf, DoorOf, acts, answer, answers
from stillframe.http.fields import INTEGER_MAX, GivenLabel, Label, query_integer
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.schemas import Body
from stillframe.operations.quotas import TenantUse

TENANT = "/v1/stillframe/tenant"
LIMIT_MAX = 1000

router = APIRouter(
    tags=["tenants"], route_class=StrictRoute, dependencies=[Security(API_KEY), Depends(refuse_repeated)]
)

_Bytes = Annotated[int | None, Field(ge=0, le=INTEGER_MAX)]


class TenantSetBody(Body):
    """What is absent or null is not limited for this tenant: the service's own default applies."""

    tenant: Annotated[GivenLabel, Field(description="The tenant's uuid.")]
    memory_open: Annotated[bool | None, Field(description="Whether it has memory-snapshot space.")] = None
    memory_bytes: Annotated[_Bytes, Field(description="Most bytes of memory states, of all its virtual machines.")] = (
        None
    )
    space_bytes: Annotated[
        _Bytes,
        Field(description="Most bytes of snapshots' layers; absent: of each virtual machine three times its volumes."),
    ] = None
    max_snapshots: Annotated[
        int | None, Field(ge=0, le=INTEGER_MAX, description="Most snapshots of each of its virtual machines.")
    ] = None

    @property
    def limits(self) -> TenantLimits:
        return TenantLimits(**self.model_dump())


class TenantParams(BaseModel):
    tenant: Annotated[Label, Field(description="The tenant's uuid; empty: every one that the key may see.")] = ""
    after: Annotated[Label, Field(description="`next` of the page before; empty: the first.")] = ""
    limit: Annotated[
        int, Field(ge=1, le=LIMIT_MAX, description="Most tenants of a page."), BeforeValidator(query_integer)
    ] = 100


class TenantUseData(BaseModel):
    tenant: str
    vms: Annotated[int, Field(description="Its virtual machines that have snapshots.")]
    snapshots: int
    max_snapshots: Annotated[int, Field(description="Of each virtual machine.")]
    space_bytes: Annotated[int, Field(description="What layers below the heads occupy, with what is reserved.")]
    space_budget_bytes: Annotated[int, Field(description="Its budget, else three times the capacity of its volumes.")]
    space_budget_set: Annotated[
        bool, Field(description="False: the allowance holds for each virtual machine by itself.")
    ]
    memory_open: bool
    memory_bytes: Annotated[int, Field(description="What memory states occupy, with what is reserved.")]
    memory_budget_bytes: Annotated[int | None, Field(description="null: no budget is set.")]
    capacity_bytes: Annotated[int, Field(description="The virtual size of its volumes that have snapshots.")]


class TenantUsageData(BaseModel):
    list: list[TenantUseData]
    next: Annotated[str, Field(description="`after` for the next page; empty: there is none.")]


def _data(use: TenantUse) -> TenantUseData:
    return TenantUseData(
        tenant=use.limits.tenant,
        vms=use.used.vms,
        snapshots=use.used.snapshots,
        max_snapshots=use.max_snapshots,
        space_bytes=use.used.space_bytes,
        space_budget_bytes=use.space_budget_bytes,
        space_budget_set=use.limits.space_bytes is not None,
        memory_open=use.memory_open,
        memory_bytes=use.used.memory_bytes,
        memory_budget_bytes=use.limits.memory_bytes,
        capacity_bytes=use.used.capacity_bytes,
    )


@router.post(f"{TENANT}/set", operation_id="setTenant", responses=acts())
@needs(Need.ADMINISTER, "tenant set")
async def set_tenant(body: TenantSetBody, door: DoorOf, caller: CallerOf) -> Response:
    """Say what a tenant may use; replaces all that was said before. What it has already stays."""
    await door.recall(door.use_cases.set_tenant, body.limits, caller)
    return answer()


@router.get(f"{TENANT}/usage", operation_id="getTenantUsage", responses=answers(TenantUsageData))
@needs(Need.LOOK)
async def tenant_usage(params: Annotated[TenantParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """What tenants use and may use, by name; a tenant's key sees its own. One that there is not is refused with 22008."""
    page = await door.recall(door.use_cases.tenant_use, params.tenant, params.after, params.limit, viewer)
    return answer(TenantUsageData(list=[_data(use) for use in page.uses], next=page.next))
