"""Images, chains and places that somebody made to do harm, on the real adapter: refused before qemu-img sees anything."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import uuid
from collections.abc import Callable
from pathlib import Path

import pytest

from contract.hostile_bench import new_layer, refused_unseen, secret_of
from contract.volumes_bench import MIB, VolumesBench, fails_with, run
from stillframe.adapters.volumes.headers import CHAIN_MAX
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.errors import ErrorCase, StillframeError
from support.hostile import CLUSTER, HEADERS, SOUND, Image
from support.openings import unopened

# --- headers


def test_the_sound_image_is_taken(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    """What the hostile ones differ from: QEMU and the adapter agree that it is good."""
    disk = str(SOUND.write(home / "disk.qcow2"))
    said = subprocess.run(["qemu-img", "check", "-f", "qcow2", disk], capture_output=True, text=True, check=False)
    assert said.returncode == 0, said.stdout + said.stderr
    assert [info.virtual_bytes for info in spied[0].probe_chain(disk, "qcow2")] == [MIB]
    layer = new_layer(home)
    spied[0].ensure_overlay(layer, disk, "qcow2")
    assert [info.path for info in spied[0].probe_chain(layer, "qcow2")] == [layer, disk]


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused(name: str, spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    image, words = HEADERS[name]
    disk = str(image.write(home / "disk.qcow2"))
    layer = new_layer(home)
    for act in (
        lambda: spied[0].probe_image(disk, "qcow2"),
        lambda: spied[0].probe_chain(disk, "qcow2"),
        lambda: spied[0].ensure_overlay(layer, disk, "qcow2"),
        lambda: spied[0].probe_damage(disk, "qcow2"),
    ):
        with refused_unseen(spied, home, disk, words):
            act()


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_two_levels_below_is_refused(name: str, spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    image, words = HEADERS[name]
    image.write(home / "templates" / "base.qcow2")
    Image(backing="templates/base.qcow2").write(home / "middle.qcow2")
    disk = str(Image(backing="middle.qcow2").write(home / "disk.qcow2"))
    with refused_unseen(spied, home, disk, "the file 2 below it", words):
        spied[0].probe_chain(disk, "qcow2")


def test_a_guests_header_in_a_raw_disk_is_data(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    """The guest writes what it likes to its raw disk: it stays raw, below every overlay and through a merge."""
    disk = str(Image(backing=str(secret_of(home)), backing_format="raw").write(home / "disk.img"))
    before = Path(disk).read_bytes()
    layer = new_layer(home)
    with unopened(secret_of(home)):
        assert spied[0].probe_chain(disk, "raw")[0].backing_path == ""
        spied[0].ensure_overlay(layer, disk, "raw")
        assert [(info.format, info.backing_path) for info in spied[0].probe_chain(layer, "qcow2")] == [
            ("qcow2", disk),
            ("raw", ""),
        ]
        read = VolumesBench(spied[0], home).read(layer)
        assert read == before
        run("qemu-io", "-f", "qcow2", "-c", "write -P 7 128k 64k", layer)
        spied[0].ensure_committed(layer, disk)
    after = Path(disk).read_bytes()
    assert after[: 2 * CLUSTER] == before[: 2 * CLUSTER]
    assert after[2 * CLUSTER : 3 * CLUSTER] == b"\7" * CLUSTER


# --- where backing files may lie


def test_backing_files_in_allowed_places_are_taken(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    SOUND.write(home / "templates" / "base.qcow2")
    SOUND.write(home.parent / "extra" / "deep" / "base.qcow2")
    (home.parent / "extra" / "link.qcow2").symlink_to(home / "templates" / "base.qcow2")
    for backing in ("templates/base.qcow2", "../extra/deep/base.qcow2", str(home.parent / "extra" / "link.qcow2")):
        disk = str(Image(backing=backing).write(home / "disk.qcow2"))
        assert len(spied[0].probe_chain(disk, "qcow2")) == 2


def elsewhere(home: Path) -> dict[str, str]:
    """What to write as a backing file's name, that leads to the secret."""
    secret = secret_of(home)
    (home / "link.qcow2").symlink_to(secret)
    (home / "linked-directory").symlink_to(secret.parent)
    (home / "chained.qcow2").symlink_to("link.qcow2")
    return {
        "absolute": str(secret),
        "relative": "../vault/secret",
        "roundabout": "linked-directory/../../vault/secret",
        "link": "link.qcow2",
        "link-to-a-link": "chained.qcow2",
        "linked-directory": "linked-directory/secret",
        "neighbour-with-a-longer-name": "../home-of-another/secret",
        "proc": f"/proc/self/root{secret}",
    }


WAYS = (
    "absolute",
    "relative",
    "roundabout",
    "link",
    "link-to-a-link",
    "linked-directory",
    "neighbour-with-a-longer-name",
    "proc",
)


