"""A crowd: two hundred requests in flight at a time on five VMs, and in the end exactly what the accepted ones make.

Three VMs are shut off, on two a witness runs. One operation a VM, decided by the database: the journal's order is the
order in which the model does them again. Now and then one is cancelled, and then it is as if it had never been.
``STILLFRAME_CROWD_S=120`` lets the crowd come for two minutes; ``STILLFRAME_SEED`` makes its requests the same again,
though not their order.
"""

from __future__ import annotations

import asyncio
import os
import secrets
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from fault.crowd import Crowd, open_crowd
from fault.crowd_vms import Live, Off
from fault.pressed import KEPT, READS
from support.service import STILLFRAME, eventually, free_port
from support.struck import At

pytestmark = [pytest.mark.guest, pytest.mark.timeout(900)]

SECONDS = float(os.environ.get("STILLFRAME_CROWD_S") or 6)
OFF, LIVE, IN_FLIGHT, ROUNDS = 3, 2, 200, 3
LOOKS = 10  # of each kind at each VM, all at the same time
# what each VM is busy with: the call, the snapshot, and where the operation stands still
BUSY = (
    ("create", "new", At("create", "make durable", "before")),
    ("delete", "tip", At("delete", "drop memory and screenshot", "before")),
    ("rollback", "tip", At("rollback", "power off", "before")),
    ("create with memory", "new", At("create", "make durable", "before")),
    ("rollback with memory", KEPT, At("rollback", "power off", "before")),
)

_HOLD = """
import sqlite3, sys
database = sqlite3.connect(sys.argv[1], isolation_level=None)
database.execute("BEGIN IMMEDIATE")
database.execute("UPDATE service_facts SET value = value")
print("held", flush=True)
sys.stdin.read()
database.execute("ROLLBACK")
"""


@pytest.fixture(scope="module")
def crowd() -> Iterator[Crowd]:
    number = int(os.environ.get("STILLFRAME_SEED") or secrets.randbelow(1 << 32))
    with open_crowd(OFF, LIVE, number) as opened:
        yield opened


def test_a_crowd_ends_with_what_the_accepted_requests_make(crowd: Crowd) -> None:
    for last in (*[False] * (ROUNDS - 1), True):
        crowd.press(SECONDS / ROUNDS, IN_FLIGHT, until_all=last)
        crowd.compare(deep=last)
    sys.stdout.write(f"{crowd}\n")
    assert crowd.missing(Off) == []
    assert crowd.missing(Live) == []
    assert crowd.busy, "two requests met on one VM"


def test_readers_are_answered_while_every_vm_is_busy(crowd: Crowd) -> None:
    """On each an operation stands still in its slot; every look is answered meanwhile, many at a time."""
    crowd.begin()
    asyncio.run(look_while_every_vm_is_busy(crowd))
    crowd.compare()


async def look_while_every_vm_is_busy(crowd: Crowd) -> None:
    service = crowd.service
    wanted = Counter(at for _call, _name, at in BUSY)
    async with crowd.client() as http:
        assert all(await asyncio.gather(*(crowd.one_request(http, vm, "create", "tip") for vm in crowd.vms)))
        service.forget_moments()
        with service.held(*wanted, every=True):
            asked = zip(crowd.vms, BUSY, strict=True)
            writers = [asyncio.create_task(crowd.one_request(http, vm, *words)) for vm, (*words, _at) in asked]
            await asyncio.to_thread(eventually, lambda: wanted <= Counter(service.moments()), "all stand still", 120)
            looks = [(vm, call) for vm in crowd.vms for call in READS for _ in range(LOOKS)]
            await asyncio.gather(*(crowd.one_request(http, vm, call) for vm, call in looks))
            for vm in crowd.vms:
                for look in (vm.vm.head, vm.vm.inspect):
                    await asyncio.to_thread(look)
            assert not any([await crowd.one_request(http, vm, "create", "second") for vm in crowd.vms])
            assert not any(writer.done() for writer in writers)
        assert all(await asyncio.gather(*writers))


def test_readers_do_not_wait_for_a_writer(crowd: Crowd) -> None:
    """Another process holds the database's only write transaction open; every look is answered meanwhile."""
    path = crowd.service.state / "stillframe.db"
    holder = subprocess.Popen(
        [sys.executable, "-c", _HOLD, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with holder:
        assert holder.stdout is not None
        assert holder.stdin is not None
        try:
            assert holder.stdout.readline() == "held\n"
            with sqlite3.connect(path, timeout=0) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
            for vm in crowd.vms:
                vm.look()
            crowd.service.get("/v1/compute/list")
            with sqlite3.connect(path, timeout=0) as other, pytest.raises(sqlite3.OperationalError, match="locked"):
                other.execute("BEGIN IMMEDIATE")
        finally:
            holder.stdin.close()


def test_a_second_service_on_the_same_state_directory_refuses_to_start(crowd: Crowd) -> None:
    """It says so in both languages and changes nothing; the first goes on."""
    service = crowd.service
    told = (service.state / "service.json").read_text()
    listen = f"127.0.0.1:{free_port()}"
    command = [STILLFRAME, "serve", "--listen", listen, "--state", str(service.state), "--connect", service.connect]
    second = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
    assert second.returncode == 1
    assert "another stillframe serve runs on this state directory" in second.stderr
    assert "另一个 stillframe serve 正在使用该状态目录" in second.stderr
    assert "Traceback" not in second.stderr
    assert (service.state / "service.json").read_text() == told
    for pressed in crowd.vms:
        pressed.look()
        pressed.vm.create("after the second one")
        pressed.vm.delete("after the second one")
        pressed.look()
