"""Doctor: compares database, journal, files, memory store and hypervisor, and names what does not agree. Changes nothing.

Work goes on meanwhile: a VM with an operation under way is named as busy and left out; one whose operations came and
went while it was looked at is looked at again. No lock is taken.
"""

from __future__ import annotations

from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from stillframe.domain.errors import StillframeError
from stillframe.domain.findings import Finding, FindingKind
from stillframe.domain.vm import Vm
from stillframe.operations.disks import is_our_directory
from stillframe.operations.examine import examine
from stillframe.operations.images import file_disks
from stillframe.operations.orphans import find_orphans
from stillframe.operations.records import read_vm
from stillframe.operations.requests import Cluster
from stillframe.operations.wording import describe
from stillframe.operations.world import Sight
from stillframe.ports.metadata import OperationRow

_AT_ONCE = 4
_TRIES = 3


@dataclass(frozen=True)
class BusyVm:
    """A VM that was not looked at. ``operation`` is the kind of what runs on it, begun at ``since`` (Unix seconds)."""

    vm_uuid: str
    vm_name: str
    operation: str
    since: int


@dataclass(frozen=True)
class Repair:
    """What became of one finding: ``error`` is "" when it was repaired, else why it was not."""

    finding: Finding
    error: str = ""


@dataclass(frozen=True)
class Report:
    """``findings`` by VM; ``vms`` is the number of VMs with rows that were looked at. ``repairs`` is empty after a look."""

    findings: tuple[Finding, ...]
    busy: tuple[BusyVm, ...]
    vms: int
    deep: bool
    repairs: tuple[Repair, ...] = ()


def untrusted(problems: Collection[str], *, deep: bool) -> Report:
    """All that can be said where the database itself is damaged."""
    found = [Finding(FindingKind.DATABASE_DAMAGED, desc=problem) for problem in problems]
    unknown = "nothing is compared with a database that cannot be trusted"
    return Report((*found, Finding(FindingKind.NOT_LOOKED_AT, desc=unknown)), (), 0, deep)


class Doctor:
    """Looks. Safe from many threads, and while anything else goes on."""

    def __init__(self, world: Sight, cluster: Cluster) -> None:
        self._world = world
        self._cluster = cluster

    def look(self, *, deep: bool) -> Report:
        """Everything. ``deep`` also reads all memory files and the structure of all layers.

        Raises:
            Failed: STORAGE_FAILED when the database cannot be read at all.
        """
        problems = self._world.metadata.problems()
        if problems:
            return untrusted(problems, deep=deep)
        vms, found = self._known_vms()
        names = {vm.uuid: vm.name for vm in vms or ()}
        uuids = self._vms_to_look_at(vms or ())
        asks = vms is not None
        with ThreadPoolExecutor(_AT_ONCE, thread_name_prefix="doctor") as pool:
            looks = pool.map(lambda uuid: self.look_at(uuid, ask_hypervisor=asks, deep=deep), uuids)
            busy: list[BusyVm] = []
            for uuid, (more, occupied) in zip(uuids, looks, strict=True):
                found += more
                if occupied is not None:
                    busy.append(BusyVm(uuid, names.get(uuid, ""), occupied.kind, occupied.started_at))
        # a file that stands on a busy VM's layer says nothing about it: its operation may not have come to its rows yet
        found += find_orphans(self._world, self._cluster)
        return Report(_sorted(found), tuple(busy), len(uuids) - len(busy), deep)

    def look_at(
        self, vm_uuid: str, *, ask_hypervisor: bool, deep: bool, own_operation: str = ""
    ) -> tuple[list[Finding], OperationRow | None]:
        """One VM's findings; or the operation that kept it from being looked at.

        ``own_operation``: the caller's own, which does not count.
        """
        occupied: OperationRow | None = None
        for _ in range(_TRIES):
            before = read_vm(self._world, vm_uuid, without=own_operation)
            if before.occupied is not None:
                return [], before.occupied
            found = examine(self._world, before, ask_hypervisor=ask_hypervisor, deep=deep)
            after = read_vm(self._world, vm_uuid, without=own_operation)
            if after.occupied is None and (after.newest, after.left) == (before.newest, before.left):
                return found, None
            with self._world.metadata.read() as tx:
                occupied = after.occupied or tx.journal.get(after.newest)
        return [], occupied

    def _known_vms(self) -> tuple[list[Vm] | None, list[Finding]]:
        try:
            vms = self._world.inventory.list_vms()
        except StillframeError as error:
            return None, [Finding(FindingKind.NOT_LOOKED_AT, desc=f"libvirt: {describe(error)}")]
        with self._world.metadata.read() as tx:
            known = set(tx.layers.vm_uuids())
        # one that has rows says so itself
        unreadable = [vm for vm in vms if vm.unreadable and vm.uuid not in known]
        return vms, [
            Finding(FindingKind.NOT_LOOKED_AT, vm_uuid=vm.uuid, vm_name=vm.name, desc=vm.unreadable)
            for vm in unreadable
        ]

    def _vms_to_look_at(self, vms: Collection[Vm]) -> list[str]:
        """Those with rows, with something unfinished, or with a disk where only our layers lie."""
        with self._world.metadata.read() as tx:
            unfinished = [*tx.journal.active(), *tx.journal.left()]
            uuids = {*tx.layers.vm_uuids(), *(row.vm_uuid for row in unfinished)}
        return sorted(uuids | {vm.uuid for vm in vms if _stands_on_ours(vm)})


def _stands_on_ours(vm: Vm) -> bool:
    return any(is_our_directory(disk.path.rpartition("/")[0].rpartition("/")[2]) for disk in file_disks(vm))


def _sorted(found: Collection[Finding]) -> tuple[Finding, ...]:
    """By VM, those of none last; the order within one VM and kind stays, since it may matter."""
    return tuple(
        sorted(found, key=lambda one: (not one.vm_uuid, one.vm_name, one.vm_uuid, list(FindingKind).index(one.kind)))
    )
