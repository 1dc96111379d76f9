"""May this be done? Pure checks that say yes by returning, or why not by raising ``Refused``."""

from __future__ import annotations

import posixpath
import unicodedata
from collections.abc import Sequence

from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.snapshot import MemoryStatus, Snapshot
from stillframe.domain.tree import HEAD
from stillframe.domain.vm import Disk, SourceKind, Vm

NAME_MAX_CHARS = 128
DESCRIPTION_MAX_CHARS = 4096
SUPPORTED_FORMATS = ("qcow2", "raw")


def _is_control(char: str) -> bool:
    # Cc control, Cs lone surrogate (cannot be encoded), Zl/Zp line and paragraph separators
    return unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp")


def normalise_name(raw: str) -> str:
    """The NFC form of a new snapshot's name.

    Raises:
        Refused: NAME_ILLEGAL, with what is wrong.
    """
    name = unicodedata.normalize("NFC", raw)
    if not name:
        raise Refused(ErrorCase.NAME_ILLEGAL, "name is empty")
    if len(name) > NAME_MAX_CHARS:
        raise Refused(ErrorCase.NAME_ILLEGAL, f"name has {len(name)} characters; at most {NAME_MAX_CHARS} are allowed")
    if name == HEAD:
        raise Refused(ErrorCase.NAME_ILLEGAL, 'name "head" stands for the current state in the tree')
    if "/" in name:
        raise Refused(ErrorCase.NAME_ILLEGAL, 'name contains "/"')
    if any(_is_control(char) for char in name):
        raise Refused(ErrorCase.NAME_ILLEGAL, "name contains a control character")
    return name


def check_description(description: str) -> str:
    """The description as given, when it can be stored.

    Raises:
        Refused: PARAMETER_MALFORMED.
    """
    if len(description) > DESCRIPTION_MAX_CHARS:
        raise Refused(
            ErrorCase.PARAMETER_MALFORMED,
            f"description has {len(description)} characters; at most {DESCRIPTION_MAX_CHARS} are allowed",
        )
    if any(c == "\0" or unicodedata.category(c) == "Cs" for c in description):
        raise Refused(ErrorCase.PARAMETER_MALFORMED, "description contains a character that is not text")
    return description


def why_disk_unsupported(disk: Disk) -> str:
    """Why this disk cannot be snapshotted, or "" when it can."""
    if disk.source is SourceKind.EMPTY:
        return "it has no source"
    if disk.device == "lun" or disk.source is SourceKind.PASSTHROUGH:
        return "it is passed through to the guest (LUN)"
    if disk.source is not SourceKind.FILE:
        return f"its source is of kind {disk.source.value}; only image files are supported"
    if disk.format not in SUPPORTED_FORMATS:
        return f"its format is {disk.format or 'unknown'}; only qcow2 and raw are supported"
    if why := _why_path_unsupported(disk.path):
        return why
    if disk.encrypted:
        return "it is encrypted"
    if disk.shareable:
        return "it is shared with other virtual machines"
    if disk.transient:
        return "it is transient"
    if disk.read_only:
        return "it is read-only"
    return ""


def _why_path_unsupported(path: str) -> str:
    if not path.startswith("/"):
        return "its path is not absolute"
    if any(_is_control(char) for char in path):
        return "its path contains a control character"
    if path != posixpath.normpath(path):
        return "its path is not in its plain form (it contains '..', '.' or '//')"
    return ""


def check_disks(vm: Vm) -> None:
    """Every disk of the VM can be snapshotted, and there is at least one.

    Raises:
        Refused: DISK_UNSUPPORTED, naming each disk and its reason.
    """
    reasons = [f"disk {d.target} ({d.path}): {why}" for d in vm.snapshot_disks if (why := why_disk_unsupported(d))]
    if reasons:
        raise Refused(ErrorCase.DISK_UNSUPPORTED, f"{vm.described}: " + "; ".join(reasons))
    if not vm.snapshot_disks:
        raise Refused(ErrorCase.DISK_UNSUPPORTED, f"{vm.described} has no disk")


def check_persistent(vm: Vm) -> None:
    if not vm.persistent:
        raise Refused(ErrorCase.VM_TRANSIENT, vm.described)


