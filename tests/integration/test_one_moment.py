"""A snapshot is one moment: memory with disks, and several disks with each other, under load."""

from __future__ import annotations

import random
import struct
import subprocess
import tempfile
from dataclasses import dataclass

import pytest

from integration.conftest import Take
from support.ledger import checksums, layer_paths
from support.service import Vm

pytestmark = pytest.mark.guest

ROUNDS = 20


@dataclass(frozen=True)
class Moment:
    """A memory snapshot was fixed after the tick ``least`` was printed and before the one after ``most`` was."""

    boot: str
    least: int
    most: int


def snapshot_memory(vm: Vm, name: str) -> Moment:
    """Take a snapshot with memory of a ticking guest; returns between which ticks."""
    boot, least = vm.witness().ticks()[-1]
    vm.create(name, memory=True, wait=False)
    last_boot, most = vm.witness().ticks()[-1]
    assert last_boot == boot
    vm.await_memory(name)
    return Moment(boot, least, most)


def roll_back_and_check(vm: Vm, name: str, moment: Moment) -> None:
    """The guest resumes exactly at the moment: same boot id, next number, nothing torn, and it goes on."""
    vm.await_ticks(10)
    mark = len(vm.witness().lines())
    torn = vm.witness().torn()
    assert vm.rollback(name, memory=True)["name"] == name
    vm.await_ticks(30)
    resumed = vm.witness().resumption(mark)
    assert resumed.boot == moment.boot
    # a tick whose line was cut by the moment is told by the line after it
    assert moment.least < resumed.n <= moment.most + 1 + resumed.odd
    assert vm.witness().torn() == torn == []
    assert vm.state() == "running"
    assert vm.head()["name"] == name


def test_memory_and_disks_of_one_moment(take: Take) -> None:
    """Twenty snapshots with memory under write load, and as many rollbacks to any of them, in a growing tree."""
    vm = take("load", boot=True)
    choose = random.Random(20)
    moments: dict[str, Moment] = {}
    for number in range(ROUNDS):
        name = f"m{number}"
        vm.await_ticks(5)
        moments[name] = snapshot_memory(vm, name)
        # a guest that lives on the file of another snapshot cannot be captured while it runs on, not under emulation
        straight = number < ROUNDS // 2
        assert vm.get(name)["attr"]["capture_mode"] == ("background-snapshot" if straight else "stopped")
        if number + 1 >= ROUNDS // 2:
            back = name if number % 3 == 0 else choose.choice(list(moments))
            roll_back_and_check(vm, back, moments[back])
    for name in choose.sample(list(moments), ROUNDS // 2):
        roll_back_and_check(vm, name, moments[name])
    assert len(vm.witness().boots()) == 1
    assert len(vm.names()) == ROUNDS


def records(path: str) -> tuple[int, int]:
    """(boot id, n) of the witness's record in block 0 of a frozen layer, read through its chain."""
    with tempfile.NamedTemporaryFile(prefix="sf-raw-", dir="/tmp") as raw:
        command = ["qemu-img", "dd", "-U", "-f", "qcow2", "-O", "raw", "bs=4096", "count=1"]
        subprocess.run([*command, f"if={path}", f"of={raw.name}"], check=True, capture_output=True)
        boot, n = struct.unpack_from("<QQ", raw.read())
        return boot, n


def test_two_disks_are_one_moment(take: Take) -> None:
    """Twenty disk-only snapshots under load. The witness writes n to vda, then to vdb: they differ by at most one."""
    vm = take("load", boot=True)
    for number in range(ROUNDS):
        vm.create(f"d{number}")
        vm.await_ticks(3)
    frozen = layer_paths(vm)
    seen: list[int] = []
    for number in range(ROUNDS):
        (boot_a, a), (boot_b, b) = (records(frozen[f"d{number}"][target][0]) for target in ("vda", "vdb"))
        assert boot_a == boot_b
        assert a - b in (0, 1)
        seen.append(a)
    assert seen == sorted(seen)
    assert seen[-1] - seen[0] >= ROUNDS
    before = checksums(vm)
    vm.await_ticks(20)
    assert checksums(vm) == before
    assert vm.witness().torn() == []
    assert vm.witness().jumps() == []
