"""The witness guest: a tiny real guest for trying things out, for the demo, tests and benchmarks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol


@dataclass(frozen=True)
class GuestSpec:
    """The witness guest to be made: sizes in MiB; ``fill_mib`` of its memory hold random data.

    ``dirty_pages`` are written per tick; ``private_file_memory`` backs its memory by a private file mapping, which
    QEMU's background snapshot does not support.
    """

    name: str
    memory_mib: int = 256
    fill_mib: int = 64
    disks: int = 1
    dirty_pages: int = 20
    private_file_memory: bool = False


class Guests(Protocol):
    """Makes and removes witness guests on the connected hypervisor."""

    def create(self, spec: GuestSpec) -> str:
        """Define and start it; returns its uuid.

        The accelerator is chosen by trying: KVM, else TCG. After an error nothing of it is left.

        Raises:
            Refused: NAME_OF_VM_TAKEN.
        """
        ...

    def delete(self, name: str) -> None:
        """Power off, undefine, remove the files that ``create`` made. Safe to repeat.

        Raises:
            Refused: VM_UNKNOWN when no guest of that name exists, or it was not made by ``create``.
        """
        ...

    def console_path(self, name: str) -> str:
        """The file that holds what the guest prints on its serial line."""
        ...

    def uuid_of(self, name: str) -> str:
        """The uuid of the witness guest of that name.

        Raises:
            Refused: VM_UNKNOWN.
        """
        ...
