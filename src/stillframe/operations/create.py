"""Create: fix disks, configuration and, if asked, memory of one moment, and publish it.

Order of writes: overlays and an empty memory file, durable -> the moment itself (a pause of milliseconds; nothing of
ours is written in it) -> frozen layers and screenshot durable -> one transaction publishes the snapshot and, with
memory, opens the operation that saves it.

Point of no return: the publishing transaction. Before it everything is taken back: the capture is cancelled, the disks
go back to the frozen files together with all that was written since, overlays and memory file go.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from json import dumps

from stillframe.domain import rules
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.domain.layers import Layer, Volume
from stillframe.domain.quota import Demand, check_count
from stillframe.domain.snapshot import CaptureMode, DiskSnapshot, MemoryState, MemoryStatus, Snapshot
from stillframe.domain.vm import Vm
from stillframe.operations import save_memory, work
from stillframe.operations.checksum import text_checksum
from stillframe.operations.detail import inspect_with_volumes
from stillframe.operations.disks import PlacedDisk, check_no_drift, check_place, layer_path, place_disks, whole_chain
from stillframe.operations.quotas import measured, memory_open, most_snapshots
from stillframe.operations.requests import Cluster
from stillframe.operations.rows import About, new_row, planned
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import World
from stillframe.ports.hypervisor import DiskSwitch, PointInTime, PointRequest
from stillframe.ports.metadata import Slot, Transaction

KIND = "create"
_TAKEN_BACK = ": the disk may have left its overlay"  # a mark inside of the undo
_MEMORY_HEADROOM_BYTES = 64 << 20  # device state, screen memory and firmware beside the guest's own RAM


@dataclass(frozen=True)
class DiskPlan:
    """One disk: ``frozen`` becomes the snapshot's layer, ``overlay`` the new head."""

    volume: Volume
    frozen: Layer
    overlay: Layer
    known: bool
    disk_snapshot_uuid: str
    capacity_bytes: int = 0
    frozen_bytes: int = 0  # what it occupies when this is planned


@dataclass(frozen=True)
class CreatePlan:
    """All that the steps, their undo and recovery need."""

    snapshot_uuid: str
    vm_uuid: str
    vm_was_running: bool
    name: str
    description: str
    parent_uuid: str | None
    tenant: str
    tenant_name: str
    namespace: str
    vm_detail: str
    memory_bytes: int
    memory_uuid: str | None
    memory_path: str | None
    disks: tuple[DiskPlan, ...]
    vm_name: str = ""
    operation_uuid: str = ""

    @property
    def demand(self) -> Demand:
        """What it adds to its tenant's use, at most: a head's file becomes a layer."""
        return Demand(
            vm_uuid=self.vm_uuid,
            tenant=self.tenant,
            space_bytes=sum(disk.frozen_bytes for disk in self.disks),
            memory_bytes=self.memory_file_bytes if self.memory_uuid else 0,
            capacity_bytes=sum(disk.capacity_bytes for disk in self.disks),
        )

    @property
    def memory_file_bytes(self) -> int:
        """The most that the memory file can have."""
        return self.memory_bytes + _MEMORY_HEADROOM_BYTES

    @property
    def request(self) -> PointRequest:
        return PointRequest(
            vm_uuid=self.vm_uuid,
            vm_was_running=self.vm_was_running,
            switches=tuple(
                DiskSwitch(d.volume.target, d.frozen.path, d.frozen.format, d.overlay.path) for d in self.disks
            ),
            memory_path=self.memory_path,
            want_screenshot=self.memory_path is not None,
        )


def plan_create(
    world: World,
    cluster: Cluster,
    vm: Vm,
    name: str,
    description: str,
    *,
    domain_memory: bool,
    operation_uuid: str,
) -> CreatePlan:
    """Every rule checked, every uuid drawn; no side effect.

    Raises:
        Refused: the rule that says no.
    """
    rules.check_persistent(vm)
    rules.check_disks(vm)
    rules.check_no_pending_disks(vm)
    rules.check_no_managed_save(vm)
    with world.metadata.read() as tx:
        snapshots = tx.snapshots.of_vm(vm.uuid)
        _nodes, head_uuid = tx.snapshots.nodes(vm.uuid)
        volumes, layers = tx.layers.volumes(vm.uuid), tx.layers.layers(vm.uuid)
        limits = tx.quotas.limits(vm.tenant)
    check_count(vm.described, len(snapshots), most_snapshots(world, limits))
    rules.check_name_free(vm, name, [snapshot.name for snapshot in snapshots])
    if domain_memory:
        rules.check_memory_capture(vm, space_open=memory_open(world, limits))
        rules.check_nothing_saving(vm, snapshots)
    placed = place_disks(vm, cluster.uuid, volumes, layers)
    check_no_drift(world, vm, placed, layers)
    for disk in placed:
        depth = len(whole_chain(world, vm, disk.disk.target, disk.layer))
        rules.check_depth(vm, disk.disk.target, depth, world.limits.max_chain_depth)
        check_place(world, vm, disk.volume)
    memory_uuid = world.new_uuid() if domain_memory else None
    detail = inspect_with_volumes(world, cluster, vm, placed)
    return CreatePlan(
        snapshot_uuid=world.new_uuid(),
        vm_uuid=vm.uuid,
        vm_was_running=vm.state.is_running,
        name=name,
        description=description,
        parent_uuid=head_uuid,
        tenant=vm.tenant,
        tenant_name=vm.tenant_name,
        namespace=vm.namespace,
        vm_detail=dumps(asdict(detail), ensure_ascii=False),
        memory_bytes=vm.memory_bytes,
        memory_uuid=memory_uuid,
        memory_path=world.memory_store.capture_path(memory_uuid) if memory_uuid else None,
        disks=tuple(_plan_disk(world, disk) for disk in placed),
        vm_name=vm.name,
        operation_uuid=operation_uuid,
    )


