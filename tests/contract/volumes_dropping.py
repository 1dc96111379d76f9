"""What every ``ports.volumes.Volumes`` must keep: see volumes_contract.py. Moving references, making durable, dropping."""

from __future__ import annotations

import uuid
from pathlib import Path

from contract.volumes_bench import VolumesBench, fails_with, names_in
from stillframe.domain.errors import ErrorCase


def check_backing_changes_the_header_alone(bench: VolumesBench) -> None:
    one, two = bench.user_image("one.qcow2"), bench.user_image("two.raw", "raw")
    bench.write(two, "raw", "write -P 6 1M 64k")
    overlay = bench.overlay(one)
    bench.write(overlay, "qcow2", "write -P 9 0 64k")
    for _ in range(2):
        bench.volumes.ensure_backing(overlay, two, "raw")
        info = bench.probe(overlay)
        assert (info.backing_path, info.backing_format) == (two, "raw")
        assert bench.read(overlay) == b"\t" * 65536 + bench.read(two, "raw")[65536:]


def check_backing_must_exist(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    overlay = bench.overlay(base)
    for path, backing in ((overlay, bench.new_path()), (bench.new_path(), base)):
        with fails_with(ErrorCase.STORAGE_FAILED):
            bench.volumes.ensure_backing(path, backing, "qcow2")
    assert bench.probe(overlay).backing_path == base


def check_drop_removes_file_and_empty_directory(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    first, second = bench.overlay(base), bench.overlay(base)
    for _ in range(2):
        bench.volumes.ensure_dropped(first)
        assert names_in(bench.owned_directory) == {Path(second).name}
    for _ in range(2):
        bench.volumes.ensure_dropped(second)
        assert names_in(bench.directory) == {"disk.qcow2"}


def check_drop_leaves_what_others_put_there(bench: VolumesBench) -> None:
    overlay = bench.overlay(bench.user_image("disk.qcow2"))
    (bench.owned_directory / "notes.txt").write_text("mine", encoding="ascii")
    bench.volumes.ensure_dropped(overlay)
    assert names_in(bench.owned_directory) == {"notes.txt"}


def check_drop_leaves_a_directory_that_is_not_the_services(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    theirs = bench.directory / "theirs"
    theirs.mkdir()
    overlay = str(theirs / f"{uuid.uuid4()}.qcow2")
    bench.volumes.ensure_overlay(overlay, base, "qcow2")
    bench.volumes.ensure_dropped(overlay)
    assert names_in(theirs) == set()


def check_drop_refuses_foreign_files(bench: VolumesBench) -> None:
    base = Path(bench.user_image("disk.qcow2"))
    linked = bench.directory / f"{uuid.uuid4()}.qcow2"
    linked.symlink_to(base)
    upper = bench.directory / f"{uuid.uuid4()}.qcow2".upper()
    upper.write_bytes(b"")
    for path in (base, linked, upper):
        with fails_with(ErrorCase.STORAGE_FAILED, str(path)):
            bench.volumes.ensure_dropped(str(path))
    assert names_in(bench.directory) == {base.name, linked.name, upper.name}


def check_durable_needs_the_file(bench: VolumesBench) -> None:
    bench.volumes.ensure_durable(bench.user_image("disk.qcow2"))
    missing = bench.new_path()
    with fails_with(ErrorCase.STORAGE_FAILED, missing):
        bench.volumes.ensure_durable(missing)
