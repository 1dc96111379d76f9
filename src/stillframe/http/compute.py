"""The neighbouring calls that a user of snapshots needs: finding virtual machines, and their power."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response, Security

from stillframe.domain.access import Need
from stillframe.domain.compute import ComputeInspectInfo
from stillframe.http.access import API_KEY, ViewerOf, needs
from stillframe.http.answers import VmListData, vm_list_data
from stillframe.http.door import CallerOf, DoorOf, acts, answer, answers
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.schemas import ComputeIdentifier, VmListParams, VmParams

router = APIRouter(
    tags=["compute"], route_class=StrictRoute, dependencies=[Security(API_KEY), Depends(refuse_repeated)]
)


@router.get("/v1/compute/list", operation_id="listVms", responses=answers(VmListData))
@needs(Need.LOOK)
async def list_vms(params: Annotated[VmListParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """The virtual machines of the connected hypervisor, with how listing went in each cluster."""
    page = await door.look(door.use_cases.list_vms, params.query, viewer)
    return answer(vm_list_data(page, door.use_cases.cluster))


@router.get("/v1/compute/inspect", operation_id="inspectVm", responses=answers(ComputeInspectInfo))
@needs(Need.LOOK)
async def inspect(params: Annotated[VmParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """One virtual machine's full configuration."""
    return answer(await door.look(door.use_cases.inspect, params.ref, viewer))


@router.post("/v1/compute/start", operation_id="startVm", responses=acts())
@needs(Need.ACT, "start")
async def start(body: ComputeIdentifier, door: DoorOf, caller: CallerOf) -> Response:
    """Start a virtual machine that is shut off."""
    await door.act(door.use_cases.start, body.ref, body.marked(caller))
    return answer()


@router.post("/v1/compute/shutdown", operation_id="shutdownVm", responses=acts())
@needs(Need.ACT, "shutdown")
async def shutdown(body: ComputeIdentifier, door: DoorOf, caller: CallerOf) -> Response:
    """Ask the guest to shut down; returns when the request is sent."""
    await door.act(door.use_cases.shutdown, body.ref, body.marked(caller))
    return answer()


@router.post("/v1/compute/shutoff", operation_id="shutoffVm", responses=acts())
@needs(Need.ACT, "shutoff")
async def shutoff(body: ComputeIdentifier, door: DoorOf, caller: CallerOf) -> Response:
    """Cut the power; returns when the virtual machine is off."""
    await door.act(door.use_cases.shutoff, body.ref, body.marked(caller))
    return answer()
