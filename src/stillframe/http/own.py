"""Stillframe's own calls: what its command line needs beside the platform's."""

from __future__ import annotations

from importlib.metadata import version
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Response, Security

from stillframe.domain.access import Need
from stillframe.http.access import API_KEY, needs
from stillframe.http.answers import ConsoleData, DoctorData, GuestData, VersionData, doctor_data
from stillframe.http.door import CallerOf, DoorOf, acts, answer, answers
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.schemas import AssignBody, DoctorParams, GuestBody, GuestDeleteBody, GuestParams, RepairBody

router = APIRouter(
    prefix="/v1/stillframe",
    tags=["stillframe"],
    route_class=StrictRoute,
    dependencies=[Security(API_KEY), Depends(refuse_repeated)],
)


@router.get("/version", operation_id="getVersion", responses=answers(VersionData))
@needs(Need.LOOK)
async def get_version(door: DoorOf) -> Response:
    """The service's version and the cluster that it is."""
    cluster = door.use_cases.cluster
    return answer(VersionData(version=version("stillframe"), cluster_uuid=cluster.uuid, cluster_name=cluster.name))


@router.post("/vm/assign", operation_id="assignVm", responses=acts())
@needs(Need.ADMINISTER, "assign")
async def assign(body: AssignBody, door: DoorOf, caller: CallerOf) -> Response:
    """Give a virtual machine to a tenant and a namespace."""
    await door.act(
        door.use_cases.assign_vm, body.ref, body.tenant, body.tenant_name or "", body.namespace_uuid or "", caller
    )
    return answer()


@router.post("/guest/create", operation_id="createGuest", responses=acts(GuestData))
@needs(Need.ADMINISTER, "guest create")
async def create_guest(body: GuestBody, door: DoorOf, caller: CallerOf) -> Response:
    """Define and start a witness guest, the small guest of demo and tests."""
    return answer(GuestData(uuid=await door.act(door.use_cases.create_guest, body.spec, caller)))


@router.post("/guest/delete", operation_id="deleteGuest", responses=acts())
@needs(Need.ADMINISTER, "guest delete")
async def delete_guest(body: GuestDeleteBody, door: DoorOf, caller: CallerOf) -> Response:
    """Remove a witness guest with its disks and snapshots."""
    await door.act(door.use_cases.delete_guest, body.name, caller)
    return answer()


@router.get("/guest/console", operation_id="getGuestConsole", responses=answers(ConsoleData))
@needs(Need.ADMINISTER)
async def guest_console(params: Annotated[GuestParams, Query()], door: DoorOf) -> Response:
    """Where a witness guest's console is written."""
    return answer(ConsoleData(path=await door.look(door.use_cases.guest_console, params.name)))


@router.get("/doctor", operation_id="getDoctor", responses=answers(DoctorData))
@needs(Need.ADMINISTER)
async def doctor(params: Annotated[DoctorParams, Query()], door: DoorOf) -> Response:
    """Compare database, files and hypervisor, and name everything that does not agree. Nothing is changed."""
    return answer(doctor_data(await door.look(door.use_cases.doctor, params.deep)))


@router.post("/doctor/repair", operation_id="repairByDoctor", responses=acts(DoctorData))
@needs(Need.ADMINISTER, "doctor repair")
async def repair(body: RepairBody, door: DoorOf, caller: CallerOf) -> Response:
    """Repair what has exactly one right answer; `findings` is what is left after it."""
    return answer(doctor_data(await door.act(door.use_cases.repair, bool(body.deep), caller)))
