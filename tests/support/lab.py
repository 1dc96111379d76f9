"""A private libvirtd, a service on it that can be struck, and two VMs with a known tree: one runs, one is off.

The tree of both: ``base`` (disks) and on it ``goal`` (with memory where the VM runs), the head on ``goal``.
"""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from support.ledger import checksums, rows
from support.offline import Lot, domain_xml, file_disk, image, lot, write
from support.private_libvirtd import PrivateLibvirtd
from support.service import Service, Vm, eventually
from support.struck import At, Striker, StruckService


@dataclass
class Lab:
    """``exact``: VM uuid -> snapshot -> disk -> checksum, as it was when the tree was made."""

    daemon: PrivateLibvirtd
    service: StruckService
    running: Vm
    off: Vm
    exact: dict[str, dict[str, dict[str, str]]]

    def check_exact(self, vm: Vm) -> None:
        """The snapshots of the tree are bit for bit what they were."""
        now = checksums(vm)
        assert {name: now.get(name) for name in self.exact[vm.uuid]} == self.exact[vm.uuid]


def define(daemon: PrivateLibvirtd, directory: Path, xml: str) -> None:
    path = directory / "domain.xml"
    path.write_text(xml)
    virsh(daemon, "define", str(path))


def virsh(daemon: PrivateLibvirtd, *words: str) -> str:
    done = subprocess.run(["virsh", "-q", "-c", daemon.uri, *words], capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"virsh {words}: {done.stderr}"
    return done.stdout.strip()


def make_vm(
    daemon: PrivateLibvirtd,
    service: Service,
    name: str,
    *,
    disks: int = 2,
    size: str = "8M",
    directory: Path | None = None,
) -> Vm:
    """``directory``: where its disks lie, if not beside its console."""
    one: Lot = lot(service, name)
    home = directory or one.directory
    sources = [file_disk(image(home / f"disk-{n}.qcow2", size=size), f"vd{'abcd'[n]}") for n in range(disks)]
    define(daemon, one.directory, domain_xml(one, sources))
    return one.vm(service)


def settle(service: Service) -> None:
    """Recovery, mending and saving have ended: no operation is under way, and none is left."""
    query = "SELECT kind, state, error FROM operations WHERE lock_key IS NOT NULL OR state = 'left'"
    try:
        eventually(lambda: not rows(service, query), "every operation has ended", timeout_s=120)
    except AssertionError as error:
        raise AssertionError(f"{error}: {rows(service, query)}") from None


def interrupt(service: StruckService, vm: Vm, at: At, path: str, **body: Any) -> None:
    """The service dies at this moment of the call, and is not started again."""
    service.strike(kill=at)
    assert service.send(path, cluster_uuid="", compute_uuid=vm.uuid, **body) is None
    service.await_death()
    service.spare()


def last_task(vm: Vm) -> tuple[str, str]:
    """State and words of the VM's last operation that had something to do."""
    query = "SELECT state, error FROM operations WHERE vm_uuid = ? AND plan <> '' ORDER BY id DESC LIMIT 1"
    ((state, error),) = rows(vm.service, query, vm.uuid)
    return state, error


def boots(vm: Vm) -> int:
    """How often its guest was booted so far."""
    return len(vm.witness().boots())


@contextmanager
def open_service(striker: Striker, **settings: str) -> Iterator[tuple[PrivateLibvirtd, StruckService]]:
    """A private libvirtd and a service on it that does not run yet; both end with the block."""
    with PrivateLibvirtd() as daemon:
        service = StruckService(striker, daemon.uri, **settings)
        try:
            yield daemon, service
        finally:
            service.destroy()


@contextmanager
def open_lab(
    striker: Striker, prepare: Callable[[StruckService], None] = lambda _service: None, **settings: str
) -> Iterator[Lab]:
    """``prepare`` gets the service before its first start."""
    with open_service(striker, **settings) as (daemon, service):
        running = make_vm(daemon, service, "running", size="64M")
        off = make_vm(daemon, service, "off", size="1M")
        prepare(service)
        service.start()
        running.start()
        running.await_ticks(10)
        for vm in (running, off):
            if vm is off:
                write(vm.disk_path(), 1, length="64k")
            vm.create("base")
            if vm is off:
                write(vm.disk_path(), 2, length="64k")
            else:
                vm.await_ticks(5)
            vm.create("goal", memory=vm is running)
        yield Lab(daemon, service, running, off, {vm.uuid: checksums(vm) for vm in (running, off)})
