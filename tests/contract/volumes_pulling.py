"""What every ``ports.volumes.Volumes`` must keep: see volumes_contract.py. Pulling: a layer into the one that stands on it."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from pathlib import Path

from contract.volumes_bench import MIB, VolumesBench, fails_with, run
from stillframe.domain.errors import ErrorCase
from stillframe.ports.hypervisor import MergeProgress


@dataclass(frozen=True)
class _Three:
    """A layer, what it stands on and what stands on it."""

    bench: VolumesBench
    parent: str
    parent_format: str
    base: str
    top: str

    def pull(self) -> None:
        self.bench.volumes.ensure_pulled(self.top, self.base, self.parent, self.parent_format)

    def check_top_stands_on_the_parent(self) -> None:
        info = self.bench.probe(self.top)
        assert (info.backing_path, info.backing_format) == (self.parent, self.parent_format)


def _three(bench: VolumesBench, parent_format: str = "qcow2", size_bytes: int = 2 * MIB) -> _Three:
    parent = bench.user_image(f"disk.{parent_format}", parent_format, size_bytes)
    base = bench.overlay(parent, parent_format)
    return _Three(bench, parent, parent_format, base, bench.overlay(base))


def check_pull_moves_data_zeroes_and_discards(bench: VolumesBench) -> None:
    for parent_format in ("raw", "qcow2"):
        three = _three(bench, parent_format)
        bench.write(
            three.base, "qcow2", "write -P 7 300k 100k", "write -z 0 64k", "discard 1M 128k", "write -P 8 1536k 99k"
        )
        bench.write(three.top, "qcow2", "write -P 9 320k 10k", "write -z -u 1536k 64k")
        expected, below = bench.read(three.top), bench.read(three.parent, parent_format)
        assert expected[:65536] == bytes(65536)
        base = Path(three.base).read_bytes()
        for _ in range(2):  # repeatable
            three.pull()
            three.check_top_stands_on_the_parent()
            assert bench.read(three.top) == expected, f"on {parent_format}, top differs"
            assert Path(three.base).read_bytes() == base, "the layer itself was written"
            assert bench.read(three.parent, parent_format) == below, "what is below was written"
        bench.volumes.ensure_dropped(three.base)
        assert bench.read(three.top) == expected, "top needs what was pulled"
        three.pull()


def check_pull_of_any_sizes_uncovers_nothing(bench: VolumesBench) -> None:
    """A shorter layer hides the end of a longer one below it: zeroes are read there."""
    for number, sizes in enumerate(itertools.product((MIB, 2 * MIB, 3 * MIB + 512), repeat=2)):
        parent = bench.user_image(f"disk-{number}.qcow2", size_bytes=2 * MIB)
        three = _Three(bench, parent, "qcow2", base := bench.overlay(parent), bench.overlay(base))
        for path, size in zip((three.base, three.top), sizes, strict=True):
            run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", path, str(size))
        bench.write(three.base, "qcow2", "write -P 7 300k 100k")
        expected = bench.read(three.top)
        three.pull()
        assert bench.read(three.top) == expected, sizes


def check_pull_leaves_the_rest_of_the_chain(bench: VolumesBench) -> None:
    three = _three(bench)
    child = bench.overlay(three.top)
    bench.write(three.base, "qcow2", "write -P 4 64k 64k")
    bench.write(child, "qcow2", "write -P 5 128k 64k")
    expected = bench.read(child)
    three.pull()
    assert bench.read(child) == expected
    assert bench.probe(child).backing_path == three.top


def check_pull_stores_no_zeroes(bench: VolumesBench) -> None:
    three = _three(bench, size_bytes=16 * MIB)
    bench.write(three.base, "qcow2", "write -P 0 0 4M", "write -z 4M 4M", "discard 8M 4M")
    empty = bench.volumes.probe_size(three.top)
    expected = bench.read(three.top)
    three.pull()
    assert bench.read(three.top) == expected
    full = bench.volumes.probe_size(three.top)
    assert empty is not None
    assert full is not None
    assert full - empty < MIB


def check_pull_tells_its_progress(bench: VolumesBench) -> None:
    three = _three(bench)
    bench.write(three.base, "qcow2", "write -P 7 0 2M")
    told: list[MergeProgress] = []
    bench.volumes.ensure_pulled(three.top, three.base, three.parent, three.parent_format, told.append)
    assert told
    assert told[-1].bytes_done == told[-1].bytes_total >= 2 * MIB
    assert {progress.bytes_total for progress in told} == {told[-1].bytes_total}
    done = [progress.bytes_done for progress in told]
    assert done == sorted(done)


def check_pull_refuses_another_base(bench: VolumesBench) -> None:
    three = _three(bench)
    other = bench.overlay(three.parent)
    bench.write(three.base, "qcow2", "write -P 4 0 64k")
    paths = (three.parent, three.base, three.top, other)
    before = {path: Path(path).read_bytes() for path in paths}
    for base in (other, three.top, bench.new_path()):
        with fails_with(ErrorCase.STORAGE_FAILED, three.top):
            bench.volumes.ensure_pulled(three.top, base, three.parent, "qcow2")
    for parent in (bench.new_path(), str(bench.directory / "none")):
        with fails_with(ErrorCase.STORAGE_FAILED):
            bench.volumes.ensure_pulled(three.top, three.base, parent, "qcow2")
    assert {path: Path(path).read_bytes() for path in paths} == before


def check_pull_refuses_an_open_image(bench: VolumesBench) -> None:
    three = _three(bench)
    bench.write(three.base, "qcow2", "write -P 4 0 64k")
    expected = bench.read(three.top)
    for held in (three.base, three.top):
        with bench.held_open(held, "qcow2"), fails_with(ErrorCase.STORAGE_FAILED, three.top):
            three.pull()
    assert bench.read(three.top) == expected


def check_what_was_pulled_is_told_by_its_clusters(bench: VolumesBench) -> None:
    parent = str(bench.directory / "large.qcow2")
    run("qemu-img", "create", "-q", "-f", "qcow2", parent, f"{1200 * MIB}")  # more than one table of the second level
    three = _Three(bench, parent, "qcow2", base := bench.overlay(parent), bench.overlay(base))
    assert bench.volumes.probe_pulled(three.top, three.base)
    for command in ("write -P 7 1M 1M", "write -z 700M 64k", "discard 800M 64k", f"write -P 7 {1200 * MIB - 512} 512"):
        bench.write(three.base, "qcow2", command)
        assert not bench.volumes.probe_pulled(three.top, three.base), command
        bench.write(three.top, "qcow2", "write -P 3 20M 1M")
        assert not bench.volumes.probe_pulled(three.top, three.base), command
        bench.write(three.top, "qcow2", command)
        assert bench.volumes.probe_pulled(three.top, three.base), command
    for path in (bench.new_path(), three.parent + ".none"):
        with fails_with(ErrorCase.STORAGE_FAILED):
            bench.volumes.probe_pulled(path, three.base)
    Path(three.top).write_bytes(Path(three.top).read_bytes()[:70])
    with fails_with(ErrorCase.STORAGE_FAILED, three.top):
        bench.volumes.probe_pulled(three.top, three.base)
