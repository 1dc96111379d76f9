"""A second QMP monitor of a guest, beside libvirt's: sees events as they come, and speaks while libvirt is away."""

from __future__ import annotations

import json
import socket
from types import TracebackType
from typing import Any, Self

from support.ground import monitor_path
from support.service import Vm


class Monitor:
    """One connection to the guest's own socket (``domain_xml(monitor=…)``); for one thread."""

    def __init__(self, vm: Vm, timeout_s: float = 60) -> None:
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.settimeout(timeout_s)
        try:
            self._socket.connect(monitor_path(vm))
        except OSError:
            self._socket.close()
            raise
        self._stream = self._socket.makefile("rw", encoding="utf-8")
        self._read()  # the greeting
        self.run("qmp_capabilities")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stream.close()
        self._socket.close()

    def run(self, command: str, **arguments: Any) -> Any:
        """The command's ``return``; events before it are skipped."""
        request = {"execute": command, "arguments": {k.replace("_", "-"): v for k, v in arguments.items()}}
        self._stream.write(json.dumps(request) + "\n")
        self._stream.flush()
        while True:
            said = self._read()
            if "error" in said:
                raise AssertionError(f"{command}: {said['error']}")
            if "return" in said:
                return said["return"]

    def await_event(self, *names: str) -> dict[str, Any]:
        """The next event of one of these names."""
        while True:
            said = self._read()
            if said.get("event") in names:
                return said

    def is_running(self) -> bool:
        return bool(self.run("query-status")["running"])

    def _read(self) -> dict[str, Any]:
        line = self._stream.readline()
        if not line:
            raise ConnectionError("the monitor has gone")
        said: dict[str, Any] = json.loads(line)
        return said
