"""Merging a layer that nobody refers to with its only child, while the VM runs or not; taken up again wherever it was cut off.

Downwards the child (``top``) is committed into the loose layer (``base``). Reads through ``top`` give the same at every
instant, because top's own data hides base's. In this order: data committed and durable -> every other child of top
backs on base -> one transaction gives top's references to base -> top's file goes.

Upwards what the loose layer adds is pulled into the child. Reads through ``top`` give the same at every instant, because it
gets what it reads anyway. In this order: what top lacked is in it, durable -> top backs on base's parent, durable -> one
transaction says so -> base's file goes. Nothing that refers to top or backs on it changes.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from stillframe.domain import rules
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.domain.layers import Layer
from stillframe.domain.vm import SourceKind, Vm
from stillframe.operations.disks import check_unused
from stillframe.operations.quotas import measured
from stillframe.operations.steps import Scratch, Step
from stillframe.operations.work import Work
from stillframe.operations.world import World
from stillframe.ports.hypervisor import MergeProgress, PullRequest
from stillframe.ports.metadata import Transaction

log = logging.getLogger(__name__)

COMMIT = ": commit"
PULL = ": pull"
SWITCH = ": the disk may have left its layer"  # a mark inside of the commit
MERGE_FAMILIES = (
    f"merge *{COMMIT}",
    "merge *: repoint",
    f"merge *{PULL}",
    "merge *: record",
    "merge *: drop",
)


@dataclass(frozen=True)
class MergePlan:
    """``top``'s data goes down into ``base``; ``children`` back on top.

    With ``parent``, which ``base`` backs on, base's data goes up into top instead. Plans of older versions have none.
    """

    top: Layer
    base: Layer
    children: tuple[Layer, ...]
    parent: Layer | None = None

    @property
    def source(self) -> Layer:
        """Whose data is copied, and whose file goes."""
        return self.top if self.parent is None else self.base

    @property
    def goal(self) -> Layer:
        """What holds both afterwards."""
        return self.base if self.parent is None else self.top


def merge_steps(number: int, vm_uuid: str, merge: MergePlan) -> tuple[Step[Any], ...]:
    """The steps of the ``number``-th merge of a plan."""
    measuring = f"bytes of {merge.goal.uuid}"

    def measure(world: World, _plan: Any, scratch: Scratch) -> None:
        scratch[measuring] = measured(world, merge.goal.path)

    def record(tx: Transaction, _plan: Any, scratch: Scratch) -> None:
        if merge.parent is None:
            tx.layers.record_merge(merge.top.uuid, merge.base.uuid)
        else:
            tx.layers.record_pull(merge.base.uuid)
        tx.quotas.set_layer_bytes(merge.goal.uuid, scratch[measuring])

    def drop(world: World, _plan: Any, _scratch: Scratch) -> None:
        if not merge.source.foreign:
            check_unused(world, vm_uuid, merge.source.path)
            world.volumes.ensure_dropped(merge.source.path)

    copy = _commit_steps if merge.parent is None else _pull_steps
    return (
        *copy(number, vm_uuid, merge),
        Step(f"merge {number}: record", measure, record=record),
        Step(f"merge {number}: drop", drop),
    )


def _commit_steps(number: int, vm_uuid: str, merge: MergePlan) -> tuple[Step[Any], ...]:
    def commit(world: World, _plan: Any, scratch: Scratch) -> None:
        mark = f"merge {number}{SWITCH}"
        _whether_it_runs_or_not(lambda: _commit_once(world, vm_uuid, merge, scratch.work, mark))
        _tell_merged(world, merge)

    def repoint(world: World, _plan: Any, _scratch: Scratch) -> None:
        for child in merge.children:
            info = world.volumes.probe_image(child.path, child.format)
            if info is None:
                raise Failed(ErrorCase.STORAGE_FAILED, f"{child.path} does not exist")
            # a child in the running chain was repointed by QEMU, which holds it open
            if info.backing_path != merge.base.path:
                world.volumes.ensure_backing(child.path, merge.base.path, merge.base.format)

    return Step(f"merge {number}{COMMIT}", commit, weight=20), Step(f"merge {number}: repoint", repoint)


def _pull_steps(number: int, vm_uuid: str, merge: MergePlan) -> tuple[Step[Any], ...]:
    def pull(world: World, _plan: Any, scratch: Scratch) -> None:
        _whether_it_runs_or_not(lambda: _pull_once(world, vm_uuid, merge, scratch.work))
        _tell_merged(world, merge)

    return (Step(f"merge {number}{PULL}", pull, weight=20),)


def _tell_merged(world: World, merge: MergePlan) -> None:
    try:
        world.instruments.merged(world.volumes.probe_size(merge.source.path) or 0)
    except StillframeError as error:
        # a figure alone: whether the storage can go on is the next step's business
        log.warning("what was merged of %s could not be measured: %s", merge.source.path, error)


def _whether_it_runs_or_not(act: Callable[[], None]) -> None:
    """A VM that goes off in the middle of a live merge does not end it: it is begun anew without QEMU."""
    for last in (False, False, True):
        try:
            act()
        except StillframeError as error:
            if last or error.case is not ErrorCase.VM_NOT_RUNNING:
                raise
            log.warning("%s", error.desc)
        else:
            return


def _commit_once(world: World, vm_uuid: str, merge: MergePlan, work: Work, mark: str) -> None:
    """``merge.base`` holds all of ``merge.top``, and the VM's disk is off ``top`` if it was on it.

    ``mark`` is left before the VM's disk leaves ``top``.
    """
    vm = world.inventory.get_vm(vm_uuid)
    head = _head(world, vm_uuid, merge)
    target, files = _position(world, vm, (head, merge.top.path, merge.base.path))
    has_switched = head == merge.top.path and merge.base.path in files and work.is_marked(mark)
    if not has_switched:
        # only a merge that went as far as its mark takes the VM off its head: else somebody else has
        _check_on_its_head(vm, head, target, files)
    # QEMU may have merged them before we were interrupted: then base is in its chain and top no more, and only what it
    # still holds open is let go. On another branch than the guest's it has neither, and knows nothing of them.
    if _holds_either(vm, merge, files):
        world.fixer.commit_live(
            vm_uuid, target, merge.top.path, merge.base.path, _teller(work), on_switch=lambda _target: work.mark(mark)
        )
    elif has_switched:
        return  # the base's data may be newer by now
    else:
        # a state that was saved since the plan was made belongs to the files of its moment
        rules.check_no_managed_save(vm)
        world.volumes.ensure_committed(merge.top.path, merge.base.path, _teller(work))
        if merge.top.path in files:
            work.mark(mark)
            world.fixer.switch_definition(vm_uuid, {target: (merge.base.path, merge.base.format)})
    world.volumes.ensure_durable(merge.base.path)


def _pull_once(world: World, vm_uuid: str, merge: MergePlan, work: Work) -> None:
    """``merge.top`` holds all that it reads of ``merge.base`` and backs on ``merge.parent``, in its header and in QEMU."""
    vm = world.inventory.get_vm(vm_uuid)
    head = _head(world, vm_uuid, merge)
    target, files = _position(world, vm, (head, merge.top.path, merge.base.path))
    _check_on_its_head(vm, head, target, files)
    if _holds_either(vm, merge, files):
        _check_can_take_in(vm, merge, target, files)
        _pull_live(world, vm_uuid, merge, target, work)
    else:
        rules.check_no_managed_save(vm)  # as in a commit
        parent = _parent(merge)
        world.volumes.ensure_pulled(merge.top.path, merge.base.path, parent.path, parent.format, _teller(work))
    world.volumes.ensure_durable(merge.top.path)
    _check_on_its_parent(world, merge)


def _pull_live(world: World, vm_uuid: str, merge: MergePlan, target: str, work: Work) -> None:
    parent = _parent(merge)
    request = PullRequest(target, merge.top.path, merge.base.path, parent.path, parent.format)
    if merge.base.path in world.inventory.active_chain(vm_uuid, target):
        world.fixer.pull_live(vm_uuid, request, _teller(work))
        # before anything leads past base: what the file says itself counts, not what QEMU keeps in its memory
        world.volumes.ensure_durable(merge.top.path)
        if not world.volumes.probe_pulled(merge.top.path, merge.base.path):
            raise Failed(
                ErrorCase.STORAGE_FAILED,
                f"QEMU did not write all of {merge.base.path} to {merge.top.path}; nothing is lost",
            )
    world.fixer.leave_live(vm_uuid, request)


def _check_can_take_in(vm: Vm, merge: MergePlan, target: str, files: tuple[str, ...]) -> None:
    """Libvirt pulls only into the file that the guest writes to."""
    if merge.base.path in files and files[0] != merge.top.path:
        raise Failed(
            ErrorCase.VM_NOT_SHUTOFF,
            f"{vm.described} was started meanwhile, and reads disk {target} through {merge.top.path}, which can take in "
            f"{merge.base.path} only while the VM is off: it is done then, or by the next delete in another way",
        )


def _teller(work: Work) -> Callable[[MergeProgress], None]:
    def tell(now: MergeProgress) -> None:
        work.note(now.bytes_done, now.bytes_total)

    return tell


def _parent(merge: MergePlan) -> Layer:
    if merge.parent is None:
        raise Failed(ErrorCase.INTERNAL, f"{merge.base.path} has no parent and cannot be pulled")
    return merge.parent


def _holds_either(vm: Vm, merge: MergePlan, files: tuple[str, ...]) -> bool:
    """The running QEMU has one of the two open."""
    return vm.state.has_process and not {merge.top.path, merge.base.path}.isdisjoint(files)


def _check_on_its_head(vm: Vm, head: str, target: str, files: tuple[str, ...]) -> None:
    if files and head not in files:
        raise Failed(
            ErrorCase.DISK_DRIFTED,
            f"disk {target} of {vm.described} is on {files[0]}, but what was written last is in its head {head}: "
            "nothing was merged; let its definition name the head",
        )


def _check_on_its_parent(world: World, merge: MergePlan) -> None:
    """Nothing leads to the file that is about to go."""
    parent = _parent(merge)
    info = world.volumes.probe_image(merge.top.path, merge.top.format)
    if info is None or (info.backing_path, info.backing_format) != (parent.path, parent.format):
        found = f"backs on {info.backing_path} ({info.backing_format})" if info is not None else "does not exist"
        raise Failed(
            ErrorCase.STORAGE_FAILED, f"{merge.top.path} {found}, instead of backing on {parent.path} ({parent.format})"
        )


def _head(world: World, vm_uuid: str, merge: MergePlan) -> str:
    """The file that the merged layers' volume is to be written to."""
    with world.metadata.read() as tx:
        heads = [v.head_layer_uuid for v in tx.layers.volumes(vm_uuid) if v.uuid == merge.top.volume_uuid]
        return next(layer.path for layer in tx.layers.layers(vm_uuid) if layer.uuid in heads)


def _position(world: World, vm: Vm, paths: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    """The disk that is on any of these files, and what it reads through: of a VM that is off only the topmost file.

    By the file, not by a name that may have changed. ("", ()) when the VM has no such disk.
    """
    chains = _running_chains(world, vm) if vm.state.has_process else {disk.target: (disk.path,) for disk in vm.disks}
    return next(((target, files) for target, files in chains.items() if not set(files).isdisjoint(paths)), ("", ()))


def _running_chains(world: World, vm: Vm) -> dict[str, tuple[str, ...]]:
    """Target -> the files that the running QEMU reads it through."""
    return {
        disk.target: world.inventory.active_chain(vm.uuid, disk.target)
        for disk in vm.snapshot_disks
        if disk.source is SourceKind.FILE
    }
