"""Headers of qcow2 images that somebody made to do harm: refused, each for its own reason, whatever the bytes."""

from __future__ import annotations

import random
import struct
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from stillframe.domain.image_header import HEAD_BYTES, LARGEST_BYTES, BadHeaderError, Header, check_raw, read_header
from support.hostile import BACKING_FORMAT, CLUSTER, HEADERS, SOUND, Image


def read(image: Image) -> Header:
    data = image.bytes()
    return read_header(data[:HEAD_BYTES], len(data))


def test_a_sound_header_is_read() -> None:
    assert read(SOUND) == Header(1 << 20, "", "", is_corrupt=False)
    assert read(Image(backing="../base.img", backing_format="raw")) == Header(
        1 << 20, "../base.img", "raw", is_corrupt=False
    )
    assert read(Image({"size": (1 << 20) - 7})).virtual_bytes == (1 << 20) - 512
    assert read(Image({"incompatible": 0b11})).is_corrupt
    assert read(Image(extensions=((0x6803F857, bytes(144)), (0x12345678, b"unknown")))).virtual_bytes == 1 << 20


def test_the_old_version_is_read() -> None:
    data = bytearray(Image({"version": 2}, backing="b", backing_format="qcow2").bytes())
    # its header ends at 72: the extension and the name begin there
    extension = struct.pack(">II", BACKING_FORMAT, 5) + b"qcow2\0\0\0" + bytes(8)
    data[72:CLUSTER] = (extension + b"b").ljust(CLUSTER - 72, b"\0")
    struct.pack_into(">QI", data, 8, 72 + len(extension), 1)
    assert read_header(bytes(data[:HEAD_BYTES]), len(data)) == Header(1 << 20, "b", "qcow2", is_corrupt=False)


@pytest.mark.parametrize("name", HEADERS)
def test_a_hostile_header_is_refused_for_its_own_reason(name: str) -> None:
    image, words = HEADERS[name]
    with pytest.raises(BadHeaderError) as caught:
        read(image)
    assert words in str(caught.value)


@pytest.mark.parametrize("name", ["json", "file-protocol", "rbd", "http", "no-backing-format", "data-file"])
def test_a_reason_does_not_repeat_what_the_header_names(name: str) -> None:
    with pytest.raises(BadHeaderError) as caught:
        read(HEADERS[name][0])
    for secret in ("hostname", "AQDnotasecret", "user:word", "base.qcow2"):
        assert secret not in str(caught.value)


def test_internal_snapshots_are_accepted_within_qemus_bounds() -> None:
    assert read(Image({"snapshots": 3, "snapshots_offset": 3 * CLUSTER})).virtual_bytes == 1 << 20


def test_a_raw_image_is_what_its_length_says() -> None:
    assert [check_raw(length) for length in (0, 1, 512, 513, LARGEST_BYTES)] == [0, 512, 512, 1024, LARGEST_BYTES]
    with pytest.raises(BadHeaderError, match="at most"):
        check_raw(LARGEST_BYTES + 1)


@given(st.binary(max_size=300), st.integers(0, 1 << 64))
@example(b"QFI\xfb\0\0\0\3" + b"\xff" * 200, 1 << 20)
def test_no_bytes_do_more_than_be_refused(tail: bytes, file_bytes: int) -> None:
    for data in (tail, b"QFI\xfb\0\0\0\2" + tail, b"QFI\xfb\0\0\0\3" + tail):
        try:
            header = read_header(data, file_bytes)
        except BadHeaderError:
            continue
        assert 0 <= header.virtual_bytes <= LARGEST_BYTES


@pytest.mark.parametrize("seed", range(4))
def test_qemu_reads_what_is_accepted_as_it_was_read_here(seed: int, tmp_path: Path) -> None:
    """Sound headers with a few bytes changed: where one passes, QEMU sees the same size and the same backing file."""
    dice = random.Random(seed)
    whole = Image(backing="base.qcow2").bytes()
    accepted = 0
    for _ in range(4000):
        data = bytearray(whole)
        for _ in range(dice.randrange(1, 3)):
            data[dice.randrange(4, 170)] = dice.randrange(256)
        try:
            header = read_header(bytes(data[:HEAD_BYTES]), len(data))
        except BadHeaderError:
            continue
        if header.is_corrupt or dice.random() > 0.01:
            continue
        path = tmp_path / "image.qcow2"
        path.write_bytes(data)
        said = subprocess.run(
            ["qemu-img", "info", "-f", "qcow2", str(path)], capture_output=True, text=True, check=False
        )
        if said.returncode == 0:
            accepted += 1
            assert f"({header.virtual_bytes} bytes)" in said.stdout
            backing = next((line for line in said.stdout.splitlines() if line.startswith("backing file: ")), "")
            assert backing.partition(": ")[2].split(" (actual")[0] == header.backing_name
    assert accepted > 3
