"""What every part of the benchmark stands on: one libvirtd, one service, and the figures so far."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from measurements import Measurements
from scale import Scale
from virsh import Virsh

from support.private_libvirtd import PrivateLibvirtd
from support.service import Service


@dataclass
class Ground:
    """``note`` keeps a figure and shows it as it comes."""

    daemon: PrivateLibvirtd
    service: Service
    virsh: Virsh
    scale: Scale
    measured: Measurements = field(default_factory=Measurements)
    accelerator: str = ""

    @property
    def scratch(self) -> Path:
        """A place for files of the benchmark's own, on the file system of the guests' disks; goes with the service."""
        return self.service.state / "bench"

    def note(self, key: str, value: float, unit: str = "ms") -> None:
        self.measured.add(key, value)
        print(f"  {key:<36} {value:11.1f} {unit}", flush=True)
