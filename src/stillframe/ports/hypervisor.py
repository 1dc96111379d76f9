"""What the operations need of the hypervisor.

Every call blocks its thread; adapters bound each with a time-out. Outcomes are typed (see domain/errors.py):
``Refused`` nothing happened, ``Failed`` tried and broke, ``Unknown`` the reply was lost. ``VM_UNKNOWN`` is raised only
when the hypervisor answered that the VM does not exist; when it could not be asked the error is HOST_UNREACHABLE.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from stillframe.domain.compute import ComputeInspectInfo
from stillframe.domain.snapshot import CaptureMode
from stillframe.domain.vm import KnownVm, Vm


@dataclass(frozen=True)
class DiskSwitch:
    """Freeze ``frozen_path`` and let disk ``target`` write to the empty overlay ``overlay_path`` on it."""

    target: str
    frozen_path: str
    frozen_format: str
    overlay_path: str


@dataclass(frozen=True)
class PointRequest:
    """One moment to be fixed: all disks at once and, with ``memory_path``, the memory of the same moment.

    ``memory_path`` is an existing empty file that the service owns. ``want_screenshot`` asks for the screen.
    ``vm_was_running`` lets ``abandon_point`` tell a guest that we paused from one that its owner had paused.
    """

    vm_uuid: str
    vm_was_running: bool
    switches: tuple[DiskSwitch, ...]
    memory_path: str | None = None
    want_screenshot: bool = False


@dataclass(frozen=True)
class PointInTime:
    """What was fixed. ``runtime_xml``: of a guest whose memory is saved, else "". ``runtime_cookie`` is what the hypervisor needs
    beside it to restore the same CPU.

    ``pause_us``: from the stop's request (of a live capture, where QEMU stops the guest: from when it was last seen running)
    to the release's answer, so never too short; 0 if the guest was not stopped: a snapshot of disks alone does not stop it.

    ``fallback_reason`` is set when QEMU refused the background snapshot. ``screenshot_png`` is empty when the VM
    has no screen. ``screenshot_note`` says why, if it failed.
    """

    taken_at_s: float
    pause_us: int
    definition_xml: str = field(repr=False)
    runtime_xml: str = field(repr=False)
    runtime_cookie: str = field(repr=False)
    capture_mode: CaptureMode | None
    fallback_reason: str
    screenshot_png: bytes = field(repr=False)
    screenshot_note: str = ""


@dataclass(frozen=True)
class CaptureProgress:
    """A running or ended memory capture. ``state``: active | completed | failed | none (QEMU knows of none)."""

    state: str
    bytes_done: int
    bytes_total: int
    reason: str = ""


@dataclass(frozen=True)
class MergeProgress:
    bytes_done: int
    bytes_total: int


OnMerge = Callable[[MergeProgress], None]
OnSwitch = Callable[[str], None]
"""Told a disk's target just before it leaves a file for the one below, which holds all of its data by then."""


@dataclass(frozen=True)
class PullRequest:
    """The first three files that a running disk reads through: ``top``, its active one, ``base`` and ``parent``."""

    target: str
    top_path: str
    base_path: str
    parent_path: str
    parent_format: str


@dataclass(frozen=True)
class SavedConfiguration:
    """A configuration to come back to. ``disk_paths``: target -> (path, format) that replaces what the XML says.

    Name and Stillframe's own metadata (tenant, namespace) of the VM stay as they are now.
    """

    vm_uuid: str
    definition_xml: str = field(repr=False)
    disk_paths: dict[str, tuple[str, str]]


