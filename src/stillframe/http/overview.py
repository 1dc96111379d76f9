"""The tree as people see it: with sizes and places, as a picture, and what an act would cost before it is done."""

from __future__ import annotations

import re
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Response, Security
from pydantic import AfterValidator, BaseModel, Field

from stillframe.console.picture import Scene, draw
from stillframe.domain.access import Need, Principal
from stillframe.domain.layout import Item
from stillframe.domain.snapshot import MemoryState, SnapshotCard
from stillframe.http.access import API_KEY, ViewerOf, needs
from stillframe.http.door import DoorOf, answer, answers
from stillframe.http.envelope import EmptyData, Failure
from stillframe.http.fields import QueryBool
from stillframe.http.links import Links
from stillframe.http.parsing import StrictRoute, refuse_repeated
from stillframe.http.schemas import SnapshotParams, VmParams
from stillframe.operations.overview import Consequences, Now, Overview
from stillframe.operations.requests import VmRef
from stillframe.operations.use_cases import UseCases

router = APIRouter(
    tags=["overview"], route_class=StrictRoute, dependencies=[Security(API_KEY), Depends(refuse_repeated)]
)

OPENED_MAX = 200
_UUIDS = re.compile(rf"(?:[0-9a-f-]{{36}}(?:,[0-9a-f-]{{36}}){{0,{OPENED_MAX - 1}}})?")


def _uuids(raw: str) -> str:
    if not _UUIDS.fullmatch(raw):
        raise ValueError(f"at most {OPENED_MAX} uuids, comma-separated")
    return raw


_Opened = Annotated[
    str,
    Field(
        description="The keys of folded runs that are wanted unfolded, comma-separated.",
        json_schema_extra={"pattern": f"^{_UUIDS.pattern}$"},
    ),
    AfterValidator(_uuids),
]
Fold = Annotated[QueryBool, Field(description="Whether long straight runs of snapshots become one item each.")]


class OverviewParams(VmParams):
    fold: Fold = False
    opened: _Opened = ""


class PictureParams(VmParams):
    fold: Fold = True
    theme: Annotated[Literal["light", "dark", "auto"], Field(description="auto: as the viewer prefers.")] = "auto"
    language: Annotated[Literal["en", "zh"], Field(description="Of what is written in it.")] = "en"


class OverviewVm(BaseModel):
    uuid: str
    name: str
    state: Annotated[str, Field(description="As in the list of virtual machines.")]
    action: Annotated[str, Field(description="What works on it now; as in the list of virtual machines.")]
    tenant: str
    disks: Annotated[list[str], Field(description="The disks that a snapshot covers, such as vda.")]


class OverviewMemory(BaseModel):
    status: Annotated[str, Field(description="saving, uploading, available or failed.")]
    progress: Annotated[int, Field(description="0 to 100.")]
    bytes: Annotated[int, Field(description="What it occupies; 0 until it is available.")]
    reason: Annotated[str, Field(description="Why saving failed, or why the slower way was taken; empty: nothing.")]


class OverviewSnapshot(BaseModel):
    uuid: str
    name: str
    description: str
    ctime: Annotated[int, Field(description="The moment of the freeze, Unix seconds.")]
    parent: Annotated[str, Field(description="The parent's uuid; empty: none.")]
    disk_bytes: Annotated[int, Field(description="What its frozen layers occupy.")]
    memory: OverviewMemory | None
    screenshot_url: Annotated[str, Field(description="A signed link; empty: none.")]


class OverviewItem(BaseModel):
    """What is drawn at one place: a snapshot, a folded run of them, or the current state (key `now`)."""

    key: Annotated[str, Field(description="The first snapshot's uuid, or now.")]
    uuids: Annotated[list[str], Field(description="The snapshots that it stands for, oldest first; none for now.")]
    parent: Annotated[str, Field(description="The key of the item that it hangs under; empty: none.")]
    depth: Annotated[int, Field(description="Its place from the left.")]
    lane: Annotated[int, Field(description="Its place from the top, where what goes on straight shares a lane.")]
    order: Annotated[int, Field(description="Its line from the top, where each item has a line.")]


class OverviewNow(BaseModel):
    head: Annotated[
        str, Field(description="The uuid of the snapshot that the current state descends from; empty: none.")
    ]
    since: Annotated[
        int, Field(description="When it began, with that snapshot or a rollback to it, Unix seconds; 0: not known.")
    ]
    changed_bytes: Annotated[
        int | None,
        Field(description="What was written since, as its files occupy it; null: they could not be measured."),
    ]


class OverviewData(BaseModel):
    vm: OverviewVm
    now: OverviewNow
    snapshots: Annotated[list[OverviewSnapshot], Field(description="In order of creation.")]
    items: Annotated[list[OverviewItem], Field(description="The tree laid out; parents before children.")]
    lanes: int
    depth: int
    total_bytes: Annotated[int, Field(description="Of all layers and memory states of its snapshots.")]


class ConsequencesMerge(BaseModel):
    disk: Annotated[str, Field(description="The disk, such as vda.")]
    bytes: Annotated[int, Field(description="What the layer occupies whose data is copied.")]


class RollbackConsequences(OverviewNow):
    stands_on: Annotated[str, Field(description="The name of that snapshot; empty: none.")]


