"""Memory states and screenshots as files of this host.

    <root>/memory/<uuid>.mem         written by QEMU, then sealed: synced, read-only, with a checksum
    <root>/screenshots/<uuid>.png    whole or not at all

Directories are 0700 and files 0600 (0400 when sealed): a guest's memory holds its secrets.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from blake3 import blake3

from stillframe.adapters.memory.sparse_checksum import PREFIX, Checksum, checksum_of, parse_checksum
from stillframe.adapters.memory.writeback import write_back_gently
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.ports.memory_store import StoredFile, StoredKind

_UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_MEMORY_SUFFIX = ".mem"
_SCREENSHOT_SUFFIX = ".png"
_PART_SUFFIX = ".part"
_SEALED_MODE = 0o400
_OPEN_TO_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
_OPEN_NEW = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW
_BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is


class LocalMemoryStore:
    """``ports.memory_store.MemoryStore`` on a directory. Holds no state; threads may share it.

    Every call raises ``Refused`` PARAMETER_MALFORMED for a uuid that is not canonical: no path is made of anything
    else. Where nothing else is said, an error is ``Failed`` STORAGE_FAILED or SPACE_EXHAUSTED.
    """

    def __init__(self, root: Path) -> None:
        self._root = root.absolute()
        self._memory = self._root / "memory"
        self._screenshots = self._root / "screenshots"
        self._hashed: dict[str, tuple[int, ...]] = {}  # memory uuid -> the inode whose contents were seen to be right

    def capture_path(self, memory_uuid: str) -> str:
        """The local path at which a capture is written; pure, nothing is made."""
        return str(self._memory / (_checked(memory_uuid) + _MEMORY_SUFFIX))

    def location(self, memory_uuid: str) -> str:
        """``file://`` and the path, percent-encoded."""
        return Path(self.capture_path(memory_uuid)).as_uri()

    def ensure_capture_file(self, memory_uuid: str, needed_bytes: int) -> str:
        """An empty file of mode 0600; what a crashed capture of this uuid left is replaced by a new file.

        A new file and not a truncated one: a QEMU that still writes to the old one cannot reach it. Repeatable.

        Raises:
            Refused: SPACE_EXHAUSTED when fewer than ``needed_bytes`` are free; there is no file of this uuid then.
            Failed: STORAGE_FAILED when it is sealed already; it is unchanged.
        """
        path = self.capture_path(memory_uuid)
        with _storage_errors(path):
            _ensure_directory(self._memory)
            self._remove_capture(path)
            free = _free_bytes(self._memory)
            if free < needed_bytes:
                _sync_directory(self._memory)
                raise Refused(
                    ErrorCase.SPACE_EXHAUSTED,
                    f"memory state {memory_uuid} needs {needed_bytes} bytes, {free} are free in {self._memory}",
                )
            os.close(os.open(path, _OPEN_NEW, 0o600))
            _sync_directory(self._memory)
        return path

    def flush(self, memory_uuid: str) -> None:
        """Push what was written to the disk in small portions; what remains is ``seal``'s. Repeatable.

        Raises:
            Failed: STORAGE_FAILED, also when there is no such file.
        """
        path = self.capture_path(memory_uuid)
        with _storage_errors(path), _opened(path) as descriptor:
            write_back_gently(descriptor)

    def seal(self, memory_uuid: str) -> tuple[str, int]:
        """Make the finished file durable and read-only; returns (checksum, bytes that it occupies). Repeatable.

        Raises:
            Failed: STORAGE_FAILED, also when there is no such file; whether it is read-only by then is open.
        """
        path = self.capture_path(memory_uuid)
        with _storage_errors(path), _opened(path) as descriptor:
            os.fsync(descriptor)
            # guests want the processors, too: nobody waits for this one
            checksum = checksum_of(descriptor, max_threads=1)
            os.fchmod(descriptor, _SEALED_MODE)
            os.fsync(descriptor)
            _sync_directory(self._memory)
            status = os.fstat(descriptor)
            self._hashed[memory_uuid] = _identity(status)
            return str(checksum), status.st_blocks * _BLOCK_BYTES

    def is_unchanged(self, memory_uuid: str) -> bool:
        """Seal or verify of this process has hashed the file, and its inode has not changed since."""
        try:
            status = Path(self.capture_path(memory_uuid)).lstat()
        except OSError:
            return False  # whatever it is, the verification that follows will say
        return self._hashed.get(memory_uuid) == _identity(status)

    def verify(self, memory_uuid: str, checksum: str) -> str:
        """The path of an intact memory file. A wrong length is found without reading it.

        Raises:
            Failed: MEMORY_DAMAGED, ``desc`` says whether it is missing, has another length or other contents;
                STORAGE_FAILED when it cannot be read.
        """
        path = self.capture_path(memory_uuid)
        expected = _parsed(memory_uuid, checksum)
        with _storage_errors(path):
            try:
                with _opened(path) as descriptor:
                    length = os.fstat(descriptor).st_size
                    if length != expected.length_bytes:
                        raise _damaged(memory_uuid, _of_other_length(length, expected.length_bytes))
                    before = _identity(os.fstat(descriptor))
                    if checksum_of(descriptor) != expected:
                        raise _damaged(memory_uuid, "its contents differ from what was saved")
                    self._hashed[memory_uuid] = before
            except FileNotFoundError:
                raise _damaged(memory_uuid, "its file is missing") from None
        return path

    def check_length(self, memory_uuid: str, checksum: str) -> None:
        """The file is there and as long as its checksum says; nothing is read.

        Raises:
            Failed: MEMORY_DAMAGED, as ``verify``; STORAGE_FAILED when it cannot be looked at.
        """
        path = self.capture_path(memory_uuid)
        expected = _parsed(memory_uuid, checksum)
        with _storage_errors(path):
            try:
                with _opened(path) as descriptor:
                    length = os.fstat(descriptor).st_size
            except FileNotFoundError:
                raise _damaged(memory_uuid, "its file is missing") from None
        if length != expected.length_bytes:
            raise _damaged(memory_uuid, _of_other_length(length, expected.length_bytes))

    def ensure_dropped(self, memory_uuid: str) -> None:
        """Neither a capture nor a sealed file of this uuid is left, durably. Repeatable."""
        _ensure_removed(self.capture_path(memory_uuid))

    def list_owned(self) -> list[StoredFile]:
        """Every memory file, captures included, then every screenshot, each by uuid; empty when there is no store yet."""
        return [
            *_listed(self._memory, StoredKind.MEMORY, (_MEMORY_SUFFIX,)),
            *_listed(self._screenshots, StoredKind.SCREENSHOT, (_SCREENSHOT_SUFFIX, _SCREENSHOT_SUFFIX + _PART_SUFFIX)),
        ]

    def put_screenshot(self, snapshot_uuid: str, png: bytes) -> str:
        """Store durably, whole or not at all; returns "blake3:…" over the bytes. Repeatable with the same bytes.

        Raises:
            Failed: STORAGE_FAILED when another picture is stored already: what is published never changes.
        """
        path = self._screenshot_path(snapshot_uuid)
        checksum = _checksum_of_bytes(png)
        with _storage_errors(path):
            stored = _read_if_present(path)
            if stored is None:
                _ensure_directory(self._screenshots)
                _write_whole(path, png)
            elif stored != png:
                raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: another screenshot is stored already")
            _sync_directory(self._screenshots)
        return checksum

    def get_screenshot(self, snapshot_uuid: str, checksum: str) -> bytes | None:
        """The PNG; None when it is proved absent.

        Raises:
            Failed: STORAGE_FAILED when it is damaged or unreadable.
        """
        path = self._screenshot_path(snapshot_uuid)
        with _storage_errors(path):
            png = _read_if_present(path)
        if png is not None and _checksum_of_bytes(png) != checksum:
            raise Failed(ErrorCase.STORAGE_FAILED, f"screenshot {snapshot_uuid} is damaged: its checksum differs")
        return png

    def drop_screenshot(self, snapshot_uuid: str) -> None:
        """No screenshot of this uuid is left, durably. Repeatable."""
        path = self._screenshot_path(snapshot_uuid)
        _ensure_removed(path + _PART_SUFFIX)
        _ensure_removed(path)

    def _screenshot_path(self, snapshot_uuid: str) -> str:
        return str(self._screenshots / (_checked(snapshot_uuid) + _SCREENSHOT_SUFFIX))

    def _remove_capture(self, path: str) -> None:
        try:
            mode = os.lstat(path).st_mode
        except FileNotFoundError:
            return
        if stat.S_ISREG(mode) and stat.S_IMODE(mode) == _SEALED_MODE:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: is sealed already; what is published never changes")
        Path(path).unlink()


