"""How long reads take at 1,000 and at 1,000,000 snapshots, on SQLite and on PostgreSQL, and how many a core answers.

    python benchmarks/reads.py [--quick] [--write docs/benchmarks.md]

``--write`` puts the figures into a section of their own at the end of a document that bench.py has written. ``--quick`` plants
10,000 instead of a million and asks less often: it says whether the benchmark works, not how fast the service is.
"""

from __future__ import annotations

import argparse
import os
import shlex
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

import asking
from measurements import Measurements
from planting import PER_VM, plant_postgresql, plant_sqlite
from report import put_section
from scale import FULL, QUICK, Effort
from virsh import Virsh, define_machine

from support.ending import end_in_order
from support.postgres import PostgresCluster, private_postgres
from support.private_libvirtd import PrivateLibvirtd
from support.service import SNAPSHOT, Service, eventually, free_port

HEADING = "## Reads with a long history"
FEW = 1_000
GROWTH_MAX, SHARE_MIN = 1.3, 0.5
DATABASES = ("SQLite", "PostgreSQL")
CALLS = {
    "list": ("list of 50", f"{SNAPSHOT}/list?cluster_uuid=&compute_uuid={{vm}}&page_size=50&page_num=3"),
    "get": ("get", f"{SNAPSHOT}/get?cluster_uuid=&compute_uuid={{vm}}&name=nightly%200500"),
    "tree": ("tree of 1,000", f"{SNAPSHOT}/tree?cluster_uuid=&compute_uuid={{vm}}"),
    "head": ("head", f"{SNAPSHOT}/head?cluster_uuid=&compute_uuid={{vm}}"),
}
_SERVER_CORE, _CLIENT_CORE = 0, 1
EXPLANATION = """\
Written by `{command}` on {day}: medians of {repeats} (smallest to largest) in turn. The machine's load was {load} before the
first request.

1,000 snapshots are those of one virtual machine, {many:,} those of {vms:,} with 1,000 each, planted row by row as they would
have grown: every machine gets its next snapshot in the same night, so one machine's rows lie far apart. Each snapshot has a
definition, a configuration and a disk of usual length, every fourth one memory. On SQLite it is `stillframe serve` itself; on
PostgreSQL the same service with another database below it, which no setting offers. Every request goes over HTTP, its key is
read from the database and the virtual machine is asked of libvirt.

What a core answers: the service is pinned to one core and asked on eight connections, beside an application of the same
framework and server that sends as many bytes that lie ready, and does nothing else: no key, no database, no libvirt. By
processor time: what one answer takes of it, which says more where other work runs on the machine.

The share is what it costs that nothing is remembered and nothing that hangs holds up others: with every request its key is read
from the database and the machine is asked of libvirt, in two transactions and three changes of thread. Those alone take more
processor time than the constant does."""


@dataclass(frozen=True)
class Place:
    """A service on a database with so many snapshots."""

    database: str
    snapshots: int
    service: Service
    vm_uuid: str

    def request(self, call: str) -> asking.Request:
        key = (self.service.state / "admin.key").read_text().strip()
        path = CALLS[call][1].format(vm=self.vm_uuid)
        return asking.get(self.service.port, self.service.pid, path, key)


