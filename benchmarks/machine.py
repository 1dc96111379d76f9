"""The machine that figures were made on, without its name."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from pathlib import Path


def facts(accelerator: str, uri: str, where: Path) -> list[tuple[str, str]]:
    """``where``: a directory on the file system of the guests' disks."""
    memory_kib = int(re.findall(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))[0])
    models = re.findall(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text(encoding="utf-8"))
    versions = _output("virsh", "-c", uri, "version", "--daemon")
    libvirt = re.findall(r"Running against daemon: (\S+)", versions)
    qemu = re.findall(r"Running hypervisor: QEMU (\S+)", versions)
    return [
        ("Processor", models[0] if models else platform.machine()),
        ("Cores", str(os.cpu_count())),
        ("Memory", f"{memory_kib / (1 << 20):.0f} GiB"),
        ("Kernel", platform.release()),
        ("File system", _output("stat", "--file-system", "--format=%T", str(where)).strip()),
        ("QEMU", qemu[0] if qemu else "unknown"),
        ("libvirt", libvirt[0] if libvirt else "unknown"),
        ("Python", platform.python_version()),
        ("Accelerator", accelerator or "TCG"),
    ]


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout
