"""The files that a running QEMU really reads a disk through, asked of QEMU itself.

libvirt keeps a picture of the chain of its own. When its driver dies in the instant in which QEMU ends a merge, that
picture stays behind until the VM is started anew: it still shows the layer that was merged away.
"""

from __future__ import annotations

import json
from typing import Any

from stillframe.adapters.libvirt.domain_xml import find_disk, parse_domain
from stillframe.adapters.libvirt.qmp import Qmp
from stillframe.domain.errors import ErrorCase, Failed


def real_chain(domain: Any, target: str) -> tuple[str, ...]:
    """Topmost first, from QEMU's ``query-block`` (BlockDeviceInfo, ImageInfo in qapi/block-core.json).

    Raises:
        Failed: HYPERVISOR_FAILED when QEMU does not know the disk.
    """
    alias = find_disk(parse_domain(domain.XMLDesc(0)), target).find("alias")
    name = alias.get("name", "") if alias is not None else ""
    for device in Qmp(domain).run("query-block"):
        if name and name in str(device.get("qdev", "")).split("/") and "inserted" in device:
            return _files(device["inserted"]["image"])
    raise Failed(ErrorCase.HYPERVISOR_FAILED, f"disk {target}: QEMU knows no device {name}")


def _files(image: dict[str, Any]) -> tuple[str, ...]:
    found: list[str] = []
    current: dict[str, Any] | None = image
    while current is not None:
        found.append(_plain(str(current["filename"])))
        current = current.get("backing-image")
    return tuple(found)


def _plain(filename: str) -> str:
    """QEMU names a node ``json:{…}`` where its options cannot be said by a path alone; the path is inside."""
    if not filename.startswith("json:"):
        return filename
    options: Any = json.loads(filename.removeprefix("json:"))
    while isinstance(options, dict) and "filename" not in options:
        options = options.get("file")
    return str(options["filename"]) if isinstance(options, dict) else filename
