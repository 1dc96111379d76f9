"""A merge of layers that the running guest has nothing to do with: its QEMU must not be asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from stillframe.adapters.libvirt.capture import LibvirtPointInTime
from stillframe.adapters.libvirt.connection import Connection
from stillframe.domain.errors import ErrorCase, Failed
from support.ground import Ground, nothing_lost
from support.ledger import rows
from support.service import Vm

pytestmark = pytest.mark.guest


@pytest.fixture(scope="module")
def vm(ground: Ground) -> Vm:
    """Its guest runs on "base"; on another branch are "below", "middle" and "tip"."""
    vm = ground.running("branched", disks=2)
    vm.create("base", memory=True)
    for name in ("below", "middle", "tip"):
        vm.await_ticks(3)
        vm.create(name)
    vm.rollback("base", memory=True)
    vm.await_ticks(3)
    return vm


@pytest.fixture(scope="module")
def fixer(ground: Ground) -> Iterator[LibvirtPointInTime]:
    with closing(Connection(ground.daemon.uri, call_timeout_s=60)) as connection:
        yield LibvirtPointInTime(connection, merge_timeout_s=60)


def test_what_qemu_does_not_have_is_not_taken_for_merged(vm: Vm, fixer: LibvirtPointInTime) -> None:
    top, base = (layer_path(vm, name) for name in ("tip", "middle"))
    with pytest.raises(Failed, match="neither") as failed:
        fixer.commit_live(vm.uuid, "vda", top, base, lambda _now: None, on_switch=lambda _target: None)
    assert failed.value.case is ErrorCase.HYPERVISOR_FAILED


def layer_path(vm: Vm, name: str) -> str:
    query = (
        "SELECT l.path FROM layers l JOIN disk_snapshots d ON d.layer_uuid = l.uuid JOIN snapshots s ON s.uuid = "
        "d.snapshot_uuid WHERE s.name = ? AND s.vm_uuid = ? AND d.target = 'vda'"
    )
    ((path,),) = rows(vm.service, query, name, vm.uuid)
    return str(path)


@pytest.mark.parametrize("name", ["middle", "below"])
def test_those_above_a_deleted_one_keep_their_contents(vm: Vm, name: str) -> None:
    with nothing_lost(vm):
        vm.delete(name)
    assert name not in vm.names()