class Sighting(Protocol):
    """Which VMs there are and what they stand on: for who only looks."""

    def list_vms(self, *, hurried: bool = False) -> list[Vm]:
        """Every domain of the connected libvirt, adopted as it is, by name; see ``Vm.unreadable``.

        No VM that hangs keeps the others: after a while it is in the list as one that cannot be read. ``hurried``: after a
        moment.
        """
        ...

    def tenant_of(self, vm_uuid: str) -> str:
        """Whose the VM is now; "" when that cannot be read. Waits for nothing that the VM is at, or that is under way on it.

        Raises:
            Refused: VM_UNKNOWN, proved absent.
        """
        ...

    def find_vm(self, vm_uuid: str) -> Vm:
        """One VM, also when its configuration cannot be read: see ``Vm.unreadable``. For who only looks: a VM that is known
        to hang is not waited for.

        Raises:
            Refused: VM_UNKNOWN, proved absent.
            Failed: HYPERVISOR_FAILED: it is known to hang.
        """
        ...

    def know_vm(self, vm_uuid: str) -> KnownVm:
        """That there is such a VM, with the same promises as ``find_vm``, for a third of the questions to the hypervisor."""
        ...

    def get_vm(self, vm_uuid: str) -> Vm:
        """One VM.

        Raises:
            Refused: VM_UNKNOWN, proved absent.
            Failed: HYPERVISOR_FAILED: its configuration cannot be read.
        """
        ...

    def active_chain(self, vm_uuid: str, target: str) -> tuple[str, ...]:
        """The files that the VM's running QEMU has open for a disk, topmost first; empty when there is no QEMU."""
        ...


class Inventory(Sighting, Protocol):
    """Which VMs there are and how they are configured."""

    def inspect(self, vm_uuid: str) -> ComputeInspectInfo:
        """Its full configuration; ``volume_uuid`` of the disks and the cluster are left empty for the caller.

        A VM that is known to hang is not waited for.
        """
        ...

    def check_reachable(self) -> None:
        """The hypervisor answers, whatever it is asked.

        Raises:
            StillframeError: it could not be asked, or gave no answer within some seconds.
        """
        ...

    def assign(self, vm_uuid: str, tenant: str, tenant_name: str, namespace: str) -> None:
        """Write tenant and namespace into the domain's own metadata; safe to repeat."""
        ...


class Power(Protocol):
    """Power, as the platform's calls name it. Each is safe to repeat."""

    def start(self, vm_uuid: str) -> None: ...

    def request_shutdown(self, vm_uuid: str) -> None:
        """Ask the guest (agent or ACPI); returns when the request is sent."""
        ...

    def ensure_off(self, vm_uuid: str) -> None:
        """Cut the power; returns when the QEMU process has ended. Nothing happens when it is off already."""
        ...

    def ensure_resumed(self, vm_uuid: str) -> bool:
        """Let a paused guest run; True when it had to be released."""
        ...

    def ensure_paused(self, vm_uuid: str, memory_uuid: str) -> bool:
        """A guest that lives on the file of this memory state stands still; False when there is no such guest any more."""
        ...


class PointInTimeFixer(Protocol):
    """Freezing disks and memory at one moment, and taking that back."""

    def fix_point(self, request: PointRequest) -> PointInTime:
        """Fix disks and memory of one moment; the guest is stopped only in between and runs on afterwards.

        The overlays exist already. Works on running, paused and shut-off VMs (without memory). With memory the
        capture goes on behind the call; see ``CaptureKeeper``.

        Raises:
            StillframeError: the state is then anything between before and after; ``abandon_point`` brings it back.
        """
        ...

    def abandon_point(self, request: PointRequest, on_switch: OnSwitch) -> None:
        """Take a fixed or half-fixed point back: capture cancelled, every disk on its frozen file again with all
        that was written since, the guest running if it ran. Safe to repeat; also after a crash of the service.

        A disk that is not on its overlay is left as it is.
        """
        ...

    def switch_definition(self, vm_uuid: str, disk_paths: dict[str, tuple[str, str]]) -> None:
        """Point disks of a shut-off VM's saved definition to other files (target -> path, format)."""
        ...

    def commit_live(
        self, vm_uuid: str, target: str, top_path: str, base_path: str, on_progress: OnMerge, *, on_switch: OnSwitch
    ) -> None:
        """Merge ``top_path`` down into ``base_path`` in the running QEMU's chain, pivoting when top is active.

        Returns when the VM reads from the base and the job has ended; finds and finishes a job that an earlier,
        interrupted call left. Safe to repeat: nothing happens when top is no longer in the chain.

        Raises:
            Failed: VM_NOT_RUNNING when the VM went off meanwhile; both files read the same as before.
        """
        ...

    def pull_live(self, vm_uuid: str, request: PullRequest, on_progress: OnMerge) -> None:
        """The running QEMU copies what the request's base adds to its parent up into its top.

        Nothing is switched: the VM reads through base as before, and the files read the same at every instant. Finds and
        finishes a job that an earlier, interrupted call left. Safe to repeat.

        Raises:
            Failed: VM_NOT_RUNNING when the VM went off meanwhile; SPACE_EXHAUSTED.
        """
        ...

    def leave_live(self, vm_uuid: str, request: PullRequest) -> None:
        """The running QEMU reads from the request's parent behind its top, whose header says so, and has let base go.

        For a base of which top needs nothing any more. Safe to repeat.

        Raises:
            Failed: VM_NOT_RUNNING when the VM went off meanwhile.
        """
        ...


