"""What results look like: the ``data`` of each call, in the seed's own field names, order and types.

Of snapshots and trees the models here are the document alone: shown.py writes them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import BaseModel, Field, GetJsonSchemaHandler, TypeAdapter
from pydantic.json_schema import JsonSchemaValue
from pydantic_core import CoreSchema

from stillframe.domain.compute import ComputeInfo, ComputeInspectInfo
from stillframe.domain.errors import StillframeError
from stillframe.domain.findings import Finding
from stillframe.domain.tree import SnapshotTree
from stillframe.http.envelope import EmptyData, Failure, Success, failure_of
from stillframe.operations.doctor import Report
from stillframe.operations.requests import Cluster, VmPage


class _StoredDetail:
    """Documented as ComputeInspectInfo, passed on as it was stored: a snapshot keeps what its own time wrote."""

    def __get_pydantic_json_schema__(self, _: CoreSchema, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        return handler(TypeAdapter(ComputeInspectInfo | None).core_schema)


class DiskSnapshotInfo(BaseModel):
    VolumeUuid: Annotated[str, Field(description="The volume's uuid.")]
    SnapshotUuid: Annotated[str, Field(description="The uuid of this volume's snapshot.")]
    DiskDrive: Annotated[str, Field(description='The disk\'s place in the virtual machine, such as "vda".')]


class _UpToScreenshot(BaseModel):
    tenant: Annotated[str, Field(description="The tenant's uuid.")]
    tenant_name: str
    namespace: Annotated[str, Field(description="The namespace's uuid.")]
    uuid: Annotated[str, Field(description="The snapshot's uuid.")]
    compute_uuid: Annotated[str, Field(description="The virtual machine's uuid.")]
    name: str
    description: str
    ctime: Annotated[int, Field(description="The moment of the freeze, Unix seconds.")]
    vm_detail: Annotated[Any, _StoredDetail(), Field(description="The virtual machine's configuration at that moment.")]
    screenshot_url: Annotated[str, Field(description="The screen at that moment, a PNG; empty: none.")]


class _Ssl(BaseModel):
    screenshot_url_ssl: Annotated[str, Field(description="The same by TLS; empty where the service has none.")] = ""


class _FromRemoteUrl(BaseModel):
    domain_remote_url: Annotated[str, Field(description="Where the memory state lies; empty: none.")]
    disk_snapshot_list: list[DiskSnapshotInfo]
    attr: Annotated[
        dict[str, str] | None,
        Field(
            description="operation_uuid: the operation that created it; with memory also status (saving | uploading | "
            "available | failed), progress (0 to 100), memory_uuid, memory_bytes, capture_mode, checksum and, when "
            "there is one, reason. null without memory, when made before operations were noted."
        ),
    ]


# The bases are written last to first: that is the order in which pydantic takes their fields.
class GetVsdSnapshotResponse(_FromRemoteUrl, _UpToScreenshot):
    """A single snapshot."""


class SnapshotRow(_FromRemoteUrl, _Ssl, _UpToScreenshot):
    """A row of the list, which has one field more than a single snapshot."""


class SnapshotListData(BaseModel):
    list: list[SnapshotRow]
    total_count: Annotated[int, Field(description="Snapshots after filtering, before paging.")]


class SnapshotTreeData(BaseModel):
    tree: SnapshotTree


class BatchData(BaseModel):
    """The seed's BatchOutput; ``results`` are in the order of the request."""

    success: Annotated[int, Field(description="Entries that were done.")]
    fail: Annotated[int, Field(description="Entries that were not.")]
    results: list[Success[DiskSnapshotInfo] | Failure[DiskSnapshotInfo]]


class RangeListState(BaseModel):
    """How listing went in one cluster."""

    cluster_uuid: str
    cluster_name: str
    result: Success[EmptyData]
    total_count: int


class VmListData(BaseModel):
    domains: list[ComputeInfo]
    total_count: Annotated[int, Field(description="Virtual machines after filtering, before paging.")]
    each_range_list_state: list[RangeListState]


class GuestData(BaseModel):
    uuid: Annotated[str, Field(description="The new virtual machine's uuid.")]


class ConsoleData(BaseModel):
    path: Annotated[str, Field(description="The file that the guest's console is written to, on the service's host.")]


class VersionData(BaseModel):
    version: Annotated[str, Field(description="Stillframe's version.")]
    cluster_uuid: str
    cluster_name: str


