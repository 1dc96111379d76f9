"""A place to try a ``Volumes`` in: an adapter, a user's directory of images, and ways past the adapter."""

from __future__ import annotations

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from stillframe.ports.volumes import ImageInfo, Volumes

MIB = 1 << 20


@dataclass(frozen=True)
class VolumesBench:
    """An adapter under test and a user's image directory, with the means to write and read images past the adapter."""

    volumes: Volumes
    directory: Path

    @property
    def owned_directory(self) -> Path:
        return self.directory / "stillframe-0a1b2c3d-4e5f-4a6b-8c7d-0123456789ab"

    def new_path(self) -> str:
        """A fresh name as the service gives it; nothing is made."""
        return str(self.owned_directory / f"{uuid.uuid4()}.qcow2")

    def user_image(self, name: str, image_format: str = "qcow2", size_bytes: int = 2 * MIB) -> str:
        """An image of the user's own with ones in its first and twos in its second half."""
        path = str(self.directory / name)
        run("qemu-img", "create", "-q", "-f", image_format, path, str(size_bytes))
        half = size_bytes // 2
        self.write(path, image_format, f"write -P 1 0 {half}", f"write -P 2 {half} {size_bytes - half}")
        return path

    def overlay(self, backing_path: str, backing_format: str = "qcow2") -> str:
        path = self.new_path()
        self.volumes.ensure_overlay(path, backing_path, backing_format)
        return path

    def write(self, path: str, image_format: str, *commands: str) -> None:
        """Let a guest write: qemu-io commands with ``discard=unmap``."""
        arguments = [word for command in commands for word in ("-c", command)]
        run("qemu-io", "-f", image_format, "-d", "unmap", *arguments, path)

    def read(self, path: str, image_format: str = "qcow2") -> bytes:
        """What a guest would read, through the whole chain."""
        copy = self.directory / "read.raw"
        run("qemu-img", "convert", "-f", image_format, "-O", "raw", path, str(copy))
        contents = copy.read_bytes()
        copy.unlink()
        return contents

    def probe(self, path: str, image_format: str = "qcow2") -> ImageInfo:
        info = self.volumes.probe_image(path, image_format)
        assert info is not None, f"{path} was said not to exist"
        return info

    @contextmanager
    def held_open(self, path: str, image_format: str) -> Iterator[None]:
        """The image is open for writing, and locked, as by a running QEMU."""
        with subprocess.Popen(
            ["qemu-io", "-f", image_format, path], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as holder:
            assert holder.stdin is not None
            assert holder.stdout is not None
            holder.stdout.read(len("qemu-io> "))  # the prompt comes when the image is open
            try:
                yield
            finally:
                holder.stdin.close()


def run(*arguments: str) -> None:
    subprocess.run(arguments, check=True, capture_output=True)


@contextmanager
def fails_with(case: ErrorCase = ErrorCase.STORAGE_FAILED, *words: str) -> Iterator[None]:
    """The block raises an error of this case, and ``desc`` contains the words. IMAGE_REFUSED is ``Refused``, all else ``Failed``."""
    kind = Refused if case is ErrorCase.IMAGE_REFUSED else Failed
    caught: StillframeError | None = None
    try:
        yield
    except kind as failure:
        caught = failure
    assert caught is not None, f"it did not fail with {case.name}"
    assert caught.case is case, f"{caught.case} instead of {case}: {caught.desc}"
    for word in words:
        assert word in caught.desc, f'"{word}" is not in "{caught.desc}"'


def names_in(directory: Path) -> set[str]:
    assert directory.is_dir(), f"{directory} is gone"
    return {path.name for path in directory.iterdir()}


def is_same(path: str, path_format: str, raw: str) -> bool:
    """A guest would read in the image what the raw file holds."""
    compare = ["qemu-img", "compare", "-q", "-f", path_format, "-F", "raw", path, raw]
    return subprocess.run(compare, check=False).returncode == 0


def program(directory: Path, text: str) -> str:
    """A shell script to be called in place of qemu-img."""
    path = directory / "qemu-img-of-the-test"
    path.write_text(f"#!/bin/sh\n{text}\n", encoding="ascii")
    path.chmod(0o755)
    return str(path)
