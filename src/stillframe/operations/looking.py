"""The calls that change nothing, each as one blocking method, and how a VM is found for whoever asks."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Collection
from typing import TypeVar

from stillframe.domain.access import Principal
from stillframe.domain.compute import ComputeInspectInfo
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.snapshot import ShownSnapshot, Snapshot
from stillframe.domain.tree import SnapshotTree, build_tree
from stillframe.domain.vm import KnownVm, Vm
from stillframe.operations import links, rollback
from stillframe.operations.detail import action_of, inspect_with_volumes
from stillframe.operations.disks import place_disks
from stillframe.operations.links import LinkSigner
from stillframe.operations.listing import list_vms
from stillframe.operations.log import Attempt
from stillframe.operations.overview import Consequences, Overview, consequences, overview
from stillframe.operations.requests import Cluster, SnapshotPage, VmPage, VmQuery, VmRef
from stillframe.operations.world import World

V = TypeVar("V", Vm, KnownVm)


class Looking:
    """All raise ``StillframeError`` and nothing else on purpose. Safe from many threads."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        self.world = world
        self.cluster = cluster

    def list_snapshots(
        self, ref: VmRef, name_part: str, page_number: int, page_size: int, viewer: Principal
    ) -> SnapshotPage:
        """Newest first, then by name; ``page_size`` <= 0 means everything."""
        vm = self._known(ref, viewer)
        offset, limit = (page_number * page_size, page_size) if page_size > 0 else (0, None)
        with self.world.metadata.read() as tx:
            found, total = tx.snapshots.page(vm.uuid, name_part, offset, limit)
        return SnapshotPage(tuple(found), total)

    def get_snapshot(self, ref: VmRef, name: str, viewer: Principal) -> ShownSnapshot:
        vm = self._known(ref, viewer)
        with self.world.metadata.read() as tx:
            return rollback.check_known(tx.snapshots.shown_by_name(vm.uuid, nfc(name)), vm, name)

    def head_snapshot(self, ref: VmRef, viewer: Principal) -> ShownSnapshot | None:
        """The snapshot that the VM's current state descends from; None for a VM without snapshots."""
        vm = self._known(ref, viewer)
        with self.world.metadata.read() as tx:
            return tx.snapshots.shown_head(vm.uuid)

    def tree(self, ref: VmRef, viewer: Principal) -> SnapshotTree:
        vm = self._known(ref, viewer)
        with self.world.metadata.read() as tx:
            nodes, head_uuid = tx.snapshots.nodes(vm.uuid)
        return build_tree(vm.uuid, nodes, head_uuid)

    def power_state(self, ref: VmRef, viewer: Principal) -> str:
        return self._vm(ref, viewer).state.value

    def overview(self, ref: VmRef, fold: bool, opened: Collection[str], viewer: Principal) -> Overview:
        """The tree as people see it, laid out."""
        return overview(self.world, self._vm(ref, viewer), fold=fold, opened=opened)

    def consequences(self, ref: VmRef, name: str, viewer: Principal) -> Consequences:
        """What a rollback to the snapshot, or its deletion, would cost now."""
        vm = self._vm(ref, viewer)
        return consequences(self.world, self.cluster, vm, self._snapshot(vm, name))

    def screenshot(self, snapshot_uuid: str, viewer: Principal) -> bytes:
        with self.world.metadata.read() as tx:
            snapshot = tx.snapshots.by_uuid(snapshot_uuid)
        # libvirt is asked in any case: one that is away must not tell whether there is such a snapshot
        vm = self._seen(self.world.inventory.find_vm, snapshot.vm_uuid if snapshot else snapshot_uuid, viewer)
        return self._picture(snapshot_uuid, snapshot if vm is not None else None)

    def screenshot_by_link(self, snapshot_uuid: str, expires: str, signature: str) -> tuple[int, bytes]:
        """For how many seconds the link is still good, and the picture."""
        good_s = links.check_link(self.world, links.SCREENSHOT, snapshot_uuid, expires, signature)
        with self.world.metadata.read() as tx:
            snapshot = tx.snapshots.by_uuid(snapshot_uuid)
        return good_s, self._picture(snapshot_uuid, snapshot)

    def _picture(self, snapshot_uuid: str, snapshot: Snapshot | None) -> bytes:
        png = None
        if snapshot is not None and snapshot.screenshot_checksum:
            png = self.world.memory_store.get_screenshot(snapshot_uuid, snapshot.screenshot_checksum)
        if png is None:
            raise Refused(ErrorCase.SNAPSHOT_UNKNOWN, f"no screenshot of a snapshot {snapshot_uuid}")
        return png

    def link_signer(self) -> LinkSigner:
        return links.signer(self.world)

    def list_vms(self, query: VmQuery, viewer: Principal) -> VmPage:
        return list_vms(self.world, self.cluster, query, viewer)

    def inspect(self, ref: VmRef, viewer: Principal) -> ComputeInspectInfo:
        vm = self._vm(ref, viewer)
        with self.world.metadata.read() as tx:
            volumes, layers = tx.layers.volumes(vm.uuid), tx.layers.layers(vm.uuid)
            active = tx.journal.active([vm.uuid])
        try:
            placed = place_disks(vm, self.cluster.uuid, volumes, layers)
        except Refused:
            placed = ()  # a drifted disk can still be looked at; snapshots of it say what is wrong
        return inspect_with_volumes(self.world, self.cluster, vm, placed, action_of(active))

    # --- finding what is meant -----------------------------------------------------------------------------------

    def _vm(self, ref: VmRef, viewer: Principal, attempt: Attempt | None = None) -> Vm:
        """The VM, which exists for the viewer.

        Raises:
            Refused: VM_UNKNOWN, in the same words and from the same line whether there is none or it is another's.
        """
        vm = self._checked(ref, self.world.inventory.find_vm, viewer)
        if attempt is not None:
            attempt.vm_name, attempt.tenant = vm.name, vm.tenant
        return vm

    def _known(self, ref: VmRef, viewer: Principal) -> KnownVm:
        """The same of who only reads its snapshots."""
        return self._checked(ref, self.world.inventory.know_vm, viewer)

    def _checked(self, ref: VmRef, find: Callable[[str], V], viewer: Principal) -> V:
        self._check_cluster(ref.cluster_uuid)
        vm = self._seen(find, ref.compute_uuid, viewer)
        if vm is None:
            raise Refused(ErrorCase.VM_UNKNOWN, f"VM {ref.compute_uuid}")
        if ref.tenant and ref.tenant != vm.tenant:
            raise Refused(ErrorCase.TENANT_WRONG, f"{vm.described} does not belong to tenant {ref.tenant}")
        return vm

    def _seen(self, find: Callable[[str], V], vm_uuid: str, viewer: Principal) -> V | None:
        """What ``find`` finds; None when there is no such VM for the viewer.

        Whose it is is asked first, in a way that nothing under way on the VM can hold up: how another's VM is, and that it
        hangs, is not for the viewer to feel or to read. It is asked anew each time and nothing is remembered, so an
        assignment counts from the next request on. Only then is the VM itself waited for, and whose it is is judged once
        more by what was read: it may have been given away meanwhile.
        """
        try:
            if viewer.bound is not None and not viewer.sees(self.world.inventory.tenant_of(vm_uuid)):
                return None
            vm = find(vm_uuid)
        except Refused as refusal:
            if refusal.case is not ErrorCase.VM_UNKNOWN:
                raise
            return None
        if not viewer.sees(vm.tenant):
            return None
        vm.check_readable()
        return vm

    def _check_cluster(self, cluster_uuid: str) -> None:
        if cluster_uuid and cluster_uuid != self.cluster.uuid:
            raise Refused(ErrorCase.CLUSTER_UNKNOWN, f"cluster {cluster_uuid}")

    def _snapshot(self, vm: Vm, name: str) -> Snapshot:
        with self.world.metadata.read() as tx:
            return rollback.check_known(tx.snapshots.by_name(vm.uuid, nfc(name)), vm, name)


def nfc(name: str) -> str:
    """As names are stored."""
    return unicodedata.normalize("NFC", name)
