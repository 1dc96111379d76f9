"""The seed's nine calls, and the pictures that ``screenshot_url`` points at."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response

from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.http.answers import (
    SCREENSHOT_PATH,
    BatchData,
    DiskSnapshotInfo,
    GetVsdSnapshotResponse,
    SnapshotListData,
    SnapshotTreeData,
    batch_data,
    list_data,
    snapshot_data,
)
from stillframe.http.door import CallerOf, DoorOf, acts, answer, answers
from stillframe.http.envelope import EmptyData, Failure
from stillframe.http.fields import canonical_uuid, is_uuid
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.schemas import (
    CreateBody,
    DeleteBody,
    ModifyBody,
    RollbackBody,
    SnapshotListParams,
    SnapshotParams,
    VmParams,
    VolumeRollbackBody,
)
from stillframe.http.transport import respond_to

SNAPSHOT = "/v1/compute/vsd/snapshot"

router = APIRouter(tags=["snapshots"], route_class=StrictRoute, dependencies=[Depends(refuse_repeated)])


@router.get(f"{SNAPSHOT}/list", operation_id="listSnapshots", responses=answers(SnapshotListData))
async def list_snapshots(params: Annotated[SnapshotListParams, Query()], door: DoorOf) -> Response:
    """The snapshots of a virtual machine, newest first."""
    page = await door.look(door.use_cases.list_snapshots, params.ref, params.filter_name, params.page, params.page_size)
    return answer(list_data(page, door.settings.base_url))


@router.get(f"{SNAPSHOT}/get", operation_id="getSnapshot", responses=answers(GetVsdSnapshotResponse))
async def get_snapshot(params: Annotated[SnapshotParams, Query()], door: DoorOf) -> Response:
    """One snapshot, by name."""
    snapshot = await door.look(door.use_cases.get_snapshot, params.ref, params.name)
    return answer(snapshot_data(snapshot, door.settings.base_url))


@router.get(f"{SNAPSHOT}/tree", operation_id="getSnapshotTree", responses=answers(SnapshotTreeData))
async def get_tree(params: Annotated[VmParams, Query()], door: DoorOf) -> Response:
    """The tree of a virtual machine's snapshots; `head` is its current state, the empty name the root."""
    return answer(SnapshotTreeData(tree=await door.look(door.use_cases.tree, params.ref)))


@router.get(f"{SNAPSHOT}/head", operation_id="getHeadSnapshot", responses=answers(GetVsdSnapshotResponse, EmptyData))
async def get_head(params: Annotated[VmParams, Query()], door: DoorOf) -> Response:
    """The snapshot that the virtual machine's current state descends from; empty when there is none."""
    snapshot = await door.look(door.use_cases.head_snapshot, params.ref)
    return answer(snapshot_data(snapshot, door.settings.base_url) if snapshot else None)


@router.post(f"{SNAPSHOT}/create", operation_id="createSnapshot", responses=acts())
async def create(body: CreateBody, door: DoorOf, caller: CallerOf) -> Response:
    """Take a snapshot of all disks and, if asked, of the running memory, which goes on being saved behind the call."""
    await door.act(
        door.use_cases.create,
        body.ref,
        body.name,
        body.description or "",
        body.domain_memory or False,
        body.marked(caller),
    )
    return answer()


@router.post(f"{SNAPSHOT}/modify", operation_id="modifySnapshot", responses=acts())
async def modify(body: ModifyBody, door: DoorOf, caller: CallerOf) -> Response:
    """Change a snapshot's description."""
    await door.act(door.use_cases.modify, body.ref, body.name, body.description or "", body.marked(caller))
    return answer()


@router.post(f"{SNAPSHOT}/rollback", operation_id="rollbackSnapshot", responses=acts(GetVsdSnapshotResponse))
async def rollback(body: RollbackBody, door: DoorOf, caller: CallerOf) -> Response:
    """Bring disks and configuration back to a snapshot and, if asked, resume the guest from its memory."""
    snapshot = await door.act(
        door.use_cases.rollback, body.ref, body.name, body.domain_memory or False, body.marked(caller)
    )
    return answer(snapshot_data(snapshot, door.settings.base_url))


@router.post("/v1/compute/volume/snapshot/rollback", operation_id="rollbackVolumes", responses=acts(BatchData))
async def rollback_volumes(body: VolumeRollbackBody, door: DoorOf, caller: CallerOf) -> Response:
    """Bring single disks of a shut-off virtual machine back; each entry has its own result."""
    entries = [entry.ref for entry in body.disk_snapshot_list]
    outcomes = await door.act(door.use_cases.rollback_volumes, body.ref, entries, body.marked(caller))
    errors = [outcome if isinstance(outcome, StillframeError) else None for outcome in outcomes]
    # echoed as the client wrote it, not as it was understood
    requested = [DiskSnapshotInfo(**entry.model_dump()) for entry in body.disk_snapshot_list]
    return answer(batch_data(requested, errors))


@router.post(f"{SNAPSHOT}/delete", operation_id="deleteSnapshot", responses=acts())
async def delete(body: DeleteBody, door: DoorOf, caller: CallerOf) -> Response:
    """Delete a snapshot that has at most one child; no other state of the virtual machine changes."""
    await door.act(door.use_cases.delete, body.ref, body.name, body.marked(caller))
    return answer()


@router.get(
    f"{SCREENSHOT_PATH}/{{snapshot_uuid}}.png",
    operation_id="getScreenshot",
    response_class=Response,
    responses={
        200: {"content": {"image/png": {"schema": {"type": "string", "contentMediaType": "image/png"}}}},
        "default": {"model": Failure[EmptyData], "description": "The envelope, under the error's own HTTP status."},
    },
)
async def get_screenshot(snapshot_uuid: str, request: Request, door: DoorOf) -> Response:
    """The screen at the moment of the snapshot.

    The one exception to "errors are HTTP 200": an image element cannot read an envelope, it needs to see a 404.
    """
    try:
        if not is_uuid(snapshot_uuid):
            raise Refused(ErrorCase.SNAPSHOT_UNKNOWN, "the name of a screenshot is its snapshot's uuid")
        png = await door.recall(door.use_cases.screenshot, canonical_uuid(snapshot_uuid))
    except StillframeError as error:
        return respond_to(request, error, error.case.value.http_status)
    # a snapshot's screen never changes; private, since it shows what a user saw
    return Response(png, media_type="image/png", headers={"Cache-Control": "private, max-age=31536000, immutable"})
