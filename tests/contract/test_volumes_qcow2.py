"""What is qcow2's and qemu-img's own: kills in the middle, full file systems, locks, time-outs, durability."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from contract.volumes_bench import MIB, VolumesBench, fails_with, is_same, names_in, program, run
from stillframe.adapters.volumes import files, qemu_img
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.errors import ErrorCase, Unknown
from stillframe.ports.hypervisor import MergeProgress


@pytest.fixture
def bench(tmp_path: Path) -> VolumesBench:
    return VolumesBench(Qcow2Volumes(lock_wait_s=0.2), tmp_path)


@pytest.fixture
def small_file_system(tmp_path: Path) -> Iterator[Path]:
    if os.geteuid() != 0:
        pytest.skip("mounting needs root")
    place = tmp_path / "small"
    place.mkdir()
    run("mount", "-t", "tmpfs", "-o", "size=8m", "stillframe-test", str(place))
    try:
        yield place
    finally:
        run("umount", str(place))


def fill(directory: Path, leave_bytes: int) -> None:
    with (directory / "filler").open("wb", buffering=0) as file:
        figures = os.statvfs(directory)
        file.write(bytes(figures.f_bavail * figures.f_frsize - leave_bytes))


def is_sound(path: str) -> bool:
    """No error in its metadata; clusters that leaked waste space and harm nothing."""
    return subprocess.run(["qemu-img", "check", "-q", "-f", "qcow2", path], check=False).returncode in (0, 3)


# --- merging, watched and throttled


def test_a_throttled_merge_tells_how_far_it_is(tmp_path: Path) -> None:
    bench = VolumesBench(Qcow2Volumes(merge_bytes_per_s=16 * MIB), tmp_path)
    base = bench.user_image("disk.qcow2", size_bytes=64 * MIB)  # qemu-img has 16 MiB in flight
    top = bench.overlay(base)
    bench.write(top, "qcow2", "write -P 7 0 64M")
    told: list[MergeProgress] = []
    bench.volumes.ensure_committed(top, base, told.append)
    partial_bytes = {progress.bytes_done for progress in told if 0 < progress.bytes_done < progress.bytes_total}
    assert len(partial_bytes) > 1, told
    assert bench.read(base) == bench.read(top)


# --- merging, killed and repeated

COMMIT = "import sys; from {module} import Qcow2Volumes; Qcow2Volumes().ensure_committed(*sys.argv[1:])"


def wait_until_free(path: str) -> None:
    """qemu-img dies with its parent, though a moment after it: wait until nobody has the image's lock."""
    give_up_at = time.monotonic() + 2
    while subprocess.run(["qemu-img", "info", "-f", "qcow2", path], check=False, capture_output=True).returncode:
        assert time.monotonic() < give_up_at, "qemu-img outlived its parent"


def kill_commit_after(top: str, base: str, written_bytes: int) -> bool:
    """Start the merge in a process of its own and SIGKILL that when the base has got so much; False: it was done."""
    before = Path(base).stat().st_blocks * 512
    program = COMMIT.format(module=Qcow2Volumes.__module__)
    with subprocess.Popen([sys.executable, "-c", program, top, base]) as process:
        while process.poll() is None:
            if Path(base).stat().st_blocks * 512 - before >= written_bytes:
                process.kill()
                break
            time.sleep(0.001)
    wait_until_free(top)
    return process.returncode != 0


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_a_merge_killed_again_and_again_comes_out_whole(bench: VolumesBench, base_format: str) -> None:
    base = bench.user_image("disk", base_format, 64 * MIB)
    top = bench.overlay(base, base_format)
    run("qemu-img", "resize", "-q", "-f", "qcow2", top, "224M")
    bench.write(top, "qcow2", "write -P 3 16M 100M", "write -z -u 0 8M", "write -P 4 124M 100M")
    expected = str(bench.directory / "expected.raw")
    run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top, expected)
    killed = 0
    for _ in range(3):
        killed += kill_commit_after(top, base, 40 * MIB)
        assert is_same(top, "qcow2", expected), "top reads otherwise"
        assert base_format == "raw" or is_sound(base)
        assert is_sound(top)
    assert killed > 0, "every merge was quicker than its killer"
    bench.volumes.ensure_committed(top, base)
    assert is_same(base, base_format, expected)
    assert bench.probe(base, base_format).virtual_bytes == 224 * MIB


