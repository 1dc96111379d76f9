"""What each call must answer to whom, by rule: the table behind the isolation matrix (test_isolation.py).

Every call has an entry: what it needs, a request about tenant A's own virtual machine that changes nothing worth keeping,
how that ends, and which of its parameters name something.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from stillframe.domain.access import Need, Role
from stillframe.domain.errors import ErrorCase

A, B = "tenant-a", "tenant-b"
NOWHERE = "00000000-1111-4222-8333-444444444444"
UNKNOWN_KEY = "f" * 12


class Variant(StrEnum):
    OWN = "own"
    OTHER = "another tenant's"
    UNKNOWN = "unknown"
    EMPTY = "empty"
    MALFORMED = "malformed"


class Kind(StrEnum):
    """What a parameter names. ``…_FILTER`` narrows a list, where nothing is an answer like any other."""

    CLUSTER = "cluster"
    VM = "VM"
    VM_OR_NONE = "VM, where none means all"
    VM_FILTER = "VM, of a list"
    UUID_TEXT_FILTER = "part of a uuid, of a list"
    TENANT = "tenant, checked against the VM's"
    TENANT_FILTER = "tenant, of a list"
    TENANT_LABEL = "tenant, of a list, of printable text"
    TENANT_NAME = "tenant, any"
    SNAPSHOT = "snapshot"
    SNAPSHOT_FILTER = "snapshot, of a list"
    SCREENSHOT = "screenshot"
    TASK = "task"
    TASK_AFTER = "task, where a page ends"
    TASK_FILTER = "task, of a list"
    KEY = "key"
    KEY_AFTER = "key, where a page ends"
    KEY_FILTER = "key, of a list"
    LINE_AFTER = "line of the log, where a page ends"
    GUEST = "witness guest"
    NEW_GUEST = "witness guest, not there yet"
    API_KEY = "key itself"


# not the names of anything that belongs to somebody
PLAIN = frozenset(
    [
        "cluster_name",
        "cluster_mode",
        "tenant_name",
        "namespace_uuid",
        "namespace_name",
        "multiple",
        "vm_type",
        "compute_name",
        "owner",
        "filter_name",
        "filter_state",
        "filter_action",
        "filter_fuzzy",
        "page_number",
        "page_num",
        "page_size",
        "description",
        "domain_memory",
        "state",
        "since",
        "until",
        "limit",
        "deep",
        "memory_mib",
        "fill_mib",
        "disks",
        "dirty_pages",
        "private_file_memory",
        "role",
        "expires_at",
        "grace_s",
        "memory_open",
        "memory_bytes",
        "space_bytes",
        "max_snapshots",
        "expires",
        "signature",
        "call",
        "scode",
        "failed",
        "disk_snapshot_list",
        "fold",
        "opened",
        "theme",
        "language",
        "wait_s",
    ]
)

_FORMED = {
    Kind.CLUSTER,
    Kind.VM,
    Kind.VM_OR_NONE,
    Kind.VM_FILTER,
    Kind.TASK,
    Kind.TASK_AFTER,
    Kind.TASK_FILTER,
    Kind.KEY,
    Kind.KEY_AFTER,
}
_FORMED |= {Kind.TENANT_NAME, Kind.TENANT_LABEL, Kind.GUEST, Kind.NEW_GUEST, Kind.KEY_FILTER, Kind.LINE_AFTER}
_REQUIRED = {Kind.VM, Kind.SNAPSHOT, Kind.TASK, Kind.KEY, Kind.GUEST, Kind.NEW_GUEST, Kind.TENANT_NAME, Kind.API_KEY}
_MISSING = {
    Kind.CLUSTER: ErrorCase.CLUSTER_UNKNOWN,
    Kind.VM: ErrorCase.VM_UNKNOWN,
    Kind.VM_OR_NONE: ErrorCase.VM_UNKNOWN,
    Kind.TENANT: ErrorCase.TENANT_WRONG,
    Kind.SNAPSHOT: ErrorCase.SNAPSHOT_UNKNOWN,
    Kind.SCREENSHOT: ErrorCase.SNAPSHOT_UNKNOWN,
    Kind.TASK: ErrorCase.TASK_UNKNOWN,
    Kind.TASK_AFTER: ErrorCase.TASK_UNKNOWN,
    Kind.API_KEY: ErrorCase.NOT_AUTHENTICATED,
    Kind.KEY: ErrorCase.KEY_UNKNOWN,
    Kind.KEY_AFTER: ErrorCase.KEY_UNKNOWN,
    Kind.GUEST: ErrorCase.VM_UNKNOWN,
    Kind.LINE_AFTER: ErrorCase.LOG_LINE_UNKNOWN,
}


@dataclass(frozen=True)
class Entry:
    """``ends``: how the request about A's own things ends, for who may make it; None is success."""

    need: Need
    names: dict[str, Kind] = field(default_factory=dict)
    more: dict[str, Any] = field(default_factory=dict)
    ends: ErrorCase | None = None


