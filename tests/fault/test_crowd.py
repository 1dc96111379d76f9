"""A crowd: two hundred requests in flight at a time on five VMs, and in the end exactly what the accepted ones make.

One operation a VM, decided by the database: the journal's order is the order in which the model does them again.
``STILLFRAME_CROWD_S=120`` lets the crowd come for two minutes; ``STILLFRAME_SEED`` makes its requests the same again,
though not their order.
"""

from __future__ import annotations

import os
import secrets
import sqlite3
import subprocess
import sys
from collections.abc import Iterator

import pytest

from fault.crowd import Crowd, open_crowd
from support.service import STILLFRAME, free_port

pytestmark = pytest.mark.timeout(600)

SECONDS = float(os.environ.get("STILLFRAME_CROWD_S") or 20)
VMS, IN_FLIGHT, ROUNDS = 5, 200, 4

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
    with open_crowd(VMS, number) as opened:
        yield opened


def test_a_crowd_ends_with_what_the_accepted_requests_make(crowd: Crowd) -> None:
    for _ in range(ROUNDS):
        crowd.press(SECONDS / ROUNDS, IN_FLIGHT)
        crowd.compare()
    assert crowd.accepted("create")
    assert crowd.accepted("rollback")
    assert crowd.accepted("rollback_volume")
    assert crowd.accepted("delete")
    assert crowd.accepted("modify")
    assert crowd.busy, "two requests met on one VM"
    sys.stdout.write(f"{crowd}\n")


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
            for bench in crowd.benches:
                bench.compare()
                for name in bench.vm.names():
                    bench.vm.get(name)
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
    for bench in crowd.benches:
        bench.compare()
        bench.create("after the second one")
        bench.delete("after the second one")
