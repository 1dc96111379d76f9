"""Images, chains and places that somebody made to do harm, on the real adapter: refused before qemu-img sees anything."""

from __future__ import annotations

import os
import socket
import stat
import subprocess
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from contract.volumes_bench import MIB, VolumesBench, fails_with, names_in, run
from stillframe.adapters.volumes import qemu_img
from stillframe.adapters.volumes.headers import CHAIN_MAX
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from support.hostile import CLUSTER, HEADERS, SOUND, Image
from support.openings import unopened

WORDS = "words that are only for the host"


@pytest.fixture
def spied(tmp_path: Path) -> tuple[Qcow2Volumes, Path]:
    """The adapter, and a file that holds the arguments of each call of qemu-img."""
    calls, program = tmp_path / "calls", tmp_path / "qemu-img-that-is-watched"
    calls.touch()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{calls}\nexec qemu-img "$@"\n', encoding="ascii")
    program.chmod(0o755)
    return Qcow2Volumes(str(program), lock_wait_s=0.2, image_directories=[str(tmp_path / "extra")]), calls


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A disk's own directory; beside it lie ``extra``, which is allowed, and ``secret``, which is not."""
    for name in ("home", "extra", "vault"):
        (tmp_path / name).mkdir()
    (tmp_path / "vault" / "secret").write_text(WORDS * 20_000)
    return tmp_path / "home"


def secret_of(home: Path) -> Path:
    return home.parent / "vault" / "secret"


def new_layer(home: Path) -> str:
    return str(home / f"stillframe-{uuid.uuid4()}" / f"{uuid.uuid4()}.qcow2")


@contextmanager
def refused_unseen(
    spied: tuple[Qcow2Volumes, Path], home: Path, *words: str, case: ErrorCase = ErrorCase.IMAGE_REFUSED
) -> Iterator[None]:
    """The block is refused with these words; nothing is made, qemu-img is not called, the secret is neither read nor told."""
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    with unopened(secret_of(home)), pytest.raises(StillframeError) as caught:
        yield
    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*")} == before
    assert caught.value.case is case
    assert isinstance(caught.value, Refused if case is ErrorCase.IMAGE_REFUSED else Failed)
    for word in words:
        assert word in caught.value.desc
    assert WORDS not in caught.value.desc
    assert "vault" not in caught.value.desc
    assert spied[1].read_text() == ""


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