def _plan_disk(world: World, placed: PlacedDisk) -> DiskPlan:
    overlay_uuid = world.new_uuid()
    overlay = Layer(
        uuid=overlay_uuid,
        volume_uuid=placed.volume.uuid,
        parent_uuid=placed.layer.uuid,
        path=layer_path(placed.volume, overlay_uuid),
        format="qcow2",
        foreign=False,
    )
    info = world.volumes.probe_image(placed.layer.path, placed.layer.format)
    if info is None:
        raise Failed(ErrorCase.STORAGE_FAILED, f"{placed.layer.path} does not exist")
    return DiskPlan(
        volume=placed.volume,
        frozen=placed.layer,
        overlay=overlay,
        known=placed.known,
        disk_snapshot_uuid=world.new_uuid(),
        capacity_bytes=info.virtual_bytes,
        frozen_bytes=info.disk_bytes,
    )


def _make_overlays(world: World, plan: CreatePlan, _scratch: Scratch) -> None:
    for disk in plan.disks:
        world.volumes.ensure_overlay(disk.overlay.path, disk.frozen.path, disk.frozen.format)


def _drop_overlays(world: World, plan: CreatePlan) -> None:
    for disk in plan.disks:
        world.volumes.ensure_dropped(disk.overlay.path)


def _make_memory_file(world: World, plan: CreatePlan, _scratch: Scratch) -> None:
    if plan.memory_uuid is not None:
        world.memory_store.ensure_capture_file(plan.memory_uuid, plan.memory_file_bytes)


def _drop_memory_file(world: World, plan: CreatePlan) -> None:
    if plan.memory_uuid is not None:
        world.memory_store.ensure_dropped(plan.memory_uuid)


def _fix_point(world: World, plan: CreatePlan, scratch: Scratch) -> None:
    point = scratch["point"] = world.fixer.fix_point(plan.request)
    if point.pause_us and point.capture_mode is not None:
        world.instruments.guest_paused(plan.operation_uuid, point.capture_mode.value, point.pause_us / 1e6)


def _abandon_point(world: World, plan: CreatePlan) -> None:
    """Every disk is on its frozen file again, with what was written since, whether the VM runs or not.

    Raises:
        Failed: DISK_DRIFTED when somebody else has taken a disk off its overlay: what was written there is kept.
    """

    def mark(target: str) -> None:
        work.mark(world.metadata, plan.operation_uuid, target + _TAKEN_BACK)

    world.fixer.abandon_point(plan.request, mark)
    vm = world.inventory.get_vm(plan.vm_uuid)
    path_of = {disk.target: disk.path for disk in vm.disks}
    moved = [disk for disk in plan.disks if path_of.get(disk.volume.target) == disk.overlay.path]
    if moved and not vm.state.has_process:
        # a state that was saved since belongs to the overlays: it could never come back without them
        rules.check_no_managed_save(vm)
        for disk in moved:
            world.volumes.ensure_committed(disk.overlay.path, disk.frozen.path)
            mark(disk.volume.target)
        back = {disk.volume.target: (disk.frozen.path, disk.frozen.format) for disk in moved}
        world.fixer.switch_definition(plan.vm_uuid, back)
    for disk in plan.disks:
        _check_taken_back(world, plan, vm, disk)


def _check_taken_back(world: World, plan: CreatePlan, vm: Vm, disk: DiskPlan) -> None:
    target, overlay = disk.volume.target, disk.overlay.path
    taken_back = work.is_marked(world.metadata, plan.operation_uuid, target + _TAKEN_BACK)
    if not taken_back and world.volumes.probe_written(overlay):
        raise Failed(
            ErrorCase.DISK_DRIFTED,
            f"disk {target} of {vm.described} is not on {overlay} any more, where it was written to last, and that was "
            "not merged: it is kept; let its definition name that file",
        )


