"""What requests look like, parsed once at the door: query parameters of the GETs and bodies of the POSTs.

Bodies take the JSON types as written (no "true" for true), ignore fields that they do not know, and take null for
an optional field as absent. Source: seed, "ComputeIdentifier" and the calls.
"""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator
from pydantic_core.core_schema import ValidationInfo

from stillframe.domain.rules import DESCRIPTION_MAX_CHARS, NAME_MAX_CHARS
from stillframe.domain.vm import Action, PowerState
from stillframe.http.fields import (
    INTEGER_MAX,
    ExistingName,
    GivenLabel,
    Label,
    MaybePageNumber,
    NameText,
    OpaqueId,
    QueryBool,
    QueryInteger,
    Text,
    Uuid,
    UuidOrEmpty,
    Word,
    one_of_or_empty,
)
from stillframe.operations.requests import Caller, DiskRef, GuestSpec, VmQuery, VmRef

ENTRIES_MAX = 256  # more disks than a virtual machine has; each is an operation of its own

# the rules for new names and descriptions (domain/rules.py), once more for the document
NEW_NAME = r"^(?!head$)[^/\u0000-\u001f\u007f-\u009f\u2028\u2029]*$"
_DESCRIPTION: dict[str, JsonValue] = {"maxLength": DESCRIPTION_MAX_CHARS, "pattern": r"^[^\u0000]*$"}
GUEST_NAME = r"^[A-Za-z0-9_][A-Za-z0-9._-]{0,47}$"
MEMORY_MIN_MIB, MEMORY_MAX_MIB = 64, 65536
KERNEL_MIB = 48  # what the guest needs beside what it fills
DISKS_MAX = 8
DIRTY_PAGES_MAX = 1_000_000
_GUEST = GuestSpec(name="")

TenantField = Field(description="The tenant's uuid; empty: not checked.")


