"""One real service for the whole session, with a lot of shut-off VMs that tests take and never give back.

The VMs are defined before the service starts, so that no test pays for it; each can boot the witness. After every test
the VMs that it took are shut off, and every file of the service belongs to a row. At the end nothing is left: no file,
no process.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import pytest

from integration.unsupported import UNSUPPORTED
from support.http_door import AnswerSchemas
from support.ledger import check_census
from support.offline import Lot, domain_xml, file_disk, image, lot, offline
from support.service import Service, Vm, eventually

# kind -> how many: see _define
KINDS = {"one": 44, "two": 28, "three": 4, "small": 13, "load": 2, "big": 8, "raw": 4, "templated": 1, "cdrom": 2}
KINDS |= {"diskless": 1} | {f"bad-{kind}": 1 for kind in UNSUPPORTED}


class Take(Protocol):
    """Take a VM of a kind; ``boot``: it runs and its witness ticks."""

    def __call__(self, kind: str, *, boot: bool = False) -> Vm: ...


def _define(service: Service, kind: str, number: int) -> tuple[Lot, str]:
    """The VM's files and its definition.

    one, two, three: as many qcow2 disks of 64 MiB. small: two of 8 MiB. load: two disks, 256 MiB of memory and a
    witness that changes many pages. big: one disk, memory that takes a while to save. raw: a raw disk and a qcow2 one.
    templated: a disk on a template that it does not own. cdrom: a disk, a full and an empty drive. bad-…: a good disk
    and one that cannot be snapshotted.
    """
    one = lot(service, f"{kind}-{number:02}")
    sizes = {"two": ["64M"] * 2, "three": ["64M"] * 3, "small": ["8M"] * 2, "load": ["64M"] * 2}.get(kind, ["64M"])
    if kind == "diskless":
        return one, domain_xml(one, [])
    if kind == "raw":
        disks = [file_disk(image(one.directory / "disk-0.img", image_format="raw"), "vda", "raw")]
        disks.append(file_disk(image(one.directory / "disk-1.qcow2"), "vdb"))
        return one, domain_xml(one, disks)
    backing = image(one.directory / "template.qcow2") if kind == "templated" else None
    disks = [
        file_disk(image(one.directory / f"disk-{n}.qcow2", size=size, backing=backing), f"vd{'abc'[n]}")
        for n, size in enumerate(sizes)
    ]
    if kind == "cdrom":
        medium = image(one.directory / "medium.iso", size="1M", image_format="raw")
        for target, source in (("sda", f"<source file='{medium}'/>"), ("sdb", "")):
            disks.append(
                f"<disk type='file' device='cdrom'><driver name='qemu' type='raw'/>{source}"
                f"<target dev='{target}' bus='sata'/><readonly/></disk>"
            )
    if kind.startswith("bad-"):
        disks.append(UNSUPPORTED[kind.removeprefix("bad-")][0](one))
    if kind == "load":
        return one, domain_xml(one, disks, memory_mib=256, fill_mib=64, dirty_pages=200, kernel="tick_us=5000")
    if kind == "big":
        return one, domain_xml(one, disks, memory_mib=512, fill_mib=400)
    return one, domain_xml(one, disks)


class Shop:
    """The service and the VMs of its lot that nobody has taken yet."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._free: dict[str, list[Lot]] = {}

    def open(self, kinds: Mapping[str, int]) -> None:
        acts = []
        for kind, count in kinds.items():
            for number in range(count):
                one, xml = _define(self.service, kind, number)
                acts.append(("define", xml))
                self._free.setdefault(kind, []).append(one)
        offline(self.service, *acts)
        self.service.start()
        self.service.on_answer = AnswerSchemas(self.service.http.get("/openapi.json").json()).check

    def take(self, kind: str) -> Vm:
        assert self._free[kind], f"more VMs of kind {kind} are needed: raise KINDS"
        return self._free[kind].pop(0).vm(self.service)


@contextmanager
def open_shop(kinds: Mapping[str, int]) -> Iterator[Shop]:
    """A service with so many VMs of each kind."""
    shop = Shop(Service())
    try:
        shop.open(kinds)
        yield shop
    finally:
        shop.service.destroy()


@pytest.fixture(scope="session")
def shop() -> Iterator[Shop]:
    with open_shop(KINDS) as shop:
        yield shop


@pytest.fixture(scope="session", autouse=True)
def nothing_is_left() -> Iterator[None]:
    """At the session's end no state directory of ours and no process on one is left."""
    yield
    assert [path for path in Service.made if path.exists()] == []
    assert [line for line in _command_lines() if any(str(path) in line for path in Service.made)] == []


def _command_lines() -> Iterator[str]:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            yield (process / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:
            continue  # it ended while we looked


@pytest.fixture
def service(shop: Shop) -> Service:
    """The session's service, running whatever the test before did to it."""
    shop.service.ensure_started()
    return shop.service


@pytest.fixture
def take(shop: Shop, service: Service) -> Iterator[Take]:
    taken: list[Vm] = []
    log_begin = service.log_path.stat().st_size

    def take_one(kind: str, *, boot: bool = False) -> Vm:
        vm = shop.take(kind)
        taken.append(vm)
        if boot:
            vm.start()
            vm.await_ticks(20)
        return vm

    yield take_one
    service.ensure_started()
    for vm in taken:
        put_away(vm)
    check_census(service)
    with service.log_path.open("rb") as log:
        log.seek(log_begin)
        story = log.read().decode()
    assert "crashed" not in story
    assert "could not be finished" not in story
    assert "could not be released" not in story


def put_away(vm: Vm) -> None:
    """Shut off, with nothing on its way."""
    eventually(lambda: not is_saving(vm), f"nothing of {vm.name} is being saved", timeout_s=120)
    if vm.state() != "shutoff":
        vm.shutoff()


def is_saving(vm: Vm) -> bool:
    return any((row["attr"] or {}).get("status") in ("saving", "uploading") for row in vm.list()["list"])


@pytest.fixture
def guest(service: Service) -> Iterator[Callable[..., Vm]]:
    """Makes witness guests by the service's own call; they are deleted afterwards, with all that is theirs."""
    made: list[Vm] = []

    def make(name: str, **spec: int | bool) -> Vm:
        made.append(service.guest(name, **spec))
        return made[-1]

    yield make
    service.ensure_started()
    for vm in made:
        put_away(vm)
        service.post("/v1/stillframe/guest/delete", name=vm.name)
    check_census(service)
    assert not (service.state / "guests").exists()