_VM = {"cluster_uuid": Kind.CLUSTER, "tenant": Kind.TENANT, "compute_uuid": Kind.VM}
_ONE = {**_VM, "name": Kind.SNAPSHOT}

ENTRIES: dict[str, Entry] = {
    "listSnapshots": Entry(Need.LOOK, _VM),
    "getSnapshot": Entry(Need.LOOK, _ONE),
    "getSnapshotTree": Entry(Need.LOOK, _VM),
    "getHeadSnapshot": Entry(Need.LOOK, _VM),
    # each of these reaches the last rule before it would change anything
    "createSnapshot": Entry(Need.ACT, _VM, {"name": "shared"}, ErrorCase.NAME_TAKEN),
    "modifySnapshot": Entry(Need.ACT, _ONE, {"description": "the same"}),
    "rollbackSnapshot": Entry(Need.ACT, _ONE, {"domain_memory": True}, ErrorCase.SNAPSHOT_WITHOUT_MEMORY),
    "deleteSnapshot": Entry(Need.ACT, _ONE, {}, ErrorCase.SNAPSHOT_HAS_CHILDREN),
    "rollbackVolumes": Entry(
        Need.ACT, _VM, {"disk_snapshot_list": [{"VolumeUuid": NOWHERE, "SnapshotUuid": NOWHERE, "DiskDrive": "vda"}]}
    ),
    "getScreenshot": Entry(Need.LOOK, {"snapshot_uuid": Kind.SCREENSHOT}),
    "listVms": Entry(
        Need.LOOK,
        {"cluster_uuid": Kind.CLUSTER, "tenant": Kind.TENANT_FILTER, "filter_uuid": Kind.UUID_TEXT_FILTER},
    ),
    "inspectVm": Entry(Need.LOOK, _VM),
    "startVm": Entry(Need.ACT, _VM),
    "shutdownVm": Entry(Need.ACT, _VM, {}, ErrorCase.VM_NOT_RUNNING),
    "shutoffVm": Entry(Need.ACT, _VM, {}, ErrorCase.VM_NOT_RUNNING),
    "listTasks": Entry(
        Need.LOOK,
        {
            "cluster_uuid": Kind.CLUSTER, "tenant": Kind.TENANT_FILTER, "compute_uuid": Kind.VM_FILTER,
            "after": Kind.TASK_AFTER,
        },
    ),
    "getTask": Entry(Need.LOOK, {"cluster_uuid": Kind.CLUSTER, "uuid": Kind.TASK}),
    "cancelTask": Entry(
        Need.ACT, {"cluster_uuid": Kind.CLUSTER, "uuid": Kind.TASK}, {}, ErrorCase.TASK_NOT_CANCELLABLE
    ),
    "listLog": Entry(
        Need.LOOK,
        {
            "cluster_uuid": Kind.CLUSTER, "tenant": Kind.TENANT_FILTER, "compute_uuid": Kind.VM_FILTER,
            "key_id": Kind.KEY_FILTER, "snapshot": Kind.SNAPSHOT_FILTER, "operation_uuid": Kind.TASK_FILTER,
            "after": Kind.LINE_AFTER,
        },
    ),
    "getTenantUsage": Entry(Need.LOOK, {"tenant": Kind.TENANT_LABEL, "after": Kind.TENANT_LABEL}),
    "setTenant": Entry(Need.ADMINISTER, {"tenant": Kind.TENANT_NAME}, {"max_snapshots": 100}),
    "getVersion": Entry(Need.LOOK),
    "assignVm": Entry(
        Need.ADMINISTER, {"cluster_uuid": Kind.CLUSTER, "compute_uuid": Kind.VM, "tenant": Kind.TENANT_NAME}
    ),
    "createGuest": Entry(
        Need.ADMINISTER, {"name": Kind.NEW_GUEST}, {"memory_mib": 64, "fill_mib": 64}, ErrorCase.PARAMETER_MALFORMED
    ),
    "deleteGuest": Entry(Need.ADMINISTER, {"name": Kind.GUEST}, {}, ErrorCase.VM_UNKNOWN),
    "getGuestConsole": Entry(Need.ADMINISTER, {"name": Kind.GUEST}, {}, ErrorCase.VM_UNKNOWN),
    "getDoctor": Entry(Need.ADMINISTER),
    "repairByDoctor": Entry(Need.ADMINISTER),
    "createKey": Entry(Need.ADMINISTER, {"tenant": Kind.TENANT_NAME}, {"role": "reader"}),
    "listKeys": Entry(Need.ADMINISTER, {"tenant": Kind.TENANT_LABEL, "after": Kind.KEY_AFTER}),
    "revokeKey": Entry(Need.ADMINISTER, {"key_id": Kind.KEY}),
    "rotateKey": Entry(Need.ADMINISTER, {"key_id": Kind.KEY}),
    "rotateLinks": Entry(Need.ADMINISTER),
    "getVmOverview": Entry(Need.LOOK, _VM),
    "getConsequences": Entry(Need.LOOK, _ONE),
    "getTreePicture": Entry(Need.LOOK, _VM),
    "openSession": Entry(Need.LOOK, {"api_key": Kind.API_KEY}),
    "getSession": Entry(Need.LOOK),
    "endSession": Entry(Need.LOOK),
    "getEvents": Entry(Need.LOOK, {"cluster_uuid": Kind.CLUSTER, "compute_uuid": Kind.VM_OR_NONE}, {"wait_s": 0}),
}  # fmt: skip

