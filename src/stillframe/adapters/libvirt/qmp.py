"""QMP through libvirt's passage: only for what libvirt has no call for, which is memory capture.

Sources: QEMU's qapi/migration.json and qapi/misc.json; libvirt's libvirt-qemu.h.
"""

from __future__ import annotations

import json
from typing import Any

import libvirt_qemu


class QmpError(Exception):
    """QEMU answered with an error: the command was refused, nothing happened."""

    def __init__(self, command: str, error: dict[str, Any]) -> None:
        super().__init__(f"{command}: {error.get('desc', error)}")
        self.error_class = str(error.get("class", ""))


class Qmp:
    """The monitor of one running domain (a ``virDomain``); lives as long as one call into libvirt."""

    def __init__(self, domain: Any) -> None:
        self._domain = domain

    def run(self, command: str, **arguments: Any) -> Any:
        """The command's ``return`` value; underscores in argument names become dashes.

        Raises:
            QmpError: QEMU refused.
            libvirt.libvirtError: the monitor could not be reached.
        """
        return _answer(command, libvirt_qemu.qemuMonitorCommand(self._domain, _request(command, arguments), 0))

    def run_with_fd(self, command: str, fd: int, **arguments: Any) -> Any:
        """The same with a descriptor passed along; ours stays open."""
        text = libvirt_qemu.qemuMonitorCommandWithFiles(self._domain, _request(command, arguments), [fd], 0)
        # the binding answers (text, files) or text alone, depending on its version
        return _answer(command, text[0] if isinstance(text, tuple) else text)


def _request(command: str, arguments: dict[str, Any]) -> str:
    return json.dumps({"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}})


def _answer(command: str, text: str) -> Any:
    answer = json.loads(text)
    if "error" in answer:
        raise QmpError(command, answer["error"])
    return answer["return"]
