"""Files of a store: opened, written whole and removed so that a crash leaves nothing half, with the store's own errors."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillframe.domain.errors import ErrorCase, Failed

PART_SUFFIX = ".part"
OPEN_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)


def free_bytes(directory: Path) -> int:
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        case = ErrorCase.SPACE_EXHAUSTED if error.errno in _NO_SPACE else ErrorCase.STORAGE_FAILED
        raise Failed(case, f"{path}: {error.strerror or error}") from error


@contextmanager
def opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, _OPEN_TO_READ)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def ensure_directory(directory: Path) -> None:
    for made in (directory.parent, directory):
        try:
            made.mkdir(mode=0o700)
        except FileExistsError:
            continue
        sync_directory(made.parent)


def sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def ensure_removed(path: str) -> None:
    with storage_errors(path):
        Path(path).unlink(missing_ok=True)
        try:
            # also when it was gone already: an earlier attempt may have ended before this
            sync_directory(Path(path).parent)
        except FileNotFoundError:
            return


def read_if_present(path: str) -> bytes | None:
    try:
        with opened(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    except FileNotFoundError:
        return None


def write_whole(path: str, data: bytes) -> None:
    part = path + PART_SUFFIX
    ensure_removed(part)
    descriptor = os.open(part, OPEN_NEW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(part).rename(path)
    except BaseException:
        ensure_removed(part)
        raise