class CaptureKeeper(Protocol):
    """A memory capture that QEMU is writing behind a fixed point, and giving memory back to a VM."""

    def probe_capture(self, vm_uuid: str) -> CaptureProgress: ...

    def release_capture(self, vm_uuid: str, memory_path: str) -> None:
        """After the end: migration capabilities cleared, descriptors removed and closed. Safe to repeat.

        A VM that is off or gone has nothing to release.
        """
        ...

    def abandon_capture(self, vm_uuid: str, memory_path: str) -> None:
        """No capture into this file is under way any more, and QEMU is clear of it; safe to repeat.

        A VM that is off or gone has nothing to abandon.
        """
        ...

    def finish_image(self, memory_path: str, runtime_xml: str, runtime_cookie: str) -> None:
        """Make the completed file restorable: page bitmaps repaired, save-image header written. Safe to repeat."""
        ...

    def check_restorable(self, memory_path: str, vm_uuid: str) -> None:
        """The finished file can be restored into the VM as it is now.

        Raises:
            Refused: VM_RENAMED.
            Failed: HYPERVISOR_FAILED when the file is no finished image.
        """
        ...

    def prepare_lazily(self, memory_path: str, image_path: str, configuration: SavedConfiguration) -> bool:
        """Write into the new file ``image_path`` what is needed to start the VM with its memory left in ``memory_path``.

        False: this guest, or this file, or this hypervisor cannot do that; nothing was written.

        Raises:
            Failed: SPACE_EXHAUSTED, STORAGE_FAILED, HYPERVISOR_FAILED; a part of the image may be there.
        """
        ...

    def restore(self, memory_path: str, configuration: SavedConfiguration, image_path: str | None = None) -> None:
        """Start the VM from a finished memory file with the given disks; returns when the guest runs.

        With ``image_path``, as ``prepare_lazily`` wrote it, the guest's memory stays in the memory file, from which it comes as
        it is touched: that file may not change, nor go, while a VM ``lives_on`` it. The image may go.

        The VM must be off. After an error it is off, or it may run: ``was_restored`` tells.
        """
        ...

    def was_restored(self, vm_uuid: str, memory_path: str) -> bool:
        """The guest that the VM has now came, or comes, out of this memory file; it was not booted.

        That stays true whatever its owner does to it (pausing it, saving it and starting it again) until it is off.
        False for a VM that is off.
        """
        ...

    def definition(self, vm_uuid: str) -> str:
        """The VM's saved definition, secrets included, for ``redefine``."""
        ...

    def redefine(self, vm_uuid: str, definition_xml: str) -> None:
        """This is the saved definition again, under the name and with the assignment of today; safe to repeat.

        A VM that has none any more stays without.

        Raises:
            Refused: VM_UNKNOWN.
        """
        ...

    def define(self, configuration: SavedConfiguration) -> None:
        """Make this the VM's saved definition; safe to repeat."""
        ...
