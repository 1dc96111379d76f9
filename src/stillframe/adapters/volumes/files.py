"""Files and directories beside the images: made, synced and removed so that it survives a power loss."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import stat
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillframe.domain.errors import ErrorCase, Failed

_FREE_BLOCKS_AFTER_S = 0.2
_FLOCK = "hhxxxxqqixxxx"  # struct flock: type, whence, start, length, pid
_F_OFD_GETLK = 36
_QEMU_LOCKS_START, _QEMU_LOCKS_BYTES = 100, 200
DIRECTORY_PREFIX = "stillframe-"
# Others (QEMU under its own user) may pass through and open what they know the name of, but not list it.
_DIRECTORY_MODE = 0o711
_PART_SUFFIX = ".part"
_OWNED_NAME = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\.qcow2")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_VANISHED_TRIES = 5
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """An ``OSError`` inside becomes ``Failed`` SPACE_EXHAUSTED or STORAGE_FAILED that names ``path``."""
    try:
        yield
    except OSError as error:
        case = ErrorCase.SPACE_EXHAUSTED if error.errno in _NO_SPACE else ErrorCase.STORAGE_FAILED
        raise Failed(case, f"{path}: {error.strerror or error}") from error


def is_owned_name(path: str) -> bool:
    """The name is one that this service gives: a canonical lower-case uuid and ``.qcow2``."""
    return _OWNED_NAME.fullmatch(Path(path).name) is not None


def is_part_name(path: str) -> bool:
    """The name is that of an image which is being made: an owned name and ``.part``."""
    name = Path(path).name
    return name.endswith(_PART_SUFFIX) and is_owned_name(name.removesuffix(_PART_SUFFIX))


def occupied_bytes(status: os.stat_result) -> int:
    return status.st_blocks * _BLOCK_BYTES


def check_absolute(path: str) -> None:
    if not Path(path).is_absolute():
        raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: is not an absolute path")


def check_owned(path: str) -> None:
    """The name is one that this service gives.

    Raises:
        Failed: STORAGE_FAILED; files that this service did not make it neither replaces nor deletes.
    """
    check_absolute(path)
    if not is_owned_name(path):
        raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: is not a file of this service (its name is not <uuid>.qcow2)")


def part_path(path: Path) -> Path:
    """Where an image is built before it gets its name; derived from the name, so that a retry finds it again."""
    return path.with_name(path.name + _PART_SUFFIX)


def same_file(one: str, other: str) -> bool:
    """Both paths lead to the same file; by name alone where one of them cannot be looked at."""
    if os.path.normpath(one) == os.path.normpath(other):
        return True
    try:
        return Path(one).samefile(other)
    except OSError:
        return False


def sync_file(path: Path) -> None:
    """What was written to the file, by anybody, survives a power loss when this returns."""
    _sync(path, os.O_RDONLY | os.O_CLOEXEC)


def sync_directory(path: Path) -> None:
    """The names in the directory survive a power loss when this returns."""
    _sync(path, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)


def _sync(path: Path, flags: int) -> None:
    descriptor = os.open(path, flags)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_part(path: Path, like: os.stat_result) -> Path:
    """An empty file to build the image of ``path`` in, with owner and mode of ``like``; its directory made if needed.

    A part that a crashed attempt left is replaced. Only a directory with this service's own name is made; its parent
    must exist. After an error ``discard_part`` removes what was made.
    """
    part = part_path(path)
    part.unlink(missing_ok=True)
    descriptor = _create_in_directory(part)
    try:
        _own(descriptor, like)
        # the owner must be able to write to an overlay, also to one on a write-protected backing file
        os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & 0o666 | 0o600)
    finally:
        os.close(descriptor)
    return part


def _create_in_directory(part: Path) -> int:
    # Another VM's last file may be dropped from the same directory, and the directory with it, between our mkdir and
    # our open; once the file exists the directory stays.
    for _ in range(_VANISHED_TRIES):
        _ensure_directory(part.parent)
        try:
            return os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(errno.ENOENT, "the directory vanishes as often as it is made", str(part.parent))


def _ensure_directory(directory: Path) -> None:
    if not directory.name.startswith(DIRECTORY_PREFIX):
        directory.stat()
        return
    like = directory.parent.stat()
    try:
        directory.mkdir(_DIRECTORY_MODE)
    except FileExistsError:
        return  # perhaps no directory at all; making the file in it will say so
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        _own(descriptor, like)
        os.fchmod(descriptor, _DIRECTORY_MODE)
    finally:
        os.close(descriptor)
    sync_directory(directory.parent)


def _own(descriptor: int, like: os.stat_result) -> None:
    try:
        os.fchown(descriptor, like.st_uid, like.st_gid)
    except PermissionError:
        # Without privilege the file stays ours, as everything else that this user's QEMU opens.
        if os.geteuid() == 0:
            raise


def remove_file(path: Path) -> None:
    """The file and a part left by a crashed attempt are gone, durably; so is its directory when ours and empty."""
    if _kind(path) not in (None, stat.S_IFREG):
        raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: is not a regular file; this service did not make it")
    part_path(path).unlink(missing_ok=True)
    descriptor = _unlink_open(path)
    try:
        sync_directory(path.parent)
        remove_directory_if_empty(path.parent)
    except FileNotFoundError:
        return
    finally:
        if descriptor is not None:
            _close_later(descriptor)


def remove_part(part: Path) -> None:
    """An unfinished file is gone, durably; so is its directory when ours and empty. Its finished neighbour stays."""
    if _kind(part) not in (None, stat.S_IFREG):
        raise Failed(ErrorCase.STORAGE_FAILED, f"{part}: is not a regular file; this service did not make it")
    try:
        part.unlink(missing_ok=True)
        sync_directory(part.parent)
        remove_directory_if_empty(part.parent)
    except FileNotFoundError:
        return


def _unlink_open(path: Path) -> int | None:
    """The name is gone, the file is not: its descriptor, or None when there was no file."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    try:
        _check_not_locked(descriptor, path)
        path.unlink(missing_ok=True)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _close_later(descriptor: int) -> None:
    """Give a large file's blocks back behind the caller, when its own writes to the same journal are through.

    The kernel frees them when the last descriptor is closed, also when this process is killed before.
    """
    timer = threading.Timer(_FREE_BLOCKS_AFTER_S, os.close, args=(descriptor,))
    timer.daemon = True
    timer.start()