SIZES = [2 * MIB, 3 * MIB, 4 * MIB, 2 * MIB + 7 * 512, 3 * MIB - 5 * 512, 4 * MIB + 33 * 512]


def random_commands(dice: random.Random, size: int, count: int) -> list[str]:
    commands = []
    for _ in range(count):
        at = dice.randrange(size // 512) * 512
        length = min(size - at, dice.choice([512, 4096, 65536, 200 * 1024, MIB]))
        kind = dice.choice([f"write -P {dice.randrange(1, 255)}", "write -z", "write -z -u", "discard"])
        commands.append(f"{kind} {at} {length}")
    return commands


@pytest.mark.parametrize("seed", range(8))
def test_a_merge_of_any_sizes_changes_nothing_readable(bench: VolumesBench, seed: int) -> None:
    dice = random.Random(seed)  # a repeatable dice, no secret
    base_format = dice.choice(["raw", "qcow2"])
    base = bench.user_image("disk", base_format, dice.choice(SIZES))
    if dice.random() < 0.5:
        base, base_format = bench.overlay(base, base_format), "qcow2"
        run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", base, str(dice.choice(SIZES)))
    top = bench.overlay(base, base_format)
    child = bench.overlay(top)
    for path in (top, child):
        size = dice.choice(SIZES)
        run("qemu-img", "resize", "-q", "-f", "qcow2", "--shrink", path, str(size))
        bench.write(path, "qcow2", *random_commands(dice, size, 5))
    expected = bench.read(top), bench.read(child)
    bench.volumes.ensure_committed(top, base)
    assert bench.read(base, base_format) == expected[0]
    bench.volumes.ensure_backing(child, base, base_format)
    bench.volumes.ensure_dropped(top)
    assert bench.read(child) == expected[1]


# --- no space


def test_no_space_for_an_overlay_leaves_nothing(bench: VolumesBench, small_file_system: Path) -> None:
    base = bench.user_image("disk.qcow2")
    fill(small_file_system, 64 * 1024)
    path = str(small_file_system / "stillframe-0a1b2c3d-4e5f-4a6b-8c7d-0123456789ab" / Path(bench.new_path()).name)
    with fails_with(ErrorCase.SPACE_EXHAUSTED, path, "No space left"):
        bench.volumes.ensure_overlay(path, base, "qcow2")
    assert names_in(small_file_system) == {"filler"}


@pytest.mark.parametrize("base_format", ["raw", "qcow2"])
def test_no_space_for_a_merge_loses_nothing(bench: VolumesBench, small_file_system: Path, base_format: str) -> None:
    base = str(small_file_system / "disk")
    run("qemu-img", "create", "-q", "-f", base_format, base, "32M")
    bench.write(base, base_format, "write -P 1 0 2M")
    top = bench.overlay(base, base_format)
    bench.write(top, "qcow2", "write -P 5 1M 20M", "write -z 30M 1M")
    expected = bench.read(top)
    for _ in range(2):
        with fails_with(ErrorCase.SPACE_EXHAUSTED, "No space left"):
            bench.volumes.ensure_committed(top, base)
        assert bench.read(top) == expected
        assert bench.read(base, base_format)[:MIB] == expected[:MIB]
    run("mount", "-o", "remount,size=64m", str(small_file_system))
    bench.volumes.ensure_committed(top, base)
    assert bench.read(base, base_format) == expected


# --- locks, time-outs, a crash in the middle


def test_a_lock_that_is_about_to_go_is_waited_for(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    top = bench.overlay(base)
    patient = Qcow2Volumes(lock_wait_s=20)
    with bench.held_open(base, "qcow2"):
        merge = threading.Thread(target=patient.ensure_committed, args=(top, base))
        merge.start()
        time.sleep(0.3)
        assert merge.is_alive()
    merge.join(10)
    assert not merge.is_alive()


def test_a_call_that_hangs_is_ended(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    hanging = Qcow2Volumes(program(bench.directory, "exec sleep 60"), commit_timeout_s=0.2)
    with fails_with(ErrorCase.STORAGE_FAILED, base, "0.2 s"):
        hanging.probe_damage(base, "qcow2")


def test_a_call_that_cannot_be_ended_is_unknown(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    # its own child goes on holding the pipes, as a process in uninterruptible sleep would
    hanging = Qcow2Volumes(
        program(bench.directory, f"sleep {qemu_img._KILL_WAIT_S + 5} & exec sleep 60"), commit_timeout_s=0.2
    )
    with pytest.raises(Unknown, match="hangs"):
        hanging.probe_damage(base, "qcow2")


def test_odd_answers_are_failures(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    for text, words in (("kill -9 $$", "signal 9"), ("echo '[]'", "unknown answer"), ("exit 9", "exit status 9")):
        odd = Qcow2Volumes(program(bench.directory, text))
        with fails_with(ErrorCase.STORAGE_FAILED, base, words):
            odd.probe_damage(base, "qcow2")
    with fails_with(ErrorCase.STORAGE_FAILED, "not installed"):
        Qcow2Volumes("no-such-qemu-img").probe_damage(base, "qcow2")


def test_without_setpriv_it_works_all_the_same(bench: VolumesBench, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bench.user_image("disk.qcow2")
    # this machine has setpriv, in a directory that the service looks into whatever PATH says
    monkeypatch.setattr(qemu_img, "_dying_with_us", lambda: ())
    assert bench.volumes.probe_damage(base, "qcow2") == ""


def test_a_crash_while_building_an_overlay_is_cleared(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    path = bench.new_path()
    for clear in (
        partial(bench.volumes.ensure_overlay, path, base, "qcow2"),
        partial(bench.volumes.ensure_dropped, path),
    ):
        bench.owned_directory.mkdir(exist_ok=True)
        files.part_path(Path(path)).write_bytes(b"half an overlay")
        unfinished = [file.path for file in bench.volumes.list_owned(str(bench.owned_directory)) if file.unfinished]
        assert unfinished == [str(files.part_path(Path(path)))]
        clear()
        assert not files.part_path(Path(path)).exists()
    assert names_in(bench.directory) == {"disk.qcow2"}


def test_overlays_and_drops_race_for_the_directory(bench: VolumesBench) -> None:
    base = bench.user_image("disk.qcow2")
    errors: list[BaseException] = []

    def make_and_drop() -> None:
        try:
            for _ in range(8):
                bench.volumes.ensure_dropped(bench.overlay(base))
        except BaseException as error:  # noqa: BLE001  # told by the assertion below
            errors.append(error)

    threads = [threading.Thread(target=make_and_drop) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert names_in(bench.directory) == {"disk.qcow2"}


def test_chown_may_be_denied_to_a_user_but_not_to_root(bench: VolumesBench, monkeypatch: pytest.MonkeyPatch) -> None:
    base = bench.user_image("disk.qcow2")

    def deny(descriptor: int, uid: int, gid: int) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr(os, "fchown", deny)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    with fails_with(ErrorCase.STORAGE_FAILED, "not permitted"):
        bench.overlay(base)
    assert not bench.volumes.list_owned(str(bench.owned_directory))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert bench.read(bench.overlay(base)) == bench.read(base)


# --- durability


@pytest.fixture
def synced(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of what was synced, in order."""
    names: list[str] = []
    fsync = os.fsync

    def spy(descriptor: int) -> None:
        names.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()))
        fsync(descriptor)

    monkeypatch.setattr(os, "fsync", spy)
    return names


def test_everything_is_synced_before_it_is_told(bench: VolumesBench, synced: list[str]) -> None:
    base = bench.user_image("disk.qcow2")
    top = bench.overlay(base)
    assert synced == [str(bench.directory), f"{top}.part", str(bench.owned_directory)]
    for act, expected in (
        (partial(bench.volumes.ensure_durable, top), top),
        (partial(bench.volumes.ensure_committed, top, base), base),
        (partial(bench.volumes.ensure_backing, top, base, "qcow2"), top),
    ):
        synced.clear()
        act()
        assert synced == [expected, str(Path(expected).parent)]
    synced.clear()
    bench.volumes.ensure_dropped(top)
    # the directory itself is gone afterwards, and that too is durable
    assert [name.removesuffix(" (deleted)") for name in synced] == [str(bench.owned_directory), str(bench.directory)]
