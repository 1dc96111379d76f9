"""What a guest has given back takes no space in its memory state, where its balloon tells what that is."""

from __future__ import annotations

from pathlib import Path

import pytest

from support.ground import Ground
from support.service import Vm, eventually

pytestmark = pytest.mark.guest
_CHURNED_MIB = 96
_MIB = 1 << 20
TELLS = "model='virtio' freePageReporting='on'"
TELLS_NOTHING = "model='virtio'"


def ticking(ground: Ground, balloon: str) -> Vm:
    """A guest that has filled so much of its memory and has given it back, before its first tick."""
    vm = ground.vm(f"free-{len(ground.vms)}", memory_mib=256, kernel=f"churn={_CHURNED_MIB}", balloon=balloon)
    vm.start()
    vm.await_ticks(10)
    return vm


def resident_mib(ground: Ground, vm: Vm) -> int:
    statm = Path(f"/proc/{ground.qemu_pid(vm)}/statm").read_text(encoding="ascii")
    return int(statm.split()[1]) * 4096 // _MIB


def saved_mib(vm: Vm) -> int:
    vm.create("saved", memory=True)
    vm.await_memory("saved")
    return int(vm.get("saved")["attr"]["memory_bytes"]) // _MIB


def test_what_the_guest_has_given_back_is_not_saved(ground: Ground) -> None:
    silent = ticking(ground, TELLS_NOTHING)
    resident, saved = resident_mib(ground, silent), saved_mib(silent)
    assert saved > _CHURNED_MIB, "nobody told that it is not needed any more"
    silent.shutoff()

    vm = ticking(ground, TELLS)
    # the guest's kernel tells it in its own time, some two seconds later
    eventually(lambda: resident_mib(ground, vm) < resident - _CHURNED_MIB // 2, "QEMU has given it back", timeout_s=60)
    assert saved_mib(vm) < saved - _CHURNED_MIB // 2
    vm.await_ticks(10)
    mark = len(vm.witness().lines())
    vm.rollback("saved", memory=True)
    vm.await_ticks(20)
    assert vm.witness().resumption(mark).n > 0
    assert vm.witness().torn() == []
    assert len(vm.witness().boots()) == 1
    vm.shutoff()