def _check_not_locked(descriptor: int, path: Path) -> None:
    """A QEMU that has an image open holds byte-range locks on it (RAW_LOCK_*_BASE in QEMU's block/file-posix.c)."""
    asked = struct.pack(_FLOCK, fcntl.F_WRLCK, os.SEEK_SET, _QEMU_LOCKS_START, _QEMU_LOCKS_BYTES, 0)
    answered = fcntl.fcntl(descriptor, _F_OFD_GETLK, asked)
    if struct.unpack(_FLOCK, answered)[0] != fcntl.F_UNLCK:
        raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: is open in a running QEMU; it was not deleted")


def remove_directory_if_empty(directory: Path) -> None:
    """A directory with this service's own name is gone when nothing is in it; any other is left alone."""
    if not directory.name.startswith(DIRECTORY_PREFIX):
        return
    try:
        directory.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST):
            return
        raise
    sync_directory(directory.parent)


def _kind(path: Path) -> int | None:
    try:
        return stat.S_IFMT(path.lstat().st_mode)
    except FileNotFoundError:
        return None


def discard_part(path: Path) -> None:
    """After a failed attempt: the part is gone, and the directory if it was made for it alone.

    What cannot be removed stays for ``remove_file``, which the undo of the same operation calls: the error that led
    here is the one to be told.
    """
    try:
        part_path(path).unlink(missing_ok=True)
        remove_directory_if_empty(path.parent)
    except OSError:
        return