def _listed(directory: Path, kind: StoredKind, suffixes: tuple[str, ...]) -> list[StoredFile]:
    found: list[StoredFile] = []
    with _storage_errors(str(directory)):
        try:
            paths = list(directory.iterdir())
        except FileNotFoundError:
            return []
        for path in paths:
            uuid, dot, rest = path.name.partition(".")
            if _UUID.fullmatch(uuid) is None or dot + rest not in suffixes:
                continue
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # it went while the directory was read
            if stat.S_ISREG(status.st_mode):
                unfinished = rest.endswith(_PART_SUFFIX)
                found.append(StoredFile(kind, uuid, str(path), status.st_blocks * _BLOCK_BYTES, unfinished))
    return sorted(found, key=lambda file: (file.uuid, file.unfinished))


def _parsed(memory_uuid: str, checksum: str) -> Checksum:
    try:
        return parse_checksum(checksum)
    except ValueError as error:
        raise Failed(ErrorCase.MEMORY_DAMAGED, f"memory state {memory_uuid}: {error}") from error


def _checked(uuid: str) -> str:
    if _UUID.fullmatch(uuid) is None:
        raise Refused(ErrorCase.PARAMETER_MALFORMED, f'"{uuid}" is not a canonical uuid')
    return uuid


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Changes whenever somebody writes to the file, replaces it or touches its mode."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def _damaged(memory_uuid: str, why: str) -> Failed:
    return Failed(ErrorCase.MEMORY_DAMAGED, f"memory state {memory_uuid}: {why}")


