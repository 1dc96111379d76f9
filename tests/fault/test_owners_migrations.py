"""What a capture sets in a guest's QEMU is as it was afterwards, and a migration of the owner's is not taken for a capture."""

from __future__ import annotations

import json
from typing import Any

import pytest

from support.ground import Ground, settle
from support.service import Vm

pytestmark = pytest.mark.guest


def ask(ground: Ground, vm: Vm, command: str) -> Any:
    return json.loads(ground.qmp(vm, json.dumps({"execute": command})))["return"]


def limits(ground: Ground, vm: Vm) -> tuple[int, int]:
    found = ask(ground, vm, "query-migrate-parameters")
    return found["downtime-limit"], found["max-bandwidth"]


@pytest.mark.parametrize("downtime_ms", [100, 30, 10, 500, 300])
def test_limits_are_the_owners_again(ground: Ground, downtime_ms: int) -> None:
    vm = ground.running(f"limits-{downtime_ms}")
    ground.virsh("migrate-setmaxdowntime", vm.name, str(downtime_ms))
    before = limits(ground, vm)
    assert before[0] == downtime_ms
    vm.create("memory", memory=True)
    settle(ground.service)
    assert limits(ground, vm) == before


def test_limits_are_the_owners_again_after_the_slower_way(ground: Ground) -> None:
    vm = ground.service.guest("slower", memory_mib=128, fill_mib=8, private_file_memory=True)
    try:
        ground.virsh("migrate-setmaxdowntime", vm.name, "500")
        before = limits(ground, vm)
        assert vm.create("memory", memory=True)["attr"]["capture_mode"] == "live"
        settle(ground.service)
        assert limits(ground, vm) == before
        vm.delete("memory")
    finally:
        ground.service.post("/v1/stillframe/guest/delete", name=vm.name)


def test_a_capture_that_failed_is_not_taken_for_what_the_owner_did_since(ground: Ground) -> None:
    """QEMU tells how its last migration ended, whoever's it was."""
    vm = ground.running("failed", memory_mib=512)
    vm.create("memory", memory=True, wait=False)
    ground.service.kill()
    ask(ground, vm, "migrate_cancel")
    assert ask(ground, vm, "query-migrate")["status"] == "cancelled"
    assert vm.console is not None
    files = {name: vm.console.with_name(name) for name in ("owners.save", "owners.qcow2")}
    where = ["--memspec", f"file={files['owners.save']},snapshot=external"]
    where += ["--diskspec", f"vda,snapshot=external,file={files['owners.qcow2']}"]
    ground.virsh("snapshot-create-as", vm.name, "owners", *where, "--live")
    assert ask(ground, vm, "query-migrate")["status"] == "completed"
    ground.service.start()
    vm.await_settled("memory")
    attr = vm.get("memory")["attr"]
    assert attr["status"] == "failed"
    assert "another migration" in attr["reason"]
    ground.virsh("snapshot-delete", vm.name, "owners", "--metadata")