_MAY = {
    Role.ADMINISTRATOR: set(Need),
    Role.OPERATOR: {Need.LOOK, Need.ACT},
    Role.READER: {Need.LOOK},
}


def expected(call: str, role: Role | None, parameter: str, variant: Variant) -> ErrorCase | None:
    """How a request must end in which this parameter is of this variant and all others are A's own; None: well.

    ``role`` None: no key. The keys of tenants are A's.
    """
    entry = ENTRIES[call]
    if role is None and call != "openSession":  # whoever has a key may sign in with it
        return _by_link(variant) if call == "getScreenshot" else ErrorCase.NOT_AUTHENTICATED
    if role is not None and entry.need not in _MAY[role]:
        return ErrorCase.NOT_ALLOWED
    if not parameter:
        return entry.ends
    kind = entry.names[parameter]
    match variant:
        case Variant.OWN:
            return entry.ends
        case Variant.OTHER:
            return _about_anothers(entry, kind, role or Role.READER)
        case Variant.UNKNOWN:
            return _MISSING.get(kind, entry.ends)
        case Variant.EMPTY:
            return ErrorCase.PARAMETER_MISSING if kind in _REQUIRED else entry.ends
        case Variant.MALFORMED:
            if kind in _FORMED:
                return ErrorCase.PARAMETER_MALFORMED
            return _MISSING.get(kind, entry.ends)


def _by_link(variant: Variant) -> ErrorCase:
    """Without a key the screenshot's signature is judged, once its name has the form of one; there is none."""
    return ErrorCase.SNAPSHOT_UNKNOWN if variant is Variant.MALFORMED else ErrorCase.LINK_INVALID


def _about_anothers(entry: Entry, kind: Kind, role: Role) -> ErrorCase | None:
    if kind in (Kind.VM, Kind.VM_OR_NONE, Kind.TASK, Kind.TASK_AFTER, Kind.SCREENSHOT, Kind.LINE_AFTER):
        return entry.ends if role is Role.ADMINISTRATOR else _MISSING[kind]
    if kind in (Kind.TENANT, Kind.SNAPSHOT):
        # A's machine is not B's, and has no snapshot of B's
        return _MISSING[kind]
    return entry.ends
