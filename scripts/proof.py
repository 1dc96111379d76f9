"""Whether a snapshot with memory is one moment, at every size: many snapshots under full write load, each gone back to.

    python scripts/proof.py [--snapshots 300] [--rounds 50] [--sizes 512,1024,2048,4096]

In batches, on a fresh guest each: snapshots with memory are taken while it writes, then it is rolled back to every one of them.
The witness compares its disk with its memory at every tick and says TORN where they are of different moments. Afterwards
``--rounds`` of snapshot and rollback in a row on one guest, each snapshot taken of a guest that lives on the file of the one
before. Exit code 0 when nothing was torn, no guest booted anew, and each went on exactly where its snapshot was.
"""

from __future__ import annotations

import argparse
import re
import sys
import time
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from integration.test_one_moment import Moment, roll_back_and_check, snapshot_memory
from support.ending import end_in_order
from support.ledger import check_census
from support.private_libvirtd import PrivateLibvirtd
from support.service import Service, Vm, running_service

_BATCH = 15
_ROUNDS_MIB = 256
_DIRTY_PAGES = 200  # with every tick
_FULL = 4  # a fourth of the memory holds random data


def prove(service: Service, size_mib: int, snapshots: int) -> Counter[str]:
    """Snapshots of fresh guests of this size; how often each mode was used."""
    modes: Counter[str] = Counter()
    taken = 0
    while taken < snapshots:
        batch = min(_BATCH, snapshots - taken)
        name = f"proof-{size_mib}-{taken}"
        vm = service.guest(name, memory_mib=size_mib, fill_mib=size_mib // _FULL, dirty_pages=_DIRTY_PAGES, disks=2)
        moments: dict[str, Moment] = {}
        for number in range(batch):
            vm.await_ticks(5)
            moments[f"m{number}"] = snapshot_memory(vm, f"m{number}")
            modes[vm.get(f"m{number}")["attr"]["capture_mode"]] += 1
        # the newest first: each rollback is a jump back in time, which the console shows for certain
        for snapshot, moment in reversed(moments.items()):
            roll_back_and_check(vm, snapshot, moment)
        check_alone(vm)
        check_census(service)
        service.post("/v1/stillframe/guest/delete", name=name)
        taken += batch
        print(f"  {size_mib} MiB: {taken} of {snapshots} taken and gone back to, none torn; {dict(modes)}", flush=True)
    return modes


def go_round(service: Service, rounds: int) -> Counter[str]:
    """Snapshot and rollback in a row, the one before deleted each time."""
    modes: Counter[str] = Counter()
    vm = service.guest("rounds", memory_mib=_ROUNDS_MIB, fill_mib=_ROUNDS_MIB // _FULL, dirty_pages=_DIRTY_PAGES)
    for number in range(rounds):
        moment = snapshot_memory(vm, f"r{number}")
        modes[vm.get(f"r{number}")["attr"]["capture_mode"]] += 1
        roll_back_and_check(vm, f"r{number}", moment)
        if number:
            vm.delete(f"r{number - 1}")
    check_alone(vm)
    check_census(service)
    service.post("/v1/stillframe/guest/delete", name="rounds")
    print(f"  {rounds} rounds of snapshot and rollback in a row, none torn; {dict(modes)}", flush=True)
    return modes


def check_alone(vm: Vm) -> None:
    """Nothing on the whole console is torn, and the guest was never booted anew."""
    witness = vm.witness()
    if witness.torn() or len(witness.boots()) != 1:
        raise RuntimeError(f"{vm.name}: torn: {witness.torn()}; boots: {witness.boots()}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Is a snapshot with memory one moment?")
    parser.add_argument("--snapshots", type=int, default=300, help="in all sizes together (300)")
    parser.add_argument("--rounds", type=int, default=50, help="of snapshot and rollback in a row (50)")
    parser.add_argument("--sizes", default="512,1024,2048,4096", help="of the guests' memory, in MiB")
    given = parser.parse_args(arguments)
    end_in_order()
    sizes = [int(size) for size in given.sizes.split(",")]
    begun_s = time.monotonic()
    modes: Counter[str] = Counter()
    with PrivateLibvirtd() as daemon, running_service(daemon.uri) as service:
        for size_mib in sizes:
            modes += prove(service, size_mib, -(-given.snapshots // len(sizes)))
        rounds = go_round(service, given.rounds) if given.rounds else Counter()
        late = len(re.findall("was stopped too late", service.log_path.read_text()))
    print(
        f"{modes.total()} snapshots of {', '.join(map(str, sizes))} MiB: {dict(modes)}, {late} attempts too late and repeated, "
        f"none torn; {rounds.total()} rounds in a row; {time.monotonic() - begun_s:.0f} s"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
