"""The seed's nine calls, and the pictures that ``screenshot_url`` points at."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request, Response, Security

from stillframe.domain.access import Need, Principal
from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.http.access import API_KEY, PRINCIPAL, ViewerOf, by_link, level, needs
from stillframe.http.answers import (
    BatchData,
    DiskSnapshotInfo,
    GetVsdSnapshotResponse,
    SnapshotListData,
    SnapshotTreeData,
    batch_data,
)
from stillframe.http.door import CallerOf, DoorOf, acts, answer, answers, follow, follow_with_body
from stillframe.http.envelope import EmptyData, Failure
from stillframe.http.fields import canonical_uuid, is_uuid
from stillframe.http.links import SCREENSHOT_PATH
from stillframe.http.parsing import StrictRoute, directly, refuse_repeated
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
from stillframe.http.shown import head_answer, list_answer, snapshot_answer, tree_answer
from stillframe.http.transport import respond_to

SNAPSHOT = "/v1/compute/vsd/snapshot"
_HIDES_A_PICTURE = frozenset({ErrorCase.SNAPSHOT_UNKNOWN})
_KEPT_S = 300  # how long a browser may keep what it got with a key

_THIS = {"compute_uuid": "$request.body#/compute_uuid", "name": "$request.body#/name"}
_OF_A_NEW_ONE = {
    "get": follow("getSnapshot", cluster_uuid="", **_THIS),
    "modify": follow_with_body("modifySnapshot", **_THIS),
    "rollback": follow_with_body("rollbackSnapshot", **_THIS),
    "delete": follow_with_body("deleteSnapshot", **_THIS),
    "task": follow("getTask", uuid="$response.header.X-Operation-Id"),
}

router = APIRouter(
    tags=["snapshots"], route_class=StrictRoute, dependencies=[Security(API_KEY), Depends(refuse_repeated)]
)


@router.get(f"{SNAPSHOT}/list", operation_id="listSnapshots", responses=answers(SnapshotListData))
@needs(Need.LOOK)
@directly(SnapshotListParams)
async def list_snapshots(params: Annotated[SnapshotListParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """The snapshots of a virtual machine, newest first."""
    query = (params.ref, params.filter_name, params.page, params.page_size)
    return await door.show(list_answer, door.use_cases.list_snapshots, *query, viewer)


@router.get(f"{SNAPSHOT}/get", operation_id="getSnapshot", responses=answers(GetVsdSnapshotResponse))
@needs(Need.LOOK)
@directly(SnapshotParams)
async def get_snapshot(params: Annotated[SnapshotParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """One snapshot, by name."""
    return await door.show(snapshot_answer, door.use_cases.get_snapshot, params.ref, params.name, viewer)


@router.get(f"{SNAPSHOT}/tree", operation_id="getSnapshotTree", responses=answers(SnapshotTreeData))
@needs(Need.LOOK)
@directly(VmParams)
async def get_tree(params: Annotated[VmParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """The tree of a virtual machine's snapshots; `head` is its current state, the empty name the root."""
    return await door.show(tree_answer, door.use_cases.tree, params.ref, viewer)


@router.get(f"{SNAPSHOT}/head", operation_id="getHeadSnapshot", responses=answers(GetVsdSnapshotResponse, EmptyData))
@needs(Need.LOOK)
@directly(VmParams)
async def get_head(params: Annotated[VmParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """The snapshot that the virtual machine's current state descends from; empty when there is none."""
    return await door.show(head_answer, door.use_cases.head_snapshot, params.ref, viewer)


@router.post(f"{SNAPSHOT}/create", operation_id="createSnapshot", responses=acts(links=_OF_A_NEW_ONE))
@needs(Need.ACT, "create")
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
@needs(Need.ACT, "modify")
async def modify(body: ModifyBody, door: DoorOf, caller: CallerOf) -> Response:
    """Change a snapshot's description."""
    await door.act(door.use_cases.modify, body.ref, body.name, body.description or "", body.marked(caller))
    return answer()


@router.post(f"{SNAPSHOT}/rollback", operation_id="rollbackSnapshot", responses=acts(GetVsdSnapshotResponse))
@needs(Need.ACT, "rollback")
async def rollback(body: RollbackBody, door: DoorOf, caller: CallerOf) -> Response:
    """Bring disks and configuration back to a snapshot and, if asked, resume the guest from its memory."""
    snapshot = await door.act(
        door.use_cases.rollback, body.ref, body.name, body.domain_memory or False, body.marked(caller)
    )
    links = await door.recall(door.links)
    return snapshot_answer(snapshot.shown, links)


@router.post("/v1/compute/volume/snapshot/rollback", operation_id="rollbackVolumes", responses=acts(BatchData))
@needs(Need.ACT, "rollback_volume")
async def rollback_volumes(body: VolumeRollbackBody, door: DoorOf, caller: CallerOf) -> Response:
    """Bring single disks of a shut-off virtual machine back; each entry has its own result."""
    entries = [entry.ref for entry in body.disk_snapshot_list]
    outcomes = await door.act(door.use_cases.rollback_volumes, body.ref, entries, body.marked(caller))
    errors = [outcome if isinstance(outcome, StillframeError) else None for outcome in outcomes]
    # echoed as the client wrote it, not as it was understood
    requested = [DiskSnapshotInfo(**entry.model_dump()) for entry in body.disk_snapshot_list]
    return answer(batch_data(requested, errors))


@router.post(f"{SNAPSHOT}/delete", operation_id="deleteSnapshot", responses=acts())
@needs(Need.ACT, "delete")
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
@by_link
async def get_screenshot(
    snapshot_uuid: str,
    request: Request,
    door: DoorOf,
    expires: Annotated[str, Query(description="Until when the link is good, Unix seconds.")] = "",
    signature: Annotated[str, Query(description="The link's own; with an ApiKey it is not needed.")] = "",
) -> Response:
    """The screen at the moment of the snapshot: by the snapshot's `screenshot_url` as it stands, or with an ApiKey.

    The one exception to "errors are HTTP 200": an image element cannot read an envelope, it needs to see a 404.
    """
    principal: Principal | None = request.scope.get(PRINCIPAL)
    try:
        if not is_uuid(snapshot_uuid):
            raise Refused(ErrorCase.SNAPSHOT_UNKNOWN, "the name of a screenshot is its snapshot's uuid")
        uuid = canonical_uuid(snapshot_uuid)
        if principal is not None:
            good_s, png = _KEPT_S, await door.look(door.use_cases.screenshot, uuid, principal)
        else:
            good_s, png = await door.recall(door.use_cases.screenshot_by_link, uuid, expires, signature)
    except StillframeError as error:
        await level(request.scope, error.case, _HIDES_A_PICTURE)
        return respond_to(request, error)
    # a snapshot's screen never changes; private, since it shows what a user saw
    return Response(png, media_type="image/png", headers={"Cache-Control": f"private, max-age={good_s}, immutable"})
