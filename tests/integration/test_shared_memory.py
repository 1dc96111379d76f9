"""Memory states of one guest on a file system that shares blocks: they take less space, and are what they were."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from integration.test_memory import memory_file
from integration.test_one_moment import roll_back_and_check, snapshot_memory
from support.ledger import check_census
from support.loop_mount import KINDS, mounted, used_bytes
from support.service import Service, Vm, eventually

pytestmark = pytest.mark.guest
_MIB = 1 << 20
_FILLED_MIB = 96


@pytest.fixture(params=KINDS)
def service(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Service]:
    """A service of its own, whose memory states lie on such a file system."""
    service = Service()
    try:
        with mounted(request.param, service.state / "memory", tmp_path / "image", 1024 * _MIB) as place:
            place.chmod(0o700)
            try:
                yield service.start()
            finally:
                service.stop()
    finally:
        service.destroy()


@pytest.fixture
def vm(service: Service) -> Iterator[Vm]:
    vm = service.guest("shared", memory_mib=192, fill_mib=_FILLED_MIB, dirty_pages=1)
    yield vm
    service.ensure_started()
    vm.shutoff()  # nobody lives on a file when its file system goes
    service.post("/v1/stillframe/guest/delete", name=vm.name)


def shared_bytes(service: Service, one: Path, two: Path) -> int:
    """What the service says that the second shares with the first, once it has come to it."""
    found: list[str] = []

    def is_said() -> bool:
        said = rf"{two.stem} shares (\d+) bytes with {one.stem}"
        found[:] = re.findall(said, service.log_path.read_text())
        return bool(found)

    eventually(is_said, f"{two.name} is shared", timeout_s=60)
    return int(found[-1])


@pytest.mark.parametrize("service", ["btrfs"], indirect=True)
def test_memory_that_is_compressed(service: Service) -> None:
    """It takes less space, shares all the same, and is what it was."""
    service.stop()
    service.configure(compress_memory="true")
    service.start()
    vm = service.guest("packed", memory_mib=192, fill_mib=0, dirty_pages=0)
    try:
        moments = {name: snapshot_memory(vm, name) for name in ("one", "two")}
        one, two = (memory_file(vm.get(name)) for name in moments)
        said = shared_bytes(service, one, two)
        occupied = one.stat().st_blocks * 512
        assert occupied > 24 * _MIB, "a kernel and its program"
        assert said > occupied / 2
        assert used_bytes(one.parent) < occupied * 0.7
        assert int(vm.get("one")["attr"]["memory_bytes"]) == occupied
        assert service.get("/v1/stillframe/doctor", deep=True)["findings"] == []
        roll_back_and_check(vm, "one", moments["one"])
        vm.delete("one")
        roll_back_and_check(vm, "two", moments["two"])
        check_census(service)
    finally:
        vm.shutoff()
        service.post("/v1/stillframe/guest/delete", name=vm.name)


def test_a_second_snapshot_with_memory_takes_what_has_changed(service: Service, vm: Vm) -> None:
    moments = {"one": snapshot_memory(vm, "one")}
    one = memory_file(vm.get("one"))
    alone = used_bytes(one.parent)
    moments["two"] = snapshot_memory(vm, "two")
    two = memory_file(vm.get("two"))
    said = shared_bytes(service, one, two)
    assert said > _FILLED_MIB * _MIB / 2
    occupied = two.stat().st_blocks * 512
    assert used_bytes(one.parent) - alone < occupied - said + 8 * _MIB  # and what notes it
    # what is shown counts what is shared, whatever the file system adds to find it again
    assert abs(int(vm.get("two")["attr"]["memory_bytes"]) - occupied) < _MIB
    assert service.get("/v1/stillframe/doctor", deep=True)["findings"] == []

    roll_back_and_check(vm, "two", moments["two"])
    vm.delete("one")
    assert not one.exists()
    roll_back_and_check(vm, "two", moments["two"])
    check_census(service)