def _of_other_length(found: int, expected: int) -> str:
    return f"its file is {'truncated' if found < expected else 'too long'}: {found} bytes instead of {expected}"


def _checksum_of_bytes(data: bytes) -> str:
    return PREFIX + blake3(data).hexdigest()


def _free_bytes(directory: Path) -> int:
    figures = os.statvfs(directory)
    return figures.f_bavail * figures.f_frsize


@contextmanager
def _storage_errors(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        case = ErrorCase.SPACE_EXHAUSTED if error.errno in _NO_SPACE else ErrorCase.STORAGE_FAILED
        raise Failed(case, f"{path}: {error.strerror or error}") from error


@contextmanager
def _opened(path: str) -> Iterator[int]:
    descriptor = os.open(path, _OPEN_TO_READ)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _ensure_directory(directory: Path) -> None:
    for made in (directory.parent, directory):
        try:
            made.mkdir(mode=0o700)
        except FileExistsError:
            continue
        _sync_directory(made.parent)


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _ensure_removed(path: str) -> None:
    with _storage_errors(path):
        Path(path).unlink(missing_ok=True)
        try:
            # also when it was gone already: an earlier attempt may have ended before this
            _sync_directory(Path(path).parent)
        except FileNotFoundError:
            return


def _read_if_present(path: str) -> bytes | None:
    try:
        with _opened(path) as descriptor, os.fdopen(descriptor, "rb", closefd=False) as file:
            return file.read()
    except FileNotFoundError:
        return None


def _write_whole(path: str, data: bytes) -> None:
    part = path + _PART_SUFFIX
    _ensure_removed(part)
    descriptor = os.open(part, _OPEN_NEW, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        Path(part).rename(path)
    except BaseException:
        _ensure_removed(part)
        raise
