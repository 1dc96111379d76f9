"""A memory state that rots behind the file system's back: found before it is restored from, and said.

What is found before anything happens (missing, truncated, changed) is in ``tests/integration/test_memory.py``.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import Lab, settle
from support.ledger import check_census, head_checksums, rows
from support.refusal import must_refuse_post
from support.service import SNAPSHOT
from support.struck import At

pytestmark = pytest.mark.guest


def test_a_bit_that_flips_after_all_checks(lab: Lab) -> None:
    """The power is about to be cut: the VM is rolled back and off, and its memory never runs."""
    vm = lab.running
    memory = memory_file(lab)
    with ThreadPoolExecutor() as clients, lab.service.held(At("rollback", "power off", "before")) as hold:
        asked = clients.submit(
            vm.service.send,
            f"{SNAPSHOT}/rollback",
            cluster_uuid="",
            compute_uuid=vm.uuid,
            name="goal",
            domain_memory=True,
        )
        hold.wait()
        flip(memory)
        hold.release()
        answer = asked.result()
    assert answer is not None
    assert answer["scode"] == ErrorCase.MEMORY_DAMAGED.code, answer
    assert "its contents differ from what was saved" in answer["desc"]
    settle(lab.service)
    assert vm.state() == "shutoff"
    assert vm.head()["name"] == "goal"
    assert head_checksums(vm) == lab.exact[vm.uuid]["goal"]
    check_whole(lab)

    vm.start()
    vm.await_ticks(5)
    must_refuse_post(vm, ErrorCase.MEMORY_DAMAGED, f"{SNAPSHOT}/rollback", name="goal", domain_memory=True)
    assert vm.state() == "running"
    vm.await_ticks(3)
    vm.rollback("goal")
    vm.start()
    vm.await_ticks(5)

    flip(memory)  # whole again
    vm.rollback("goal", memory=True)
    vm.await_ticks(5)
    assert vm.witness().torn() == []
    check_whole(lab)


def memory_file(lab: Lab) -> Path:
    query = (
        "SELECT m.uuid FROM memory_states m JOIN snapshots s ON s.uuid = m.snapshot_uuid "
        "WHERE s.vm_uuid = ? AND s.name = 'goal'"
    )
    ((uuid,),) = rows(lab.service, query, lab.running.uuid)
    return lab.service.state / "memory" / f"{uuid}.mem"


def flip(file: Path) -> None:
    """One bit in the middle, without a trace in the length."""
    with file.open("r+b") as memory:
        memory.seek(file.stat().st_size // 2)
        byte = memory.read(1)
        memory.seek(-1, 1)
        memory.write(bytes([byte[0] ^ 1]))


def check_whole(lab: Lab) -> None:
    settle(lab.service)
    lab.check_exact(lab.running)
    check_census(lab.service)
