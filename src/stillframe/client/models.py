"""What calls answer, as frozen records with the API's own field names.

A field that a newer service has beside these is kept (``model_extra``, and in ``as_json``), never an error.
"""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

ENDED = frozenset({"done", "refused", "undone", "left"})
SAVING = frozenset({"saving", "uploading"})


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="allow", populate_by_name=True, protected_namespaces=())

    def as_json(self) -> dict[str, Any]:
        """The API's own fields, also those that are not known here."""
        return self.model_dump(mode="json", by_alias=True)


class Nothing(Record):
    """The data of a call that answers nothing."""


class Vm(Record):
    """A row of the list of virtual machines."""

    tenant: str
    tenant_name: str
    uuid: str
    name: str
    type: str
    create_time: int
    modify_time: int
    state: str
    ga_state: str
    action: str
    os: str
    namespace: str
    is_external_disk: bool
    has_passthrough_disk: bool
    cluster_uuid: str
    cluster_name: str


class VmList(Record):
    domains: tuple[Vm, ...]
    total_count: int


class LocalSource(Record):
    """A disk's file on the host."""

    volume_uuid: str
    volume_name: str
    disk_capacity: int  # bytes
    pool_name: str


class SharedSource(Record):
    """A disk's file on a file system that several hosts mount."""

    volume_uuid: str
    volume: str
    disk_capacity: int  # bytes
    pool_name: str


class Disk(Record):
    disk_target_device: str
    disk_target_bus: str
    disk_is_system: bool
    disk_vsd_source: LocalSource | None = None
    disk_volume_source: SharedSource | None = None

    @property
    def capacity_bytes(self) -> int:
        """0 where it is not known."""
        source = self.disk_vsd_source or self.disk_volume_source
        return source.disk_capacity if source else 0


class VmDetail(Record):
    """A virtual machine's configuration; the platform's further fields are in ``model_extra``."""

    tenant: str
    tenant_name: str
    uuid: str
    name: str
    state: str
    action: str
    os: str
    namespace: str
    mem_size: int  # bytes
    cpu_max_count: int
    disks: tuple[Disk, ...]
    cluster_uuid: str = ""
    cluster_name: str = ""


class DiskSnapshot(Record):
    """What a snapshot has of one disk; also how a single disk to roll back is named."""

    volume_uuid: str = Field(alias="VolumeUuid")
    snapshot_uuid: str = Field(alias="SnapshotUuid")
    disk: str = Field(alias="DiskDrive")


class Snapshot(Record):
    tenant: str
    tenant_name: str
    namespace: str
    uuid: str
    compute_uuid: str
    name: str
    description: str
    ctime: int  # Unix seconds
    vm_detail: JsonValue
    screenshot_url: str
    domain_remote_url: str
    disk_snapshot_list: tuple[DiskSnapshot, ...]
    attr: dict[str, str] | None

    @property
    def memory_status(self) -> str:
        """saving, uploading, available or failed; empty: without memory."""
        return (self.attr or {}).get("status", "")

    @property
    def operation_uuid(self) -> str:
        """The task that created it; empty: made before they were noted."""
        return (self.attr or {}).get("operation_uuid", "")


class SnapshotList(Record):
    list: tuple[Snapshot, ...]
    total_count: int


class Children(Record):
    names: tuple[str, ...] = Field(alias="Children")


class Tree(Record):
    """Names as nodes, ``head`` as the current state, "" as the root."""

    uuid: str = Field(alias="UUID")
    parents: dict[str, str] = Field(alias="Parents")
    children: dict[str, Children] = Field(alias="Children")


class TreeData(Record):
    tree: Tree


class DiskOutcome(Record):
    """What came of one disk; ``scode`` 0: it was rolled back."""

    scode: int
    desc: str
    message: str
    message_cn: str
    data: DiskSnapshot


class Batch(Record):
    success: int
    fail: int
    results: tuple[DiskOutcome, ...]


class Task(Record):
    """An operation: what it does, how far it is, how it ended. Bytes and time left are of the step under way."""

    uuid: str
    kind: str
    compute_uuid: str
    compute_name: str
    tenant: str
    snapshot: str
    state: str
    cancellable: bool
    step: str
    steps_done: int
    steps_total: int
    progress: int  # per cent
    bytes_done: int
    bytes_total: int
    rate_bytes_s: int
    time_left_s: int | None
    started_at: int  # Unix seconds
    ended_at: int | None
    error: str
    scode: int | None  # of the error, where it is known

    @property
    def has_ended(self) -> bool:
        """Also ``left``: the service tries again, and nobody can say when."""
        return self.state in ENDED


class TaskPage(Record):
    list: tuple[Task, ...]
    next: str


class LogLine(Record):
    id: str
    at: int  # Unix seconds
    key_id: str
    tenant: str
    address: str
    call: str
    compute_uuid: str
    compute_name: str
    mark: str
    snapshot: str
    scode: int
    desc: str
    duration_ms: int
    operation_uuid: str


class LogPage(Record):
    list: tuple[LogLine, ...]
    next: str


class Key(Record):
    """A key without its secret. Moments are Unix seconds."""

    key_id: str
    role: str
    tenant: str
    description: str
    created_at: int
    created_by: str
    expires_at: int | None
    revoked_at: int | None


class NewKey(Key):
    api_key: str = Field(repr=False)


class KeyPage(Record):
    list: tuple[Key, ...]
    next: str


class TenantUse(Record):
    tenant: str
    vms: int
    snapshots: int
    max_snapshots: int
    space_bytes: int
    space_budget_bytes: int
    space_budget_set: bool
    memory_open: bool
    memory_bytes: int
    memory_budget_bytes: int | None
    capacity_bytes: int


class TenantPage(Record):
    list: tuple[TenantUse, ...]
    next: str


class Finding(Record):
    kind: str
    compute_uuid: str
    compute_name: str
    snapshots: tuple[str, ...]
    path: str
    uuid: str
    size_bytes: int
    message: str
    message_cn: str
    desc: str
    repairable: bool
    remedy: str
    remedy_cn: str


class NotRepaired(Finding):
    why: str


class BusyVm(Record):
    compute_uuid: str
    compute_name: str
    operation: str
    since: int  # Unix seconds


class DoctorReport(Record):
    findings: tuple[Finding, ...]
    busy: tuple[BusyVm, ...]
    repaired: tuple[Finding, ...]
    not_repaired: tuple[NotRepaired, ...]
    vms: int
    deep: bool


class Version(Record):
    version: str
    cluster_uuid: str
    cluster_name: str


class NewGuest(Record):
    uuid: str


class Console(Record):
    path: str
