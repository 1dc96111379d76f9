"""Operations that the world has overtaken: somebody started the VM on the overlays that one was about to give it.

What a guest writes there exists nowhere else. To undo the operation would throw it away; and where the guest runs is what
the operation was to bring. So it is carried forward instead, and that is said. Only one whose cancelling was promised is
neither undone nor finished: it is left, with everything kept, until somebody decides by hand.
"""

from __future__ import annotations

from collections.abc import Collection

from stillframe.domain import rules
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.domain.vm import Vm
from stillframe.operations.steps import Operation, P, Scratch
from stillframe.operations.wording import with_remark
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationState


def has_run_on(world: World, vm: Vm, overlays: Collection[str]) -> bool:
    """A guest is on these fresh overlays, or its VM's definition names them and it has left something there."""
    if vm.state.has_process:
        return any(disk.path in overlays for disk in vm.disks)
    named = any(disk.path in overlays for disk in vm.saved_disks)
    return named and any(world.volumes.probe_written(path) for path in overlays)


def why_not_undone(world: World, vm_uuid: str, overlays: Collection[str]) -> str:
    """Why an operation that made these overlays may not be undone any more, for people; "" when it may.

    Raises:
        Refused: POWER_STATE_WRONG, while a state waits that libvirt saved, and it cannot be told on which disks.
    """
    vm = world.inventory.get_vm(vm_uuid)
    if has_run_on(world, vm, overlays):
        return started_outside(vm, overlays)
    if not vm.state.has_process and any(disk.path in overlays for disk in vm.saved_disks):
        rules.check_no_managed_save(vm)
    return ""


def started_outside(vm: Vm, overlays: Collection[str]) -> str:
    """What a task says of such a guest."""
    files = ", ".join(sorted({disk.path for disk in (*vm.disks, *vm.saved_disks)}.intersection(overlays)))
    return f"{vm.described} was started from outside on its rolled-back disks; what the guest wrote is kept in {files}"


def drop_unwritten(world: World, overlays: Collection[str]) -> None:
    """The overlays' files are gone.

    Raises:
        Failed: DISK_DRIFTED for one that holds what a guest wrote; it stays, whatever the VM is on now.
    """
    for path in sorted(overlays):
        if world.volumes.probe_written(path):
            raise Failed(
                ErrorCase.DISK_DRIFTED,
                f"{path} was kept, because it holds what a guest wrote since it was made: move it away if nobody needs it",
            )
        world.volumes.ensure_dropped(path)


def carry_over(
    world: World, operation_uuid: str, operation: Operation[P], plan: P, told: Scratch, *, holds_slot: bool
) -> frozenset[str]:
    """Note the operation as past its point of no return, in one transaction; returns the steps that are done by that.

    ``told.remark`` says why, as ``Operation.overtaken`` did. ``holds_slot`` is false where the VM's slot is the caller's.

    Raises:
        Failed: LEFT_BEHIND when its cancelling was accepted: then it may not commit. Nothing is noted.
    """
    done: set[str] = set()
    with world.metadata.write() as tx:
        row = tx.journal.get(operation_uuid)
        if row is None or row.cancel_requested:
            raise Failed(
                ErrorCase.LEFT_BEHIND,
                f"it was cancelled, but {told.remark}. It is undone when the virtual machine is shut off, its definition "
                "names the disks of before (virsh edit), and the files that the guest wrote are moved away",
            )
        for step in operation.steps_of(plan):
            if step.record is not None and step.name not in row.steps_done:
                step.record(tx, plan, told)
            tx.journal.step_done(operation_uuid, step.name, committed=False)
            done.add(step.name)
            if step.commits:
                break
        if holds_slot:
            tx.journal.set_state(operation_uuid, OperationState.COMMITTED, at=int(world.now_s()))
        tx.journal.set_error(operation_uuid, with_remark("", told.remark))
    return frozenset(done)
