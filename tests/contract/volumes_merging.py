"""What every ``ports.volumes.Volumes`` must keep: see volumes_contract.py. Merging: a layer into the one below it."""

from __future__ import annotations

from pathlib import Path

from contract.volumes_bench import MIB, VolumesBench, fails_with, run
from stillframe.domain.errors import ErrorCase
from stillframe.ports.hypervisor import MergeProgress


def check_commit_moves_data_zeroes_and_discards(bench: VolumesBench) -> None:
    for image_format in ("raw", "qcow2"):
        base = bench.user_image(f"disk.{image_format}", image_format)
        top = bench.overlay(base, image_format)
        bench.write(top, "qcow2", "write -P 7 300k 100k", "write -z 0 64k", "write -z -u 128k 64k", "discard 1M 128k")
        expected = bench.read(top)
        assert expected[:65536] == bytes(65536)
        bench.volumes.ensure_committed(top, base)
        assert bench.read(base, image_format) == expected, f"{image_format} base differs"
        assert bench.read(top) == expected, "top is not valid any more"
        bench.volumes.ensure_committed(top, base)
        assert bench.read(base, image_format) == expected, "repeating changed it"


def check_commit_grows_the_base(bench: VolumesBench) -> None:
    for image_format in ("raw", "qcow2"):
        base = bench.user_image(f"disk.{image_format}", image_format)
        top = bench.overlay(base, image_format)
        run("qemu-img", "resize", "-q", "-f", "qcow2", top, str(3 * MIB + 512))
        bench.write(top, "qcow2", f"write -P 8 {3 * MIB} 512")
        expected = bench.read(top)
        bench.volumes.ensure_committed(top, base)
        assert bench.read(base, image_format) == expected


def check_commit_of_a_larger_top_uncovers_nothing_below(bench: VolumesBench) -> None:
    below = bench.user_image("below.qcow2", size_bytes=3 * MIB)
    base = bench.overlay(below)
    run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", base, str(MIB + 512))
    top = bench.overlay(base)
    run("qemu-img", "resize", "-q", "-f", "qcow2", top, str(3 * MIB))
    expected = bench.read(top)
    assert expected[MIB + 512 :] == bytes(2 * MIB - 512)
    bench.volumes.ensure_committed(top, base)
    assert bench.read(base) == expected


def check_commit_of_a_smaller_top_uncovers_nothing_above(bench: VolumesBench) -> None:
    for image_format in ("raw", "qcow2"):
        base = bench.user_image(f"disk.{image_format}", image_format)
        top = bench.overlay(base, image_format)
        run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", top, str(MIB))
        child = bench.overlay(top)
        run("qemu-img", "resize", "-q", "-f", "qcow2", child, str(2 * MIB))
        expected = bench.read(child)
        bench.volumes.ensure_committed(top, base)
        bench.volumes.ensure_backing(child, base, image_format)
        assert bench.read(child) == expected


def check_commit_leaves_the_rest_of_the_chain(bench: VolumesBench) -> None:
    below = bench.user_image("disk.raw", "raw")
    base = bench.overlay(below, "raw")
    top = bench.overlay(base)
    child = bench.overlay(top)
    bench.write(base, "qcow2", "write -P 3 0 64k")
    bench.write(top, "qcow2", "write -P 4 64k 64k")
    bench.write(child, "qcow2", "write -P 5 128k 64k")
    before = bench.read(below, "raw"), bench.read(child)
    bench.volumes.ensure_committed(top, base)
    bench.volumes.ensure_backing(child, base, "qcow2")
    bench.volumes.ensure_dropped(top)
    assert (bench.read(below, "raw"), bench.read(child)) == before


def check_commit_tells_its_progress(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    top = bench.overlay(base)
    bench.write(top, "qcow2", "write -P 7 0 2M")
    told: list[MergeProgress] = []
    bench.volumes.ensure_committed(top, base, told.append)
    assert told
    assert told[-1].bytes_done == told[-1].bytes_total >= 2 * MIB
    assert {progress.bytes_total for progress in told} == {told[-1].bytes_total}
    done = [progress.bytes_done for progress in told]
    assert done == sorted(done)


def check_commit_refuses_another_base(bench: VolumesBench) -> None:
    below = bench.user_image("disk.raw", "raw")
    middle = bench.overlay(below, "raw")
    top = bench.overlay(middle)
    bench.write(top, "qcow2", "write -P 4 0 64k")
    other = bench.user_image("other.qcow2")
    before = {path: Path(path).read_bytes() for path in (below, middle, top, other)}
    for base in (below, other, bench.new_path()):
        with fails_with(ErrorCase.STORAGE_FAILED, top):
            bench.volumes.ensure_committed(top, base)
    with fails_with(ErrorCase.STORAGE_FAILED):
        bench.volumes.ensure_committed(bench.new_path(), middle)
    assert {path: Path(path).read_bytes() for path in before} == before


def check_commit_refuses_an_open_image(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    top = bench.overlay(base)
    bench.write(top, "qcow2", "write -P 4 0 64k")
    before = bench.read(base)
    for held in (base, top):
        with bench.held_open(held, "qcow2"), fails_with(ErrorCase.STORAGE_FAILED, top):
            bench.volumes.ensure_committed(top, base)
    assert bench.read(base) == before
