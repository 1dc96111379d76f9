"""Files and directories beside the images: made, synced and removed so that it survives a power loss."""

from __future__ import annotations

import contextlib
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

from stillframe.domain.errors import ErrorCase, Failed, Refused

_FREE_BLOCKS_AFTER_S = 0.2
_FLOCK = "hhxxxxqqixxxx"  # struct flock: type, whence, start, length, pid
_F_OFD_GETLK = 36
_QEMU_LOCKS_START, _QEMU_LOCKS_BYTES = 100, 200
DIRECTORY_PREFIX = "stillframe-"
# Others (QEMU under its own user) may pass through and open what they know the name of, but not list it.
_DIRECTORY_MODE = 0o711
_PART_SUFFIX = ".part"
_UUID = r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}"
_OWNED_NAME = re.compile(rf"{_UUID}\.qcow2")
_OWNED_DIRECTORY = re.compile(rf"{DIRECTORY_PREFIX}{_UUID}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NO_RIGHT = (errno.EACCES, errno.EPERM, errno.EROFS)
_VANISHED_TRIES = 5
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is


@contextmanager
def storage_errors(path: str) -> Iterator[None]:
    """An ``OSError`` inside becomes ``Failed`` SPACE_EXHAUSTED or STORAGE_FAILED that names ``path``.

    Where a right is missing, the words say whose, and what to do.
    """
    try:
        yield
    except OSError as error:
        case = ErrorCase.SPACE_EXHAUSTED if error.errno in _NO_SPACE else ErrorCase.STORAGE_FAILED
        words = f"{path}: {error.strerror or error}"
        raise Failed(case, f"{words}; {_advice(path)}" if error.errno in _NO_RIGHT else words) from error


def _advice(path: str) -> str:
    return (
        f"the service runs as uid {os.geteuid()} and needs the right to read and write this file, to write in its "
        f"directory {Path(path).parent}, and to pass through those above it (docs/operating.md, Without root)"
    )


def check_directory(directory: str) -> None:
    """Layers can be made in this directory, or it can be made.

    Raises:
        Refused: IMAGE_REFUSED: it is a symbolic link, or no directory.
        Failed: STORAGE_FAILED: it, or where it would be made, may not be written to, or could not be looked at.
    """
    check_absolute(directory)
    path = Path(directory)
    with storage_errors(directory):
        try:
            mode = path.lstat().st_mode
        except FileNotFoundError:
            path = path.parent
            mode = path.stat().st_mode
    if not stat.S_ISDIR(mode):
        what = "a symbolic link" if stat.S_ISLNK(mode) else "no directory"
        raise Refused(ErrorCase.IMAGE_REFUSED, f"{path}, where layers belong, is {what}; Stillframe did not make it")
    if not os.access(path, os.W_OK | os.X_OK, effective_ids=True):
        raise Failed(
            ErrorCase.STORAGE_FAILED,
            f"{path}: layers are made here, and the service, which runs as uid {os.geteuid()}, may not write here; "
            "give it that right (docs/operating.md, Without root)",
        )


def is_owned_name(path: str) -> bool:
    """The name is one that this service gives: a canonical lower-case uuid and ``.qcow2``."""
    return _OWNED_NAME.fullmatch(Path(path).name) is not None


def is_part_name(path: str) -> bool:
    """The name is that of an image which is being made: an owned name and ``.part``."""
    name = Path(path).name
    return name.endswith(_PART_SUFFIX) and is_owned_name(name.removesuffix(_PART_SUFFIX))


def is_in_our_directory(path: str) -> bool:
    """The file and its directory have names that this service gives."""
    return is_owned_name(path) and _OWNED_DIRECTORY.fullmatch(Path(path).parent.name) is not None


def home_of(path: str) -> Path:
    """The directory of a disk: where the file lies, or for a layer of ours the one beside whose files it lies."""
    parent = Path(path).parent
    return parent.parent if is_in_our_directory(path) else parent


def expected_real_path(path: str) -> str:
    """Where a file of ours lies when nobody has put a symbolic link in place of it or its directory."""
    file = Path(path)
    return str(Path(os.path.realpath(home_of(path))) / file.parent.name / file.name)


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


@contextmanager
def making(path: Path, like: os.stat_result) -> Iterator[int]:
    """A descriptor of an empty file with owner and mode of ``like``, to be filled inside; then it has its name, durably.

    Its directory is made if needed: only one with this service's own name, whose parent must exist. It is built under the
    name of a part; one that a crashed attempt left is replaced. After an error nothing is left.
    """
    try:
        directory, descriptor = _create_part(path)
        try:
            _own(descriptor, like)
            # the owner must be able to write to an overlay, also to one on a write-protected backing file
            os.fchmod(descriptor, stat.S_IMODE(like.st_mode) & 0o666 | 0o600)
            yield descriptor
            os.fsync(descriptor)
            os.rename(part_path(path).name, path.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        finally:
            os.close(descriptor)
            os.close(directory)
    except BaseException:
        _discard_part(path)
        raise


def _create_part(path: Path) -> tuple[int, int]:
    """Descriptors of the directory and of the new part in it."""
    # Another VM's last file may be dropped from the same directory, and the directory with it, between our mkdir and
    # our open; once the file exists the directory stays.
    name = part_path(path).name
    for _ in range(_VANISHED_TRIES):
        directory = _open_directory(path.parent)
        try:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(name, dir_fd=directory)
            flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
            return directory, os.open(name, flags, 0o600, dir_fd=directory)
        except FileNotFoundError:
            os.close(directory)
        except BaseException:
            os.close(directory)
            raise
    raise FileNotFoundError(errno.ENOENT, "the directory vanishes as often as it is made", str(path.parent))


def _open_directory(directory: Path) -> int:
    """One with this service's own name is made if needed, and never a symbolic link to somewhere else."""
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
    if not directory.name.startswith(DIRECTORY_PREFIX):
        return os.open(directory, flags)
    like = directory.parent.stat()
    try:
        directory.mkdir(_DIRECTORY_MODE)
    except FileExistsError:
        return os.open(directory, flags | os.O_NOFOLLOW)
    descriptor = os.open(directory, flags | os.O_NOFOLLOW)
    try:
        _own(descriptor, like)
        os.fchmod(descriptor, _DIRECTORY_MODE)
        sync_directory(directory.parent)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


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
    check_no_link(path.parent)
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
    check_no_link(part.parent)
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


def _discard_part(path: Path) -> None:
    """After a failed attempt: the part is gone, and the directory if it was made for it alone.

    What cannot be removed stays for ``remove_file``, which the undo of the same operation calls: the error that led
    here is the one to be told.
    """
    try:
        check_no_link(path.parent)
        part_path(path).unlink(missing_ok=True)
        remove_directory_if_empty(path.parent)
    except (OSError, Failed):
        return


def check_no_link(directory: Path) -> None:
    """A directory with this service's own name is one, and not a symbolic link to files of somebody else's.

    Raises:
        Failed: STORAGE_FAILED.
    """
    if directory.name.startswith(DIRECTORY_PREFIX) and directory.is_symlink():
        raise Failed(ErrorCase.STORAGE_FAILED, f"{directory}: is a symbolic link; this service did not make it")
