"""How long a start takes with a long history and twenty interrupted operations.

    python benchmarks/recovery.py [--vms 1000]

Each VM of the history has 20 finished operations and 10 snapshots. Twenty creates are stopped after the disks were switched,
and the service is killed; then it is started three times like that.
"""

from __future__ import annotations

import argparse
import sqlite3
import sys
import time
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from support.ending import end_in_order
from support.lab import Lab, make_vm, open_lab, settle
from support.ledger import rows
from support.service import SNAPSHOT, Vm, eventually
from support.struck import At, Striker

INTERRUPTED, OPERATIONS, SNAPSHOTS, ROUNDS = 20, 20, 10, 3
STEPS = ("make overlays", "make memory file", "fix the point in time", "make durable", "publish")


def fill(database_path: Path, vms: int) -> None:
    """Finished history, straight into the tables."""
    with closing(sqlite3.connect(database_path)) as database, database:
        definition = "<domain>" + "x" * 4000 + "</domain>"
        for _vm in range(vms):
            vm_uuid, parent = str(uuid.uuid4()), None
            database.execute("INSERT INTO vms (uuid, last_seq) VALUES (?, ?)", (vm_uuid, SNAPSHOTS))
            for seq in range(SNAPSHOTS):
                snapshot = str(uuid.uuid4())
                database.execute(
                    "INSERT INTO snapshots (uuid, vm_uuid, seq, name, description, parent_uuid, ctime, tenant, tenant_name, "
                    "namespace, vm_detail, definition_xml, definition_checksum, screenshot_checksum) "
                    "VALUES (?, ?, ?, ?, '', ?, 1, 't', 'T', 'n', '{}', ?, 'blake3:00', '')",
                    (snapshot, vm_uuid, seq + 1, f"s{seq}", parent, definition),
                )
                parent = snapshot
            for _operation in range(OPERATIONS):
                operation = str(uuid.uuid4())
                database.execute(
                    "INSERT INTO operations (uuid, vm_uuid, slot, kind, state, plan, started_at, ended_at, error) "
                    "VALUES (?, ?, 'exclusive', 'create', 'done', ?, 1, 2, '')",
                    (operation, vm_uuid, "{" + " " * 3000 + "}"),
                )
                database.executemany(
                    "INSERT INTO operation_steps (operation_uuid, position, step) VALUES (?, ?, ?)",
                    [(operation, position, step) for position, step in enumerate(STEPS)],
                )


def interrupt(lab: Lab, vms: list[Vm]) -> None:
    def create(vm: Vm) -> object:
        return vm.service.send(
            f"{SNAPSHOT}/create", cluster_uuid="", compute_uuid=vm.uuid, name="new", domain_memory=False
        )

    query = (
        "SELECT o.uuid FROM operations o JOIN operation_steps s ON s.operation_uuid = o.uuid "
        "WHERE s.step = 'fix the point in time' AND o.lock_key IS NOT NULL"
    )
    moment = At("create", "make durable", "acted")
    with ThreadPoolExecutor(len(vms)) as clients, lab.service.held(moment, every=True):
        for vm in vms:
            clients.submit(create, vm)
        eventually(lambda: len(rows(lab.service, query)) == len(vms), "all stand still", timeout_s=120)
        lab.service.kill()


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--vms", type=int, default=1000)
    chosen = parser.parse_args()
    end_in_order()
    striker = Striker()
    try:
        with open_lab(striker) as lab:
            vms = [make_vm(lab.daemon, lab.service, f"crowd-{n:02}", disks=1, size="1M") for n in range(INTERRUPTED)]
            lab.service.stop()
            fill(lab.service.state / "stillframe.db", chosen.vms)
            lab.service.start()
            ready: list[float] = []
            finished: list[float] = []
            for _round in range(ROUNDS):
                interrupt(lab, vms)
                begun = time.monotonic()
                lab.service.start()
                ready.append(time.monotonic() - begun)
                settle(lab.service)
                finished.append(time.monotonic() - begun)
                print(f"ready after {ready[-1]:.2f} s, all {INTERRUPTED} undone after {finished[-1]:.2f} s", flush=True)
            size = (lab.service.state / "stillframe.db").stat().st_size >> 20
            print(
                f"{chosen.vms} VMs' history ({chosen.vms * OPERATIONS} operations, {chosen.vms * SNAPSHOTS} snapshots, {size} MiB): "
                f"ready {median(ready):.2f} s, finished {median(finished):.2f} s (median of {ROUNDS})"
            )
    finally:
        striker.close()
    return 0


if __name__ == "__main__":
    sys.exit(main())