class FindingInfo(BaseModel):
    """One thing that is not as it should be; docs/operating.md lists the kinds."""

    kind: Annotated[str, Field(description="Its kind; stable for ever.")]
    compute_uuid: Annotated[str, Field(description="The virtual machine's uuid; empty: of none that is known.")]
    compute_name: Annotated[str, Field(description="Its name; empty where libvirt does not know it.")]
    snapshots: Annotated[list[str], Field(description="The names of the snapshots that need it.")]
    path: Annotated[str, Field(description="The file; empty: none.")]
    uuid: Annotated[str, Field(description="The layer's, memory state's, snapshot's, operation's or machine's uuid.")]
    size_bytes: Annotated[
        int, Field(description="What the file occupies; of a missing memory state what it did; 0: none or not known.")
    ]
    message: Annotated[str, Field(description="What the kind means, in English.")]
    message_cn: Annotated[str, Field(description="What the kind means, in Chinese.")]
    desc: Annotated[str, Field(description="What was seen.")]
    repairable: Annotated[bool, Field(description="Whether a repair would be tried now.")]
    remedy: Annotated[str, Field(description="What the repair would do; else what a person can do; in English.")]
    remedy_cn: Annotated[str, Field(description="The same in Chinese.")]


class NotRepaired(FindingInfo):
    why: Annotated[str, Field(description="Why the repair was not done.")]


class BusyInfo(BaseModel):
    compute_uuid: str
    compute_name: str
    operation: Annotated[str, Field(description="The kind of the operation under way.")]
    since: Annotated[int, Field(description="When it began, Unix seconds.")]


class DoctorData(BaseModel):
    findings: Annotated[list[FindingInfo], Field(description="By virtual machine; after a repair: what is left.")]
    busy: Annotated[
        list[BusyInfo], Field(description="Virtual machines that were not looked at: something works there.")
    ]
    repaired: Annotated[list[FindingInfo], Field(description="What a repair has repaired; empty after a look.")]
    not_repaired: Annotated[list[NotRepaired], Field(description="What a repair has tried or wanted, but not done.")]
    vms: Annotated[int, Field(description="Virtual machines with snapshots that were looked at.")]
    deep: Annotated[bool, Field(description="Whether memory files and the structure of layers were read, too.")]


def doctor_data(report: Report) -> DoctorData:
    return DoctorData(
        findings=[FindingInfo(**_finding(finding)) for finding in report.findings],
        busy=[
            BusyInfo(compute_uuid=vm.vm_uuid, compute_name=vm.vm_name, operation=vm.operation, since=vm.since)
            for vm in report.busy
        ],
        repaired=[FindingInfo(**_finding(repair.finding)) for repair in report.repairs if not repair.error],
        not_repaired=[
            NotRepaired(**_finding(repair.finding), why=repair.error) for repair in report.repairs if repair.error
        ],
        vms=report.vms,
        deep=report.deep,
    )


def _finding(finding: Finding) -> dict[str, Any]:
    words = finding.kind.words
    return {
        "kind": finding.kind.value,
        "compute_uuid": finding.vm_uuid,
        "compute_name": finding.vm_name,
        "snapshots": list(finding.snapshots),
        "path": finding.path,
        "uuid": finding.uuid,
        "size_bytes": finding.size_bytes,
        "message": words.message,
        "message_cn": words.message_cn,
        "desc": finding.desc,
        "repairable": finding.repairable,
        "remedy": finding.remedy,
        "remedy_cn": finding.remedy_cn,
    }


def batch_data(entries: Sequence[DiskSnapshotInfo], errors: Sequence[StillframeError | None]) -> BatchData:
    """Each entry's own Output, about that entry as it was requested."""
    results = [
        Success[DiskSnapshotInfo](data=entry)
        if error is None
        else Failure[DiskSnapshotInfo](**dict(failure_of(error, entry)))
        for entry, error in zip(entries, errors, strict=True)
    ]
    failed = sum(error is not None for error in errors)
    return BatchData(success=len(results) - failed, fail=failed, results=results)


def vm_list_data(page: VmPage, cluster: Cluster) -> VmListData:
    return VmListData(
        domains=list(page.rows),
        total_count=page.total_count,
        each_range_list_state=[
            RangeListState(
                cluster_uuid=cluster.uuid,
                cluster_name=cluster.name,
                result=Success[EmptyData](data=EmptyData()),
                total_count=page.total_count,
            )
        ],
    )