def _make_durable(world: World, plan: CreatePlan, scratch: Scratch) -> None:
    point: PointInTime = scratch["point"]
    for disk in plan.disks:
        world.volumes.ensure_durable(disk.frozen.path)
    scratch["frozen_bytes"] = {d.frozen.uuid: measured(world, d.frozen.path) for d in plan.disks}
    scratch["screenshot_checksum"] = ""
    if point.screenshot_png:
        scratch["screenshot_checksum"] = world.memory_store.put_screenshot(plan.snapshot_uuid, point.screenshot_png)


def _drop_screenshot(world: World, plan: CreatePlan) -> None:
    world.memory_store.drop_screenshot(plan.snapshot_uuid)


def _publish(world: World, plan: CreatePlan, scratch: Scratch) -> None:
    """The row that opens the saving of memory is drawn before the transaction, which does no I/O."""
    point: PointInTime = scratch["point"]
    if plan.memory_uuid is None or plan.memory_path is None:
        scratch["saving"] = None
        return
    saving = save_memory.SaveMemoryPlan(
        vm_uuid=plan.vm_uuid,
        snapshot_uuid=plan.snapshot_uuid,
        memory=MemoryState(
            uuid=plan.memory_uuid,
            location=world.memory_store.location(plan.memory_uuid),
            status=MemoryStatus.SAVING,
            mode=point.capture_mode or CaptureMode.BACKGROUND,
            reason=point.fallback_reason,
        ),
        memory_path=plan.memory_path,
        runtime_xml=point.runtime_xml,
        runtime_cookie=point.runtime_cookie,
    )
    about = About(plan.vm_uuid, plan.vm_name, plan.tenant, plan.name)
    row = new_row(world, about, Slot.MEMORY, save_memory.KIND)
    scratch["saving"] = (planned(row, save_memory.OPERATION.encode(saving)), saving)


def _record(tx: Transaction, plan: CreatePlan, scratch: Scratch) -> None:
    point: PointInTime = scratch["point"]
    for disk in plan.disks:
        if not disk.known:
            # the head layer's row must exist before its volume names it
            tx.layers.insert_volume(replace(disk.volume, head_layer_uuid=disk.frozen.uuid))
            tx.layers.insert_layer(disk.frozen)
        tx.layers.insert_layer(disk.overlay)
        tx.layers.set_head(disk.volume.uuid, disk.overlay.uuid)
    saving: tuple[object, save_memory.SaveMemoryPlan] | None = scratch["saving"]
    scratch["snapshot"] = tx.snapshots.insert(
        Snapshot(
            uuid=plan.snapshot_uuid,
            vm_uuid=plan.vm_uuid,
            seq=0,
            name=plan.name,
            description=plan.description,
            parent_uuid=plan.parent_uuid,
            ctime=int(point.taken_at_s),
            tenant=plan.tenant,
            tenant_name=plan.tenant_name,
            namespace=plan.namespace,
            vm_detail=plan.vm_detail,
            definition_xml=point.definition_xml,
            definition_checksum=text_checksum(point.definition_xml),
            disks=tuple(
                DiskSnapshot(d.disk_snapshot_uuid, d.volume.uuid, d.frozen.uuid, d.volume.target) for d in plan.disks
            ),
            memory=saving[1].memory if saving else None,
            screenshot_checksum=scratch["screenshot_checksum"],
            operation_uuid=plan.operation_uuid,
        )
    )
    for layer_uuid, size_bytes in scratch["frozen_bytes"].items():
        tx.quotas.set_layer_bytes(layer_uuid, size_bytes)
    tx.quotas.set_vm(plan.vm_uuid, plan.tenant, {d.volume.uuid: d.capacity_bytes for d in plan.disks})
    # what was reserved is in rows now; the memory's share goes on to the operation that saves it
    tx.quotas.release(plan.operation_uuid)
    if scratch["saving"] is not None:
        row = scratch["saving"][0]
        tx.journal.open(row)
        tx.quotas.reserve(row.uuid, replace(plan.demand, space_bytes=0))


def steps(_plan: CreatePlan) -> tuple[Step[CreatePlan], ...]:
    return (
        Step("make overlays", _make_overlays, _drop_overlays),
        Step("make memory file", _make_memory_file, _drop_memory_file),
        Step("fix the point in time", _fix_point, _abandon_point),
        Step("make durable", _make_durable, _drop_screenshot),
        Step("publish", _publish, record=_record, commits=True),
    )


FAMILIES = (
    "make overlays",
    "make memory file",
    "fix the point in time",
    "make durable",
    "publish",
)
OPERATION = Operation(KIND, Slot.EXCLUSIVE, CreatePlan, steps, FAMILIES, "publish")
