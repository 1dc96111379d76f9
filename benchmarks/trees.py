"""How long it takes to draw a tree of a thousand snapshots.

    python benchmarks/trees.py [--write docs/benchmarks.md]

By itself, or as a part of bench.py, whose table has the same rows. ``--write`` puts them into a section of their own at the
end of a document that an older run of bench.py has written.
"""

from __future__ import annotations

import argparse
import shlex
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from itertools import product
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "tests"))

from ground import Ground
from report import put_section, trees_table
from scale import FULL
from virsh import Virsh, define_machine

from stillframe.adapters.metadata import open_metadata
from stillframe.domain.snapshot import Snapshot
from support.ending import end_in_order
from support.private_libvirtd import PrivateLibvirtd
from support.service import Service, running_service

SNAPSHOTS = 1000
REPEATS = 31
HEADING = "## A tree of 1,000 snapshots"
KEYS = ("tree.picture", "tree.folded", "tree.overview")
PICTURE, OVERVIEW = "/v1/compute/vsd/snapshot/tree.svg", "/v1/stillframe/vm/overview"


def plant(service: Service, virsh: Virsh) -> str:
    """A machine that is shut off, with a thousand snapshots in the database; returns its uuid."""
    vm = define_machine(service, virsh.uri, "bench-tree")
    with closing(open_metadata(f"sqlite:///{service.state}/stillframe.db")) as metadata, metadata.write() as tx:
        for snapshot in _grown(vm.uuid):
            tx.snapshots.insert(snapshot)
    return vm.uuid


def _grown(vm_uuid: str) -> Iterator[Snapshot]:
    """A branch off an older one at every 25th, straight on in between; each with a definition of usual length."""
    uuids = [str(uuid.uuid4()) for _ in range(SNAPSHOTS)]
    for number, one in enumerate(uuids):
        above = number - 1 if number % 25 else number - 17 if number else -1
        yield Snapshot(
            uuid=one, vm_uuid=vm_uuid, seq=0, name=f"nightly {number:04}", description="", ctime=1_700_000_000 + number,
            parent_uuid=uuids[above] if above >= 0 else None, tenant="default", tenant_name="default", namespace="",
            vm_detail="{" + " " * 4000 + "}", definition_xml=f"<domain>{'x' * 6000}</domain>", definition_checksum="",
            disks=(),
        )  # fmt: skip


def measure(service: Service, vm_uuid: str) -> Iterator[tuple[str, float]]:
    """(key, milliseconds) of each request: the picture unfolded, folded, and the answer that a console draws from."""
    kinds = zip(KEYS, (PICTURE, PICTURE, OVERVIEW), ("false", "true", "true"), strict=True)
    for repeat, (key, path, fold) in product(range(REPEATS), tuple(kinds)):
        begun = time.monotonic()
        response = service.response("GET", path, params={"cluster_uuid": "", "compute_uuid": vm_uuid, "fold": fold})
        taken_ms = (time.monotonic() - begun) * 1000
        if response.status_code != 200 or len(response.content) < 10_000:
            raise RuntimeError(f"{path}: {response.text[:300]}")
        if repeat:  # the first finds nothing warm
            yield key, taken_ms


def measure_on(ground: Ground) -> None:
    """Of one machine that is shut off; nothing else runs meanwhile."""
    vm_uuid = plant(ground.service, ground.virsh)
    for key, value in measure(ground.service, vm_uuid):
        ground.measured.add(key, value)
    ground.virsh("undefine", vm_uuid)


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description="Draw a tree of a thousand snapshots.")
    parser.add_argument("--write", type=Path, metavar="FILE", help="put the figures at the end of this document")
    given = parser.parse_args(arguments)
    end_in_order()
    with PrivateLibvirtd() as daemon, running_service(daemon.uri) as service:
        ground = Ground(daemon, service, Virsh(daemon.uri), FULL)
        measure_on(ground)
    rows = trees_table(ground.measured)
    print(rows)
    if given.write:
        command = shlex.join(["python", "benchmarks/trees.py", *arguments])
        said = (
            f"Written by `{command}` on {datetime.now(UTC):%Y-%m-%d}: medians of {REPEATS - 1} (smallest to largest)."
        )
        put_section(given.write, HEADING, f"{said}\n\n{rows}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
