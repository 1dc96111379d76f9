"""Ground for faults of the world: a private libvirtd, a service that can be held at a moment, and witnesses on it."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stillframe.domain.errors import ErrorCase
from support.ledger import check_census, checksums, rows
from support.offline import domain_xml, file_disk, image, lot
from support.private_libvirtd import PrivateLibvirtd
from support.service import SNAPSHOT, Service, Vm, eventually
from support.struck import StruckService


@dataclass
class Ground:
    """One daemon, one service on it, and the guests that were made; ``close`` ends the guests."""

    daemon: PrivateLibvirtd
    service: StruckService
    vms: list[Vm] = field(default_factory=list)

    def vm(self, name: str, *, size: str = "64M", disks: int = 1, data_mib: int = 0, **machine: Any) -> Vm:
        """A witness guest, shut off. ``data_mib``: so much of its first disk is written. ``machine``: see ``domain_xml``."""
        one = lot(self.service, name)
        paths = [image(one.directory / f"disk-{n}.qcow2", size=size) for n in range(disks)]
        sources = [file_disk(path, f"vd{'abc'[n]}") for n, path in enumerate(paths)]
        if data_mib:
            fill(str(paths[0]), data_mib)
        monitor = str(one.directory / "qmp")
        definition = one.directory / "domain.xml"
        definition.write_text(domain_xml(one, sources, monitor=monitor, **machine))
        self.virsh("define", str(definition))
        self.vms.append(one.vm(self.service))
        return self.vms[-1]

    def running(self, name: str, **machine: Any) -> Vm:
        """The same, and its witness ticks."""
        vm = self.vm(name, **machine)
        vm.start()
        vm.await_ticks(10)
        return vm

    def virsh(self, *words: str) -> str:
        done = subprocess.run(
            ["virsh", "-q", "-c", self.daemon.uri, *words], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"virsh {words}: {done.stderr}"
        return done.stdout.strip()

    def qmp(self, vm: Vm, command: str) -> str:
        return self.virsh("qemu-monitor-command", vm.name, command)

    def qemu_pid(self, vm: Vm) -> int:
        return int((self.daemon.directory / "run" / "qemu" / f"{vm.name}.pid").read_text())

    def domstate(self, vm: Vm) -> str:
        """The power state in libvirt's words; it does not go through the service."""
        return self.virsh("domstate", vm.name)

    def put_away(self) -> None:
        """No guest runs, and libvirt knows none of them any more."""
        for vm in self.vms:
            if self.domstate(vm) != "shut off":
                self.virsh("destroy", vm.name)
            self.virsh("undefine", vm.name, "--managed-save")
        self.vms.clear()


def fill(path: str, mib: int, pattern: int = 77) -> None:
    """So much of an image that nobody has open is data that no zero detection takes away."""
    acts = [word for at in range(0, mib, 32) for word in ("-c", f"write -P {pattern} {at}M {min(32, mib - at)}M")]
    subprocess.run(["qemu-io", "-f", "qcow2", *acts, path], check=True, capture_output=True)


def monitor_path(vm: Vm) -> str:
    assert vm.console is not None
    return str(vm.console.with_name("qmp"))


# --- asking in the background -------------------------------------------------------------------------------------


class Asked:
    """A request under way in a thread of its own."""

    def __init__(self, vm: Vm, call: str, body: dict[str, Any]) -> None:
        self._future: Future[dict[str, Any]] = Future()
        arguments = (vm.service, f"{SNAPSHOT}/{call}", {"cluster_uuid": "", "compute_uuid": vm.uuid, **body})
        threading.Thread(target=self._ask, args=arguments, daemon=True).start()

    def _ask(self, service: Service, path: str, body: dict[str, Any]) -> None:
        try:
            with service.client() as client:
                self._future.set_result(client.post(path, json=body).json())
        except BaseException as error:  # noqa: BLE001 -- it is raised where the answer is asked for
            self._future.set_exception(error)

    @property
    def is_answered(self) -> bool:
        return self._future.done()

    def answer(self) -> dict[str, Any]:
        return self._future.result(300)

    def must_succeed(self) -> None:
        answer = self.answer()
        assert answer["scode"] == 0, answer

    def must_fail(self, *cases: ErrorCase) -> str:
        """It ended in one of these; returns ``desc``."""
        answer = self.answer()
        assert answer["scode"] in {case.code for case in cases}, answer
        message = next(case.value.message for case in cases if case.code == answer["scode"])
        assert answer["message"] == message
        assert answer["message_cn"]
        assert "Traceback" not in str(answer)
        desc: str = answer["desc"]
        return desc


def ask(vm: Vm, call: str, **body: Any) -> Asked:
    """Send one of the snapshot calls, and do not wait."""
    return Asked(vm, call, body)


# --- what must hold after every fault -----------------------------------------------------------------------------


def settle(service: Service, timeout_s: float = 60) -> None:
    """No operation is under way and none is left."""
    query = "SELECT kind, state, error FROM operations WHERE lock_key IS NOT NULL OR state = 'left'"
    eventually(lambda: not rows(service, query), "every operation has ended", timeout_s=timeout_s)


@contextmanager
def nothing_lost(*vms: Vm, runs: bool = True) -> Iterator[None]:
    """When the fault inside is over: every snapshot of before that is still listed is bit-exact, nothing is half-done,
    the guests run (if ``runs``), and none has ever seen disk and memory of different moments.
    """
    before = {vm.uuid: checksums(vm) for vm in vms}
    yield
    settle(vms[0].service)
    for vm in vms:
        exact = before[vm.uuid]
        listed = vm.names()
        assert {name: now for name, now in checksums(vm).items() if name in exact} == {
            name: exact[name] for name in listed if name in exact
        }
        if runs:
            assert vm.state() == "running"
            vm.await_ticks(5)
        assert vm.witness().torn() == []
    check_census(vms[0].service)


def boot_ids(vm: Vm) -> set[str]:
    return {boot for boot, _n in vm.witness().ticks()}


def process_is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def signal_process(pid: int, number: int) -> None:
    os.kill(pid, number)
