"""Odd paths, links in place of our layers, and what qemu-img is given, on the real adapter."""

from __future__ import annotations

import os
import uuid
from pathlib import Path

import pytest

from contract.hostile_bench import new_layer, refused_unseen
from contract.volumes_bench import MIB, VolumesBench, fails_with, names_in, run
from stillframe.adapters.volumes import qemu_img
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.errors import ErrorCase
from support.hostile import SOUND, Image

# --- paths


@pytest.mark.parametrize(
    "name",
    [
        "a,b.qcow2",
        "quo\"te's.qcow2",
        "per%20cent%s.qcow2",
        "colon:nbd:.qcow2",
        "nbd:unix:x.qcow2",
        "json:{}.qcow2",
        "-f.qcow2",
        "--help",
        " blank .qcow2 ",
        "虚拟机.qcow2",
        "$(id)`id`;id.qcow2",
    ],
)
def test_an_odd_path_is_only_a_path(name: str, spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    """Made, written through, merged and deleted like any other."""
    directory = home / name.removesuffix(".qcow2") / "x"
    directory.mkdir(parents=True)
    for image_format in ("qcow2", "raw"):
        base = str(directory / f"{image_format}{name}")
        run("qemu-img", "create", "-q", "-f", image_format, "--", base, "2M")
        layer = new_layer(directory)
        spied[0].ensure_overlay(layer, base, image_format)
        run("qemu-io", "-f", "qcow2", "-c", "write -P 9 0 1M", layer)
        assert [info.path for info in spied[0].probe_chain(layer, "qcow2")] == [layer, base]
        spied[0].ensure_committed(layer, base)
        spied[0].ensure_backing(layer, base, image_format)
        assert spied[0].probe_damage(layer, "qcow2") == ""
        spied[0].ensure_dropped(layer)
        assert VolumesBench(spied[0], directory).read(base, image_format)[:MIB] == b"\t" * MIB


@pytest.mark.parametrize("path", ["disk.qcow2", "-f", "nbd:127.0.0.1:1", "json:{}", "", "file:/etc/hostname"])
def test_a_path_that_is_not_absolute_goes_nowhere(path: str, spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    for act in (spied[0].probe_image, spied[0].probe_chain):
        with refused_unseen(spied, home, "not an absolute path", case=ErrorCase.STORAGE_FAILED):
            act(path, "qcow2")


# --- the place of our layers


def test_a_link_in_place_of_our_directory_is_not_followed(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    disk = str(SOUND.write(home / "disk.qcow2"))
    layer = Path(new_layer(home))
    spied[0].ensure_overlay(str(layer), disk, "qcow2")
    away = home.parent / "vault" / "away"
    layer.parent.rename(away)
    layer.parent.symlink_to(away)
    spied[1].write_text("")
    other = str(layer.with_name(f"{uuid.uuid4()}.qcow2"))
    for refused in (
        lambda: spied[0].check_directory(str(layer.parent)),
        lambda: spied[0].probe_image(str(layer), "qcow2"),
        lambda: spied[0].probe_chain(str(layer), "qcow2"),
        lambda: spied[0].ensure_backing(str(layer), disk, "qcow2"),
        lambda: spied[0].ensure_committed(str(layer), disk),
        lambda: spied[0].probe_damage(str(layer), "qcow2"),
    ):
        with refused_unseen(spied, home, str(layer.parent), "symbolic link"):
            refused()
    for failed in (
        lambda: spied[0].ensure_overlay(other, disk, "qcow2"),
        lambda: spied[0].ensure_dropped(str(layer)),
        lambda: spied[0].list_owned(str(layer.parent)),
    ):
        with refused_unseen(spied, home, str(layer.parent), case=ErrorCase.STORAGE_FAILED):
            failed()
    assert names_in(away) == {layer.name}


def test_a_link_in_place_of_a_layer_is_not_followed(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    disk = str(SOUND.write(home / "disk.qcow2"))
    layer = Path(new_layer(home))
    spied[0].ensure_overlay(str(layer), disk, "qcow2")
    layer.rename(home / "mine.qcow2")
    layer.symlink_to(home / "mine.qcow2")
    top = str(layer.with_name(f"{uuid.uuid4()}.qcow2"))
    Image(backing=str(layer)).write(Path(top))
    spied[1].write_text("")
    with refused_unseen(spied, home, str(layer), "symbolic link"):
        spied[0].probe_image(str(layer), "qcow2")
    with refused_unseen(spied, home, top, "its backing file", "symbolic link"):
        spied[0].probe_chain(top, "qcow2")


def test_a_place_for_layers_must_be_writable(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    spied[0].check_directory(str(home / f"stillframe-{uuid.uuid4()}"))
    plain = home / f"stillframe-{uuid.uuid4()}"
    plain.write_text("")
    with refused_unseen(spied, home, str(plain), "no directory"):
        spied[0].check_directory(str(plain))
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    run("mount", "-t", "tmpfs", "-o", "ro", "stillframe-test", str(home))
    try:
        with fails_with(ErrorCase.STORAGE_FAILED, str(home), "uid 0", "may not write here", "Without root"):
            spied[0].check_directory(str(home / f"stillframe-{uuid.uuid4()}"))
    finally:
        run("umount", str(home))


# --- qemu-img itself


def test_qemu_img_sees_a_fixed_environment_and_limits(
    spied: tuple[Qcow2Volumes, Path], home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    said, program = home / "said", home / "qemu-img-that-tells"
    # the limits are set from outside, a moment after the start
    script = f'#!/bin/sh\nsleep 0.3\nenv >{said}\ncat /proc/self/limits >>{said}\nexec qemu-img "$@"\n'
    program.write_text(script, encoding="ascii")
    program.chmod(0o755)
    monkeypatch.setenv("STILLFRAME_SECRET", "word")
    monkeypatch.setenv("LD_PRELOAD", "")
    volumes = Qcow2Volumes(str(program), call_timeout_s=61)
    disk = str(SOUND.write(home / "disk.qcow2"))
    volumes.ensure_overlay(new_layer(home), disk, "qcow2")
    lines = said.read_text().splitlines()
    environment = {line for line in lines if "=" in line and not line.startswith(("PWD=", "SHLVL=", "_="))}
    assert environment == {"LC_ALL=C", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    limits = {line[:26].strip(): line[26:].split()[:2] for line in lines if line.startswith("Max ")}
    assert limits["Max core file size"] == ["0", "0"]
    assert limits["Max cpu time"] == ["61", "61"]
    assert limits["Max address space"] == [str(qemu_img.MEMORY_BYTES)] * 2


def test_every_operand_stands_behind_a_double_dash(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    bench = VolumesBench(spied[0], home)
    base = bench.user_image("disk.qcow2")
    top, other = bench.overlay(base), bench.overlay(base)
    bench.volumes.ensure_overlay(other, base, "qcow2")
    run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", top, "1M")
    bench.volumes.ensure_committed(top, base)
    bench.volumes.ensure_backing(other, top, "qcow2")
    bench.volumes.probe_damage(base, "qcow2")
    calls = [call.split() for call in spied[1].read_text().splitlines()]
    assert {call[0] for call in calls} == {"create", "info", "commit", "resize", "rebase", "check"}
    for call in calls:
        at = call.index("--")
        assert not any(word.startswith(("/", "json:")) for word in call[:at] if word not in (base, top)), call
        assert call[at + 1].startswith(("/", "json:")), call
        assert call[0] == "check" or "-f" in call[:at], call