@pytest.mark.parametrize("levels", [1, 3])
@pytest.mark.parametrize("way", WAYS)
def test_a_backing_file_elsewhere_is_refused(
    way: str, levels: int, spied: tuple[Qcow2Volumes, Path], home: Path
) -> None:
    neighbour = home.parent / "home-of-another"
    neighbour.mkdir()
    os.link(secret_of(home), neighbour / "secret")
    name = elsewhere(home)[way]
    for level in range(1, levels):
        above = Image(backing="disk.qcow2" if level == levels - 1 else f"level-{level + 1}.qcow2")
        above.write(home / f"level-{level}.qcow2")
    disk = Image(backing=name, backing_format="raw").write(home / "disk.qcow2")
    top = str(home / "level-1.qcow2") if levels > 1 else str(disk)
    with refused_unseen(spied, home, top, "outside of the directories"):
        spied[0].probe_chain(top, "qcow2")


def test_whether_a_file_elsewhere_exists_is_not_told(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    told = []
    for name in ("secret", "no-such-file", "no-such-directory/file"):
        disk = Image(backing=f"{home.parent}/vault/{name}", backing_format="raw").write(home / "disk.qcow2")
        with pytest.raises(StillframeError) as caught:
            spied[0].probe_chain(str(disk), "qcow2")
        told.append((caught.value.case, caught.value.desc))
    assert len(set(told)) == 1


def test_a_disk_in_the_root_directory_allows_nothing_below_it() -> None:
    name = Path(f"/sf-{uuid.uuid4()}.qcow2")
    try:
        Image(backing="/etc/hostname", backing_format="raw").write(name)
        with fails_with(ErrorCase.IMAGE_REFUSED, "outside"):
            Qcow2Volumes().probe_chain(str(name), "qcow2")
    finally:
        name.unlink(missing_ok=True)


# --- what a chain may be


@pytest.mark.parametrize("length", [1, 2, 5])
def test_a_loop_is_refused(length: int, spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    for number in range(length):
        Image(backing=f"{(number + 1) % length}.qcow2").write(home / f"{number}.qcow2")
    top = str(home / "0.qcow2")
    with refused_unseen(spied, home, top, "stands on itself"):
        spied[0].probe_chain(top, "qcow2")


def test_a_loop_by_another_name_is_refused(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    disk = Image(backing="other.qcow2").write(home / "disk.qcow2")
    os.link(disk, home / "other.qcow2")
    with refused_unseen(spied, home, str(disk), "stands on itself"):
        spied[0].probe_chain(str(disk), "qcow2")


def test_a_chain_without_end_is_refused(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    SOUND.write(home / f"{CHAIN_MAX}.qcow2")
    for number in range(CHAIN_MAX):
        Image(backing=f"{number + 1}.qcow2", cut=CLUSTER * 3 + 8).write(home / f"{number}.qcow2")
    assert len(spied[0].probe_chain(str(home / "1.qcow2"), "qcow2")) == CHAIN_MAX
    with refused_unseen(spied, home, str(home / "0.qcow2"), f"more than {CHAIN_MAX}"):
        spied[0].probe_chain(str(home / "0.qcow2"), "qcow2")


# --- what is no file


def make_fifo(path: Path) -> None:
    os.mkfifo(path)


def make_character_device(path: Path) -> None:
    os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 5))


def make_block_device(path: Path) -> None:
    os.mknod(path, stat.S_IFBLK | 0o600, os.makedev(7, 0))


def make_directory(path: Path) -> None:
    path.mkdir()


def make_socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(path))


NO_FILES: dict[str, Callable[[Path], None]] = {
    "a FIFO": make_fifo,
    "a character device": make_character_device,
    "a block device": make_block_device,
    "a directory": make_directory,
    "a socket": make_socket,
}


@pytest.mark.parametrize("linked", [False, True], ids=["itself", "linked"])
@pytest.mark.parametrize("kind", NO_FILES)
def test_what_is_no_file_is_refused(kind: str, linked: bool, spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    if "device" in kind and os.geteuid() != 0:
        pytest.skip("making a device needs root")
    odd = home / ("odd" if linked else "it")
    NO_FILES[kind](odd)
    if linked:
        (home / "it").symlink_to(odd)
    layer = new_layer(home)
    for image_format in ("raw", "qcow2"):
        for act in (spied[0].probe_image, spied[0].probe_chain):
            with refused_unseen(spied, home, f"it is {kind}"):
                act(str(home / "it"), image_format)
        with refused_unseen(spied, home, f"it is {kind}"):
            spied[0].ensure_overlay(layer, str(home / "it"), image_format)
        disk = Image(backing="it", backing_format=image_format).write(home / "disk.qcow2")
        with refused_unseen(spied, home, str(disk), f"its backing file: it is {kind}"):
            spied[0].probe_chain(str(disk), "qcow2")


def test_a_real_device_is_not_opened(spied: tuple[Qcow2Volumes, Path], home: Path) -> None:
    disk = Image(backing="/dev/null", backing_format="raw").write(home / "disk.qcow2")
    with unopened(Path("/dev/zero")), refused_unseen(spied, home, "a character device"):
        spied[0].probe_chain("/dev/zero", "raw")
    with refused_unseen(spied, home, "outside of the directories"):
        spied[0].probe_chain(str(disk), "qcow2")