class DeleteConsequences(BaseModel):
    allowed: bool
    message: Annotated[str, Field(description="Why it is not allowed now, in English; empty: it is.")]
    message_cn: Annotated[str, Field(description="The same in Chinese.")]
    desc: Annotated[str, Field(description="The details.")]
    merges: Annotated[list[ConsequencesMerge], Field(description="What has to be copied first.")]
    freed_bytes: Annotated[int, Field(description="What is freed for certain: memory, and layers that nothing needs.")]


class ConsequencesData(BaseModel):
    rollback: Annotated[
        RollbackConsequences, Field(description="What a rollback throws away: the current state as it is now.")
    ]
    delete: DeleteConsequences


@router.get("/v1/stillframe/vm/overview", operation_id="getVmOverview", responses=answers(OverviewData))
@needs(Need.LOOK)
async def get_overview(params: Annotated[OverviewParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """A virtual machine with the tree of its snapshots: sizes, memory, screenshots, and where each stands when drawn."""
    opened = frozenset(params.opened.split(",")) if params.opened else frozenset()
    seen, links = await door.look_with_links(door.use_cases.overview, params.ref, params.fold, opened, viewer)
    return answer(overview_data(seen, links))


@router.get("/v1/stillframe/snapshot/consequences", operation_id="getConsequences", responses=answers(ConsequencesData))
@needs(Need.LOOK)
async def get_consequences(params: Annotated[SnapshotParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """What a rollback to a snapshot throws away, and what its deletion would copy and free. Nothing is changed."""
    return answer(_consequences(await door.look(door.use_cases.consequences, params.ref, params.name, viewer)))


@router.get(
    "/v1/compute/vsd/snapshot/tree.svg",
    operation_id="getTreePicture",
    response_class=Response,
    responses={
        200: {
            "content": {
                "image/svg+xml": {"schema": {"type": "string"}},
                "application/json": {"schema": {"anyOf": [{"$ref": "#/components/schemas/Failure_EmptyData_"}]}},
            },
            "description": "The picture; or the envelope with an error.",
        },
        "default": {
            "model": Failure[EmptyData],
            "description": "The same envelope, where errors have their own status.",
        },
    },
)
@needs(Need.LOOK)
async def get_picture(params: Annotated[PictureParams, Query()], door: DoorOf, viewer: ViewerOf) -> Response:
    """The tree as an SVG picture."""
    picture = await door.look(_picture, door.use_cases, params.ref, params, viewer)
    # it may be opened by itself, and holds names that others chose
    headers = {"Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'", "Cache-Control": "no-store"}
    return Response(picture, media_type="image/svg+xml", headers=headers)


def _picture(use_cases: UseCases, ref: VmRef, params: PictureParams, viewer: Principal) -> str:
    seen = use_cases.overview(ref, params.fold, (), viewer)
    scene = Scene(
        name=seen.vm.name,
        layout=seen.layout,
        cards={card.uuid: card for card in seen.cards},
        head=seen.now.head_uuid,
        changed_bytes=seen.now.changed_bytes,
        is_running=seen.vm.state.is_running,
        at=time.time(),
    )
    return draw(scene, theme=params.theme, language=params.language)


def overview_data(seen: Overview, links: Links) -> OverviewData:
    return OverviewData(
        vm=OverviewVm(
            uuid=seen.vm.uuid,
            name=seen.vm.name,
            state=seen.vm.state.value,
            action=seen.action.value,
            tenant=seen.vm.tenant,
            disks=[disk.target for disk in seen.vm.snapshot_disks],
        ),
        now=OverviewNow(**_now(seen.now)),
        snapshots=[_snapshot(card, links) for card in seen.cards],
        items=[_item(item) for item in seen.layout.items],
        lanes=seen.layout.lanes,
        depth=seen.layout.depth,
        total_bytes=sum(card.disk_bytes + (card.memory.size_bytes if card.memory else 0) for card in seen.cards),
    )


def _now(now: Now) -> dict[str, Any]:
    return {"head": now.head_uuid, "since": now.since, "changed_bytes": now.changed_bytes}


def _snapshot(card: SnapshotCard, links: Links) -> OverviewSnapshot:
    return OverviewSnapshot(
        uuid=card.uuid,
        name=card.name,
        description=card.description,
        ctime=card.ctime,
        parent=card.parent_uuid or "",
        disk_bytes=card.disk_bytes,
        memory=_memory(card.memory) if card.memory else None,
        screenshot_url=links.screenshot(card),
    )


def _memory(memory: MemoryState) -> OverviewMemory:
    return OverviewMemory(
        status=memory.status.value, progress=memory.progress, bytes=memory.size_bytes, reason=memory.reason
    )


def _item(item: Item) -> OverviewItem:
    return OverviewItem(
        key=item.key, uuids=list(item.uuids), parent=item.parent, depth=item.depth, lane=item.lane, order=item.order
    )


def _consequences(found: Consequences) -> ConsequencesData:
    refusal = found.refusal
    return ConsequencesData(
        rollback=RollbackConsequences(**_now(found.now), stands_on=found.stands_on),
        delete=DeleteConsequences(
            allowed=refusal is None,
            message=refusal.case.value.message if refusal else "",
            message_cn=refusal.case.value.message_cn if refusal else "",
            desc=refusal.desc if refusal else "",
            merges=[ConsequencesMerge(disk=merge.target, bytes=merge.size_bytes) for merge in found.merges],
            freed_bytes=found.freed_bytes,
        ),
    )