@contextmanager
def places(effort: Effort) -> Iterator[list[Place]]:
    """The four services, each pinned to the same core; one machine is asked about in all of them."""
    with ExitStack() as stack:
        daemon = stack.enter_context(PrivateLibvirtd())
        cluster = stack.enter_context(private_postgres())
        found: list[Place] = []
        vm_uuid = ""
        for database in DATABASES:
            for snapshots in (FEW, effort.many):
                url = stack.enter_context(cluster.database()) if database == "PostgreSQL" else ""
                service = Service(daemon.uri)
                stack.callback(service.destroy)  # before its database is dropped
                vm_uuid = vm_uuid or define_machine(service, daemon.uri, "bench-reads").uuid
                vms = [vm_uuid, *(str(uuid.uuid4()) for _ in range(snapshots // PER_VM - 1))]
                begun = time.monotonic()
                plant(service, url, cluster, vms)
                print(f"{database}: {snapshots:,} planted in {time.monotonic() - begun:.0f} s", flush=True)
                service.prefix = ["taskset", "--cpu-list", str(_SERVER_CORE), *service.prefix]
                found.append(Place(database, snapshots, service.start(), vm_uuid))
        yield found
        Virsh(daemon.uri)("undefine", vm_uuid)


def plant(service: Service, url: str, cluster: PostgresCluster, vms: list[str]) -> None:
    """``url``: of a PostgreSQL database for it; "": it has its own file."""
    if not url:
        plant_sqlite(service.state / "stillframe.db", vms)
        return
    with cluster.connect(url.partition("@/")[2].partition("?")[0]) as connection:
        plant_postgresql(url, connection, vms)
    service.prefix = [sys.executable, str(Path(__file__).with_name("elsewhere.py")), url]


def measure_latency(effort: Effort, found: list[Place], measured: Measurements) -> dict[str, int]:
    """Each request in turn at each place; returns how many bytes the answer to each call has."""
    connections = {place.service.port: asking.Connection(place.service.port) for place in found}
    sizes: dict[str, int] = {}
    for repeat in range(effort.repeats):
        for call in CALLS:
            for place in found:
                taken_ms, body = asking.ask(connections[place.service.port], place.request(call))
                if b'"scode":0,' not in body[:20]:
                    raise RuntimeError(f"{call}: {body[:300]!r}")
                sizes[call] = len(body)
                if repeat:  # the first finds nothing warm
                    measured.add(f"{call}.{place.database}.{place.snapshots}", taken_ms)
    return sizes


def measure_throughput(effort: Effort, found: list[Place], sizes: dict[str, int], measured: Measurements) -> None:
    """The services with the many, each beside a constant of the same size, turn by turn."""
    with constants(set(sizes.values())) as (port, pid):
        for _slice in range(effort.slices):
            for call, size in sizes.items():
                servers = {"constant": asking.get(port, pid, f"/{size}")}
                servers |= {place.database: place.request(call) for place in found if place.snapshots == effort.many}
                for name, request in servers.items():
                    served = asking.crowd(request, effort.slice_s)
                    measured.add(f"per_s.{call}.{name}", served.per_s)
                    measured.add(f"cpu.{call}.{name}", served.cpu_ms)


@contextmanager
def constants(sizes: set[int]) -> Iterator[tuple[int, int]]:
    """(port, pid) of the server of constants, on the services' core."""
    port = free_port()
    program = [sys.executable, str(Path(__file__).with_name("constant.py")), str(port), *map(str, sizes)]
    server = subprocess.Popen(["taskset", "--cpu-list", str(_SERVER_CORE), *program])
    try:
        eventually(lambda: _is_open(port), "the constants are served")
        yield port, server.pid
    finally:
        server.terminate()
        server.wait()


def _is_open(port: int) -> bool:
    try:
        asking.Connection(port).close()
    except ConnectionRefusedError:
        return False
    return True


def table(effort: Effort, measured: Measurements, sizes: dict[str, int]) -> str:
    """Two tables, as Markdown."""
    lines = [
        f"| median, ms | {FEW:,} snapshots | {effort.many:,} | ratio | {GROWTH_MAX} at most |",
        "|---|---|---|---|---|",
    ]
    for database in DATABASES:
        for call, (title, _path) in CALLS.items():
            few, many = f"{call}.{database}.{FEW}", f"{call}.{database}.{effort.many}"
            ratio = measured.median(many) / measured.median(few)
            word = "holds" if ratio <= GROWTH_MAX else "**MISSED**"
            figures = f"{measured.text(few)} | {measured.text(many)} | {ratio:.2f}"
            lines.append(f"| {title}, {database} | {figures} | {word} |")
    lines += [
        "",
        f"| answers a second of one core | bytes | a constant | the call | share | {SHARE_MIN} at least | by processor time |",
        "|---|---|---|---|---|---|---|",
    ]
    for database in DATABASES:
        for call, (title, _path) in CALLS.items():
            share = measured.median(f"per_s.{call}.{database}") / measured.median(f"per_s.{call}.constant")
            cpu = measured.median(f"cpu.{call}.constant") / measured.median(f"cpu.{call}.{database}")
            word = "holds" if share >= SHARE_MIN else "**MISSED**"
            figures = f"{measured.text(f'per_s.{call}.constant')} | {measured.text(f'per_s.{call}.{database}')}"
            lines.append(
                f"| {title}, {database} | {sizes[call]:,} | {figures} | {share:.2f} | {word} | "
                f"{measured.median(f'cpu.{call}.constant'):.2f} of "
                f"{measured.median(f'cpu.{call}.{database}'):.2f} ms, {cpu:.2f} |"
            )
    return "\n".join(lines)


@dataclass(frozen=True)
class Found:
    """Beside the figures: how busy the machine was before, and how many bytes each call's answer has."""

    load: float
    sizes: dict[str, int]


def measure(effort: Effort, measured: Measurements) -> Found:
    """Everything, on a libvirtd and services of its own; this process gets a core of its own for the time."""
    with places(effort) as found:
        load = os.getloadavg()[0]
        cores = os.sched_getaffinity(0)
        os.sched_setaffinity(0, {_CLIENT_CORE})
        try:
            sizes = measure_latency(effort, found, measured)
            measure_throughput(effort, found, sizes, measured)
        finally:
            os.sched_setaffinity(0, cores)
    return Found(load, sizes)


def section(command: str, effort: Effort, measured: Measurements, found: Found) -> str:
    """What stands in the document below ``HEADING``."""
    said = EXPLANATION.format(
        command=command,
        day=f"{datetime.now(UTC):%Y-%m-%d}",
        repeats=effort.repeats - 1,
        load=f"{found.load:.1f}",
        many=effort.many,
        vms=effort.many // PER_VM,
    )
    return f"{said}\n\n{table(effort, measured, found.sizes)}"


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Read with a short and a long history.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures at the end of this document")
    parser.add_argument("--quick", action="store_true", help="a small history, asked about a few times")
    given = parser.parse_args(arguments)
    effort = (QUICK if given.quick else FULL).reads
    end_in_order()
    measured = Measurements()
    found = measure(effort, measured)
    print(table(effort, measured, found.sizes))
    if given.write:
        command = shlex.join(["python", "benchmarks/reads.py", *arguments])
        put_section(given.write, HEADING, section(command, effort, measured, found))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