class Paged(BaseModel):
    """``page_number`` is the documented name, ``page_num`` what clients send; the former wins."""

    page_number: Annotated[MaybePageNumber, Field(description="Page, counted from 0.")] = None
    page_num: Annotated[MaybePageNumber, Field(description="Another name of page_number, which wins.")] = None
    page_size: Annotated[QueryInteger, Field(description="Rows of a page; 0 or less: everything on one page.")] = 0

    @property
    def page(self) -> int:
        """The page that is meant; one beyond all rows stands for every further one, so that offsets stay small."""
        page = next((n for n in (self.page_number, self.page_num) if n is not None), 0)
        return min(page, INTEGER_MAX // self.page_size) if self.page_size > 0 else page


class VmParams(BaseModel):
    """Which VM a GET means."""

    cluster_uuid: Annotated[UuidOrEmpty, Field(description="The cluster's uuid; empty: every managed cluster.")]
    tenant: Annotated[OpaqueId, TenantField] = ""
    compute_uuid: Annotated[Uuid, Field(description="The virtual machine's uuid.")]

    @property
    def ref(self) -> VmRef:
        return VmRef(self.cluster_uuid, self.tenant, self.compute_uuid)


class SnapshotParams(VmParams):
    name: Annotated[ExistingName, Field(description="The snapshot's name.")]


class SnapshotListParams(Paged, VmParams):
    filter_name: Annotated[
        NameText, Field(description="Part of the snapshot's name, case-sensitive, taken literally; empty: all.")
    ] = ""


class VmListParams(Paged):
    cluster_uuid: Annotated[UuidOrEmpty, Field(description="The cluster's uuid; empty: every managed cluster.")] = ""
    tenant: Annotated[OpaqueId, Field(description="The tenant's uuid; empty: every tenant.")] = ""
    filter_name: Annotated[Text, Field(description="The virtual machine's name; empty: all.")] = ""
    filter_uuid: Annotated[Text, Field(description="The virtual machine's uuid; empty: all.")] = ""
    filter_state: Annotated[
        Text, Field(description="The power state, such as running; empty: all."), one_of_or_empty(PowerState)
    ] = ""
    filter_action: Annotated[
        Text, Field(description="The action, such as noaction; empty: all."), one_of_or_empty(Action)
    ] = ""
    filter_fuzzy: Annotated[
        QueryBool, Field(description="Whether filter_name and filter_uuid may be parts; else they match as a whole.")
    ] = True

    @field_validator("filter_state")
    @classmethod
    def _is_state(cls, raw: str) -> str:
        return _one_of(PowerState, raw)

    @field_validator("filter_action")
    @classmethod
    def _is_action(cls, raw: str) -> str:
        return _one_of(Action, raw)

    @property
    def query(self) -> VmQuery:
        return VmQuery(
            cluster_uuid=self.cluster_uuid,
            tenant=self.tenant,
            name=self.filter_name,
            uuid=self.filter_uuid.lower(),
            state=self.filter_state,
            action=self.filter_action,
            fuzzy=self.filter_fuzzy,
            page_number=self.page,
            page_size=self.page_size,
        )


class GuestParams(BaseModel):
    name: Annotated[str, Field(min_length=1, pattern=GUEST_NAME, description="The witness guest's name.")]


class Body(BaseModel):
    """A POST's JSON object."""

    model_config = ConfigDict(strict=True)


class ComputeIdentifier(Body):
    """Which VM a POST means: the platform's ComputeIdentifier, flat."""

    cluster_uuid: Annotated[UuidOrEmpty | None, Field(description="The cluster's uuid; empty: every one.")] = None
    cluster_name: Annotated[Text | None, Field(description="Not used for look-up.")] = None
    cluster_mode: Annotated[Text | None, Field(description="Not used.")] = None
    tenant: Annotated[OpaqueId | None, TenantField] = None
    tenant_name: Annotated[Text | None, Field(description="Not used for look-up.")] = None
    namespace_uuid: Annotated[Text | None, Field(description="Not used for look-up.")] = None
    namespace_name: Annotated[Text | None, Field(description="Not used for look-up.")] = None
    multiple: Annotated[bool | None, Field(description="Not used: one virtual machine is meant.")] = None
    vm_type: Annotated[Text | None, Field(description='Mark in the operation log: "GCD", "GDT" or other.')] = None
    compute_uuid: Annotated[Uuid, Field(description="The virtual machine's uuid.")]
    compute_name: Annotated[Text | None, Field(description="The virtual machine's name; not used for look-up.")] = None
    owner: Annotated[Text | None, Field(description="uuid of the user who is to be told; not used.")] = None

    @property
    def ref(self) -> VmRef:
        return VmRef(self.cluster_uuid or "", self.tenant or "", self.compute_uuid)

    def marked(self, caller: Caller) -> Caller:
        """The caller with the request's mark, when it is one of the known ones."""
        return replace(caller, mark=self.vm_type) if self.vm_type in ("GCD", "GDT") else caller


class CreateBody(ComputeIdentifier):
    # the name as given: the rules for new names decide, and say which one it breaks
    name: Annotated[
        str,
        Field(
            description='1 to 128 characters, no "/", no control characters, not "head"; unique within its VM.',
            json_schema_extra={"minLength": 1, "maxLength": NAME_MAX_CHARS, "pattern": NEW_NAME},
        ),
    ]
    description: Annotated[
        str | None, Field(description="At most 4096 characters.", json_schema_extra=_DESCRIPTION)
    ] = None
    domain_memory: Annotated[bool | None, Field(description="Whether the running memory is saved too.")] = None


class ModifyBody(ComputeIdentifier):
    name: Annotated[ExistingName, Field(description="The snapshot's name.")]
    description: Annotated[
        str | None, Field(description="The new description; absent: it is cleared.", json_schema_extra=_DESCRIPTION)
    ] = None


class RollbackBody(ComputeIdentifier):
    name: Annotated[ExistingName, Field(description="The snapshot's name.")]
    domain_memory: Annotated[
        bool | None, Field(description="Whether the guest resumes from the saved memory; else the VM ends shut off.")
    ] = None


class DeleteBody(ComputeIdentifier):
    name: Annotated[ExistingName, Field(description="The snapshot's name.")]


class DiskEntry(Body):
    """The seed's DiskSnapshotInfo. Contents are judged one by one: a wrong uuid fails its own entry only."""

    VolumeUuid: Annotated[Word, Field(description="The volume's uuid.")]
    SnapshotUuid: Annotated[Word, Field(description="The uuid of that volume's snapshot.")]
    DiskDrive: Annotated[Word, Field(description='The disk\'s place in the virtual machine, such as "vda".')]

    @property
    def ref(self) -> DiskRef:
        return DiskRef(self.VolumeUuid.lower(), self.SnapshotUuid.lower(), self.DiskDrive)


class VolumeRollbackBody(ComputeIdentifier):
    disk_snapshot_list: Annotated[
        list[DiskEntry],
        Field(
            min_length=1,
            max_length=ENTRIES_MAX,
            description="The disks to roll back, each to one of its snapshots.",
        ),
    ]


class AssignBody(Body):
    cluster_uuid: Annotated[UuidOrEmpty | None, Field(description="The cluster's uuid; empty: every one.")] = None
    compute_uuid: Annotated[Uuid, Field(description="The virtual machine's uuid.")]
    tenant: Annotated[GivenLabel, Field(description="The tenant that it shall belong to.")]
    tenant_name: Annotated[Label | None, Field(description="The tenant's name.")] = None
    namespace_uuid: Annotated[Label | None, Field(description="The namespace that it shall belong to.")] = None

    @property
    def ref(self) -> VmRef:
        # no tenant: the one in the body is the new one
        return VmRef(self.cluster_uuid or "", "", self.compute_uuid)


class GuestBody(Body):
    """A witness guest to be made."""

    name: Annotated[str, Field(min_length=1, pattern=GUEST_NAME, description="Its name.")]
    memory_mib: Annotated[
        int | None, Field(ge=MEMORY_MIN_MIB, le=MEMORY_MAX_MIB, description="Memory in MiB; absent: 256.")
    ] = None
    fill_mib: Annotated[
        int | None,
        Field(ge=0, description="MiB of memory that hold random data, at most memory_mib - 48; absent: 64 or less."),
    ] = None
    disks: Annotated[int | None, Field(ge=1, le=DISKS_MAX, description="Number of disks; absent: 1.")] = None
    dirty_pages: Annotated[
        int | None, Field(ge=0, le=DIRTY_PAGES_MAX, description="Pages that it rewrites with each tick; absent: 20.")
    ] = None
    private_file_memory: Annotated[
        bool | None,
        Field(description="Back its memory by a private file mapping, of which QEMU takes no background snapshot."),
    ] = None

    @field_validator("fill_mib")
    @classmethod
    def _leaves_room(cls, fill_mib: int | None, info: ValidationInfo) -> int | None:
        if "memory_mib" in info.data and fill_mib is not None:
            most = (info.data["memory_mib"] or _GUEST.memory_mib) - KERNEL_MIB
            if fill_mib > most:
                raise ValueError(f"at most {most} (memory_mib - {KERNEL_MIB})")
        return fill_mib

    @property
    def spec(self) -> GuestSpec:
        memory_mib = _or(self.memory_mib, _GUEST.memory_mib)
        return GuestSpec(
            name=self.name,
            memory_mib=memory_mib,
            fill_mib=_or(self.fill_mib, min(_GUEST.fill_mib, memory_mib - KERNEL_MIB)),
            disks=_or(self.disks, _GUEST.disks),
            dirty_pages=_or(self.dirty_pages, _GUEST.dirty_pages),
            private_file_memory=bool(self.private_file_memory),
        )


class DoctorParams(BaseModel):
    deep: Annotated[
        QueryBool,
        Field(description="Also read all memory files and check the structure of all layers, which takes its time."),
    ] = False


class RepairBody(Body):
    deep: Annotated[
        bool | None, Field(description="Whether the look after the repair is a deep one, as of the other call.")
    ] = None


class GuestDeleteBody(Body):
    name: Annotated[str, Field(min_length=1, pattern=GUEST_NAME, description="The witness guest's name.")]


def _or(value: int | None, default: int) -> int:
    return default if value is None else value


def _one_of(kinds: type[StrEnum], raw: str) -> str:
    known = [kind.value for kind in kinds]
    if raw and raw not in known:
        raise ValueError(f"one of {', '.join(known)}, or nothing")
    return raw