def check_no_pending_disks(vm: Vm) -> None:
    """The running VM has the disks that its next start would have.

    libvirt follows a switch of disks in the saved definition only where both agree; otherwise the next start would
    write into a frozen layer.

    Raises:
        Refused: DISK_DRIFTED.
    """
    now = {(disk.target, disk.path) for disk in vm.snapshot_disks}
    saved = {(disk.target, disk.path) for disk in vm.saved_disks if not disk.is_removable}
    if now != saved:
        differing = ", ".join(sorted({target for target, _path in now ^ saved}))
        raise Refused(
            ErrorCase.DISK_DRIFTED,
            f"{vm.described}: {differing} differ between the running machine and its saved definition; "
            "shut it down and start it, or take the change back",
        )


def check_no_managed_save(vm: Vm) -> None:
    """No saved state of libvirt's waits that names the VM's disks as they are now.

    Resuming it after the disks were switched would write into a frozen layer.

    Raises:
        Refused: POWER_STATE_WRONG.
    """
    if vm.has_managed_save:
        raise Refused(
            ErrorCase.POWER_STATE_WRONG,
            f"{vm.described} has a managed save image; start it, or remove the image with virsh managedsave-remove",
        )


def check_memory_capture(vm: Vm, *, space_open: bool) -> None:
    """Memory can be asked for: the VM runs and its tenant has memory-snapshot space.

    Raises:
        Refused: VM_NOT_RUNNING or MEMORY_SPACE_CLOSED.
    """
    if not vm.state.is_running:
        raise Refused(ErrorCase.VM_NOT_RUNNING, f"{vm.described} is {vm.state.value}; domain_memory needs it running")
    if not space_open:
        raise Refused(ErrorCase.MEMORY_SPACE_CLOSED, f'tenant "{vm.tenant}" of {vm.described}')


def check_name_free(vm: Vm, name: str, existing: Sequence[str]) -> None:
    if name in existing:
        raise Refused(ErrorCase.NAME_TAKEN, f'"{name}" on {vm.described}')


def check_depth(vm: Vm, target: str, depth: int, limit: int) -> None:
    """A chain of ``depth`` files may get one more, so that it has ``limit`` at most.

    Raises:
        Refused: CHAIN_TOO_DEEP.
    """
    if depth >= limit:
        raise Refused(
            ErrorCase.CHAIN_TOO_DEEP, f"disk {target} of {vm.described}: {depth} files deep, the limit is {limit}"
        )


def check_nothing_saving(vm: Vm, snapshots: Sequence[Snapshot]) -> None:
    """No memory state of this VM is on its way.

    Raises:
        Refused: SNAPSHOT_NOT_READY, with which and how far it is.
    """
    for snapshot in snapshots:
        memory = snapshot.memory
        if memory is not None and memory.status.is_pending:
            raise Refused(
                ErrorCase.SNAPSHOT_NOT_READY,
                f"{snapshot.described} of {vm.described} is {memory.status.value}, {memory.progress} %",
            )


def check_memory_available(snapshot: Snapshot) -> None:
    """The snapshot's memory can be restored.

    Raises:
        Refused: SNAPSHOT_WITHOUT_MEMORY (never had one, or saving it failed) or SNAPSHOT_NOT_READY.
    """
    memory = snapshot.memory
    if memory is None:
        raise Refused(ErrorCase.SNAPSHOT_WITHOUT_MEMORY, snapshot.described)
    if memory.status is MemoryStatus.FAILED:
        raise Refused(
            ErrorCase.SNAPSHOT_WITHOUT_MEMORY, f"{snapshot.described}: its memory could not be saved: {memory.reason}"
        )
    if memory.status.is_pending:
        raise Refused(
            ErrorCase.SNAPSHOT_NOT_READY, f"{snapshot.described} is {memory.status.value}, {memory.progress} %"
        )


def check_deletable(snapshot: Snapshot, children: Sequence[str]) -> None:
    """At most one child.

    Raises:
        Refused: SNAPSHOT_HAS_CHILDREN, naming them.
    """
    if len(children) > 1:
        names = ", ".join(f'"{name}"' for name in children)
        raise Refused(ErrorCase.SNAPSHOT_HAS_CHILDREN, f"{snapshot.described} has the children {names}")
