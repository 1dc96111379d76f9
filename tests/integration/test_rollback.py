"""Rollback loses no snapshot: newer and older ones stay, each bit-exact; only the un-snapshotted head is thrown away."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from support.checksums import checksum_image
from support.ledger import check_census, checksums, head_checksums, layer_paths
from support.offline import write
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, Vm

VOLUMES = "/v1/compute/volume/snapshot/rollback"


@pytest.mark.guest
def test_a_rollback_to_an_older_snapshot_keeps_the_newer_ones(take: Take) -> None:
    vm = take("two", boot=True)
    vm.create("s1")
    vm.await_ticks(20)
    vm.create("m2", memory=True)
    vm.await_ticks(20)
    vm.create("s3")
    vm.await_ticks(20)
    exact = checksums(vm)
    assert len({frozenset(of.items()) for of in exact.values()}) == 3

    vm.rollback("s1")
    assert vm.state() == "shutoff"
    assert vm.head()["name"] == "s1"
    assert head_checksums(vm) == exact["s1"]
    assert checksums(vm) == exact
    vm.start()
    vm.await_ticks(20)
    assert "vda=" + vm.witness().ticks()[0][0] in vm.witness().boots()[-1]
    assert checksums(vm) == exact

    vm.rollback("m2", memory=True)
    vm.await_ticks(20)
    assert checksums(vm) == exact
    vm.create("branch")
    exact["branch"] = checksums(vm)["branch"]
    vm.rollback("s3")
    assert head_checksums(vm) == exact["s3"]
    vm.rollback("m2")  # its disks alone
    assert vm.state() == "shutoff"
    assert head_checksums(vm) == exact["m2"]
    assert checksums(vm) == exact
    assert vm.tree()["Parents"] == {"s1": "", "m2": "s1", "s3": "m2", "branch": "m2", "head": "m2"}
    assert vm.witness().torn() == []


def test_the_answer_of_a_rollback_is_the_snapshot(take: Take) -> None:
    vm = take("two")
    vm.create("a", description="第一")
    vm.create("b")
    assert vm.rollback("a") == vm.get("a")
    assert vm.head() == vm.get("a")
    assert vm.state() == "shutoff"


def test_what_was_written_since_is_thrown_away_and_nothing_else(take: Take) -> None:
    vm = take("one")
    write(vm.disk_path(), 0x11)
    vm.create("a")
    clean = checksum_image(vm.disk_path())
    write(vm.disk_path(), 0x22)
    thrown_away = vm.disk_path()
    vm.rollback("a")
    assert checksum_image(vm.disk_path()) == clean
    assert not Path(thrown_away).exists()
    assert checksums(vm)["a"]["vda"] == clean


class Model:
    """What every snapshot's disks and the head must read, kept beside the service that is tested."""

    def __init__(self, vm: Vm, seed: int) -> None:
        self.vm = vm
        self.choose = random.Random(seed)
        self.snapshots: dict[str, dict[str, str]] = {}
        self.parent: dict[str, str] = {}
        self.head = ""
        self.contents = {target: checksum_image(vm.disk_path(target)) for target in ("vda", "vdb")}
        self.made = 0

    def write(self) -> None:
        target = self.choose.choice(["vda", "vdb"])
        offset = self.choose.randrange(8)
        write(self.vm.disk_path(target), self.choose.randrange(1, 256), f"{offset}M", "300k")
        self.contents = {**self.contents, target: checksum_image(self.vm.disk_path(target))}

    def create(self) -> None:
        self.made += 1
        name = f"s{self.made}"
        self.vm.create(name)
        self.snapshots[name], self.parent[name], self.head = self.contents, self.head, name

    def roll_back(self) -> None:
        if name := self._any():
            self.vm.rollback(name)
            self.contents, self.head = self.snapshots[name], name

    def roll_back_volume(self) -> None:
        if name := self._any():
            entry = self.choose.choice(self.vm.get(name)["disk_snapshot_list"])
            answer = self.vm.post(VOLUMES, disk_snapshot_list=[entry])
            assert answer["success"] == 1, answer
            target = entry["DiskDrive"]
            self.contents = {**self.contents, target: self.snapshots[name][target]}

    def delete(self) -> None:
        if not (name := self._any()):
            return
        children = [child for child, parent in self.parent.items() if parent == name]
        if len(children) > 1:
            desc = must_refuse_post(self.vm, ErrorCase.SNAPSHOT_HAS_CHILDREN, f"{SNAPSHOT}/delete", name=name)
            assert all(f'"{child}"' in desc for child in children)
            return
        self.vm.delete(name)
        grandparent = self.parent.pop(name)
        del self.snapshots[name]
        self.parent.update(dict.fromkeys(children, grandparent))
        self.head = grandparent if self.head == name else self.head

    def check(self) -> None:
        assert self.vm.tree()["Parents"] == {**self.parent, "head": self.head}
        assert checksums(self.vm) == self.snapshots
        assert {target: checksum_image(self.vm.disk_path(target)) for target in ("vda", "vdb")} == self.contents
        check_census(self.vm.service)

    def _any(self) -> str:
        return self.choose.choice(list(self.snapshots)) if self.snapshots else ""


@pytest.mark.guest
@pytest.mark.parametrize("seed", [1, 2])
def test_any_course_of_events_leaves_every_snapshot_bit_exact(take: Take, seed: int) -> None:
    """Creates, rollbacks, single-disk rollbacks, deletes and writes in any order, against a model, bit for bit."""
    model = Model(take("small"), seed)
    acts = [model.write, model.write, model.create, model.create, model.roll_back, model.roll_back_volume, model.delete]
    for _ in range(25):
        model.choose.choice(acts)()
        model.check()
    while model.snapshots:
        model.delete()
    model.check()
    assert layer_paths(model.vm) == {}
