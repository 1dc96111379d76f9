"""A daemon and a service with hostile virtual machines on it, and a file of the host that nobody is to open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stillframe.domain.errors import ErrorCase
from support.lab import define, virsh
from support.ledger import unchanged
from support.offline import Lot, domain_xml, lot
from support.openings import unopened
from support.private_libvirtd import PrivateLibvirtd
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Service, Vm

WORDS = "words that are only for the host"


@dataclass
class Ward:
    """A daemon, a service on it, and a file of the host that nobody is to open."""

    daemon: PrivateLibvirtd
    service: Service
    secret: Path
    lots: dict[str, Lot] = field(default_factory=dict)
    defined: list[str] = field(default_factory=list)

    def lot(self, name: str) -> Lot:
        if name not in self.lots:
            self.lots[name] = lot(self.service, name)
        return self.lots[name]

    def directory(self, name: str) -> Path:
        """Where the files of the VM of this name lie, and its console."""
        return self.lot(name).directory

    def vm(self, name: str, *disks: str) -> Vm:
        """A shut-off VM with these <disk>s; it is undefined when its test ends."""
        one = self.lot(name)
        define(self.daemon, one.directory, domain_xml(one, disks))
        self.defined.append(one.uuid)
        return one.vm(self.service)

    def put_away(self) -> None:
        for uuid in self.defined:
            virsh(self.daemon, "undefine", uuid)
        self.defined.clear()

    def refuses(self, vm: Vm, *words: str, target: str = "vda") -> None:
        """Create and start say which disk of which VM, and why; nothing is changed or opened."""
        with unopened(self.secret), unchanged(vm):
            for path, body in ((f"{SNAPSHOT}/create", {"name": "a"}), ("/v1/compute/start", {})):
                desc = must_refuse_post(vm, ErrorCase.IMAGE_REFUSED, path, **body)
                for word in (f"disk {target} of", f'"{vm.name}"', vm.uuid, *words):
                    assert word in desc
                assert WORDS not in desc
                assert str(self.secret) not in desc


@contextmanager
def open_ward() -> Iterator[Ward]:
    with PrivateLibvirtd() as daemon:
        service = Service(daemon.uri)
        try:
            secret = service.state / "secret"
            secret.write_text(WORDS * 20_000)
            yield Ward(daemon, service.start(), secret)
        finally:
            service.destroy()
