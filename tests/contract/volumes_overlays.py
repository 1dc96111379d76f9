"""What every ``ports.volumes.Volumes`` must keep: see volumes_contract.py. Overlays: what they read as, on what, and what they never replace."""

from __future__ import annotations

import os
import stat
import uuid
from pathlib import Path

from contract.volumes_bench import MIB, VolumesBench, fails_with, names_in
from stillframe.domain.errors import ErrorCase


def check_overlay_reads_as_its_backing_image(bench: VolumesBench) -> None:
    for image_format in ("raw", "qcow2"):
        base = bench.user_image(f"disk.{image_format}", image_format, 2 * MIB + 512)
        overlay = bench.overlay(base, image_format)
        assert bench.probe(overlay).virtual_bytes == 2 * MIB + 512
        assert bench.read(overlay) == bench.read(base, image_format)
    assert len(names_in(bench.owned_directory)) == 2, "something else was left beside the overlays"


def check_overlay_on_an_open_image(bench: VolumesBench) -> None:
    for image_format in ("raw", "qcow2"):
        base = bench.user_image(f"disk.{image_format}", image_format)
        with bench.held_open(base, image_format):
            overlay = bench.overlay(base, image_format)
        assert bench.read(overlay) == bench.read(base, image_format)


def check_overlay_follows_owner_and_mode(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    Path(base).chmod(0o640)
    if os.geteuid() == 0:
        os.chown(base, 1234, 2345)
        os.chown(bench.directory, 3456, 4567)
    overlay = Path(bench.overlay(base)).stat()
    backing = Path(base).stat()
    assert (overlay.st_uid, overlay.st_gid) == (backing.st_uid, backing.st_gid)
    assert stat.S_IMODE(overlay.st_mode) == 0o640
    made, parent = bench.owned_directory.stat(), bench.directory.stat()
    assert (made.st_uid, made.st_gid) == (parent.st_uid, parent.st_gid)
    assert stat.S_IMODE(made.st_mode) == 0o711


def check_overlay_replaces_one_on_the_same_backing(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    overlay = bench.overlay(base)
    bench.write(overlay, "qcow2", "write -P 9 0 64k")
    bench.volumes.ensure_overlay(overlay, base, "qcow2")
    assert bench.read(overlay) == bench.read(base)


def check_overlay_refuses_any_other_file(bench: VolumesBench) -> None:
    base, other = bench.user_image("disk.qcow2"), bench.user_image("other.qcow2")
    overlay = bench.overlay(base)
    bench.write(overlay, "qcow2", "write -P 9 0 64k")
    before = Path(overlay).read_bytes()
    with fails_with(ErrorCase.STORAGE_FAILED, overlay):
        bench.volumes.ensure_overlay(overlay, other, "qcow2")
    assert Path(overlay).read_bytes() == before
    Path(overlay).write_bytes(b"not an image")
    with fails_with(ErrorCase.IMAGE_REFUSED, overlay):
        bench.volumes.ensure_overlay(overlay, base, "qcow2")
    assert Path(overlay).read_bytes() == b"not an image"


def check_overlay_in_use_is_not_replaced(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    overlay = bench.overlay(base)
    bench.write(overlay, "qcow2", "write -P 9 0 64k")
    before = bench.read(overlay)
    with bench.held_open(overlay, "qcow2"), fails_with(ErrorCase.STORAGE_FAILED, overlay):
        bench.volumes.ensure_overlay(overlay, base, "qcow2")
    assert bench.read(overlay) == before


def check_overlay_without_backing_leaves_nothing(bench: VolumesBench) -> None:
    path = bench.new_path()
    with fails_with(ErrorCase.STORAGE_FAILED, "no.qcow2"):
        bench.volumes.ensure_overlay(path, str(bench.directory / "no.qcow2"), "qcow2")
    base = bench.user_image("disk.raw", "raw")
    with fails_with(ErrorCase.IMAGE_REFUSED, base):
        bench.volumes.ensure_overlay(path, base, "qcow2")
    assert names_in(bench.directory) == {"disk.raw"}


def check_overlay_takes_only_names_of_the_service(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    for path in (bench.directory / "mine.qcow2", bench.directory / "no" / "parent" / f"{uuid.uuid4()}.qcow2"):
        with fails_with(ErrorCase.STORAGE_FAILED, str(path)):
            bench.volumes.ensure_overlay(str(path), base, "qcow2")
    assert names_in(bench.directory) == {"disk.qcow2"}
