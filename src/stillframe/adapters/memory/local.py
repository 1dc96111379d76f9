"""Memory states and screenshots as files of this host.

    <root>/memory/<uuid>.mem         written by QEMU, then sealed: synced, read-only, with a checksum
    <root>/memory/<uuid>.lazy        for the moments of a lazy restore from it: all of it but the guest's RAM
    <root>/memory/<uuid>.lent        nobody's any more but a guest's that lives on it
    <root>/screenshots/<uuid>.png    whole or not at all

Directories are 0700 and files 0600 (0400 when sealed): a guest's memory holds its secrets.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

from blake3 import blake3

from stillframe.adapters.memory.compression import compress
from stillframe.adapters.memory.digests import Digests
from stillframe.adapters.memory.files import (
    OPEN_NEW,
    PART_SUFFIX,
    ensure_directory,
    ensure_removed,
    free_bytes,
    opened,
    read_if_present,
    storage_errors,
    sync_directory,
    write_whole,
)
from stillframe.adapters.memory.listing import BLOCK_BYTES, UUID, listed
from stillframe.adapters.memory.own_blocks import own_blocks
from stillframe.adapters.memory.shared_extents import can_share, share_chunks
from stillframe.adapters.memory.sparse_checksum import (
    PREFIX,
    Checksum,
    check_chunks,
    checksum_from,
    checksum_of,
    digest_chunks,
    parse_checksum,
)
from stillframe.adapters.memory.unhurried import unhurried
from stillframe.adapters.memory.writeback import write_back_gently
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.ports.memory_store import StoredFile, StoredKind

_MEMORY_SUFFIX = ".mem"
_LAZY_SUFFIX = ".lazy"
_LENT_SUFFIX = ".lent"
_SCREENSHOT_SUFFIX = ".png"
_SEALED_MODE = 0o400
_MOST_DIGEST_BYTES = 32 << 20  # of some 800 GiB of memory


class LocalMemoryStore:
    """``ports.memory_store.MemoryStore`` on a directory. Threads may share it.

    What it knows of files' contents it has read itself, and forgets when it ends.

    Every call raises ``Refused`` PARAMETER_MALFORMED for a uuid that is not canonical: no path is made of anything
    else. Where nothing else is said, an error is ``Failed`` STORAGE_FAILED or SPACE_EXHAUSTED.
    """

    def __init__(self, root: Path, *, compressed: bool = False) -> None:
        """``compressed``: by the file system, where it can (``why_not_compressed``)."""
        self._compressed = compressed
        self._root = root.absolute()
        self._memory = self._root / "memory"
        self._screenshots = self._root / "screenshots"
        self._hashed: dict[str, tuple[int, ...]] = {}  # memory uuid -> the inode whose contents were seen to be right
        self._digests = Digests(_MOST_DIGEST_BYTES)
        self._shares = True  # until the file system has said that it cannot

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
        with storage_errors(path):
            ensure_directory(self._memory)
            self._remove_capture(path)
            free = free_bytes(self._memory)
            if free < needed_bytes:
                sync_directory(self._memory)
                raise Refused(
                    ErrorCase.SPACE_EXHAUSTED,
                    f"memory state {memory_uuid} needs {needed_bytes} bytes, {free} are free in {self._memory}",
                )
            os.close(os.open(path, OPEN_NEW, 0o600))
            if self._compressed:
                compress(path)
            sync_directory(self._memory)
        return path

    def flush(self, memory_uuid: str) -> None:
        """Push what was written to the disk in small portions; what remains is ``seal``'s. Repeatable.

        Raises:
            Failed: STORAGE_FAILED, also when there is no such file.
        """
        path = self.capture_path(memory_uuid)
        with storage_errors(path), opened(path) as descriptor:
            write_back_gently(descriptor)

    def seal(self, memory_uuid: str) -> tuple[str, int]:
        """Make the finished file durable and read-only; returns (checksum, bytes that it occupies). Repeatable.

        Raises:
            Failed: STORAGE_FAILED, also when there is no such file; whether it is read-only by then is open.
        """
        path = self.capture_path(memory_uuid)
        with storage_errors(path), opened(path) as descriptor:
            os.fsync(descriptor)
            # guests want the processors, too: nobody waits for this one
            checksum, digests = checksum_of(descriptor, max_threads=1)
            os.fchmod(descriptor, _SEALED_MODE)
            os.fsync(descriptor)
            sync_directory(self._memory)
            status = os.fstat(descriptor)
            self._hashed[memory_uuid] = _identity(status)
            self._digests.put(memory_uuid, digests)
            return str(checksum), status.st_blocks * BLOCK_BYTES

    def share(self, memory_uuid: str, with_uuid: str, *, goes_on: Callable[[], bool]) -> int:
        """Where the file system can (XFS, btrfs), equal blocks of both sealed files are stored once; returns how many bytes.

        Neither the bytes nor the times of change of a file change. What becomes shared leaves the page cache. Repeatable, and of no
        consequence when it is cut off. A file system that cannot is not asked again by this process.

        Raises:
            Failed: STORAGE_FAILED, also when one of them is missing; what is shared by then is.
        """
        path, other = self.capture_path(memory_uuid), self.capture_path(with_uuid)
        shared = 0
        with storage_errors(path), opened(other) as source, opened(path) as target:
            if not self._shares or not (_is_sealed(source) and _is_sealed(target)):
                return 0
            self._shares = can_share(source, target)
            if not self._shares:
                return 0
            with own_blocks(target, self._memory, compressed=self._compressed) as own:
                for found in unhurried(share_chunks(source, target, own), goes_on):
                    shared += found or 0
        return shared

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
        with storage_errors(path):
            try:
                with opened(path) as descriptor:
                    length = os.fstat(descriptor).st_size
                    if length != expected.length_bytes:
                        raise _damaged(memory_uuid, _of_other_length(length, expected.length_bytes))
                    before = _identity(os.fstat(descriptor))
                    found, digests = checksum_of(descriptor)
                    if found != expected:
                        raise self._found_damaged(memory_uuid, _OF_OTHER_CONTENTS)
                    self._hashed[memory_uuid] = before
                    self._digests.put(memory_uuid, digests)
            except FileNotFoundError:
                raise _damaged(memory_uuid, "its file is missing") from None
        return path

    def check_slowly(self, memory_uuid: str, checksum: str, *, goes_on: Callable[[], bool]) -> bool:
        """Read the file bit by bit, as a guest that lives on it lets us: True when it is whole, False when ``goes_on`` says no.

        Raises:
            Failed: MEMORY_DAMAGED, at the first chunk that differs where this process has hashed the file before, else at the
                end; STORAGE_FAILED, also when it is missing: a guest that has it open still reads what it was.
        """
        path = self.capture_path(memory_uuid)
        expected = _parsed(memory_uuid, checksum)
        with storage_errors(path), opened(path) as descriptor:
            before = _identity(os.fstat(descriptor))
            if os.fstat(descriptor).st_size != expected.length_bytes:
                raise self._found_damaged(memory_uuid, _of_other_length(before[2], expected.length_bytes))
            digests = self._digests.get(memory_uuid)
            if digests is not None and checksum_from(digests, expected.length_bytes) != expected:
                raise self._found_damaged(memory_uuid, _OF_OTHER_CONTENTS)
            if digests is not None:
                for is_right in unhurried(check_chunks(descriptor, digests), goes_on):
                    if is_right is None:
                        return False
                    if not is_right:
                        raise self._found_damaged(memory_uuid, _OF_OTHER_CONTENTS)
                return True
            found = bytearray()
            for digest in unhurried(digest_chunks(descriptor), goes_on):
                if digest is None:
                    return False
                found += digest
            if checksum_from(bytes(found), expected.length_bytes) != expected:
                raise self._found_damaged(memory_uuid, _OF_OTHER_CONTENTS)
            self._hashed[memory_uuid] = before
            self._digests.put(memory_uuid, bytes(found))
        return True

    def _found_damaged(self, memory_uuid: str, why: str) -> Failed:
        """From now on nothing is taken for granted of it, whatever the file system says."""
        self._hashed.pop(memory_uuid, None)
        self._digests.drop(memory_uuid)
        return _damaged(memory_uuid, why)

    def check_length(self, memory_uuid: str, checksum: str) -> None:
        """The file is there and as long as its checksum says; nothing is read.

        Raises:
            Failed: MEMORY_DAMAGED, as ``verify``; STORAGE_FAILED when it cannot be looked at.
        """
        path = self.capture_path(memory_uuid)
        expected = _parsed(memory_uuid, checksum)
        with storage_errors(path):
            try:
                with opened(path) as descriptor:
                    length = os.fstat(descriptor).st_size
            except FileNotFoundError:
                raise _damaged(memory_uuid, "its file is missing") from None
        if length != expected.length_bytes:
            raise _damaged(memory_uuid, _of_other_length(length, expected.length_bytes))

    def ensure_dropped(self, memory_uuid: str) -> None:
        """No file of this uuid is left, durably. Repeatable."""
        self.drop_lazy_file(memory_uuid)
        ensure_removed(self.capture_path(memory_uuid))
        ensure_removed(self._beside(memory_uuid, _LENT_SUFFIX))  # last: it says that the others have to go
        self._hashed.pop(memory_uuid, None)
        self._digests.drop(memory_uuid)

    def lazy_path(self, memory_uuid: str) -> str:
        return self._beside(memory_uuid, _LAZY_SUFFIX)

    def drop_lazy_file(self, memory_uuid: str) -> None:
        ensure_removed(self.lazy_path(memory_uuid))

    def drop_lazy_files(self) -> None:
        """Of whatever restore: none is under way."""
        for memory_uuid in self._named(_LAZY_SUFFIX):
            self.drop_lazy_file(memory_uuid)

    def lend(self, memory_uuid: str, checksum: str) -> None:
        """The file stays, durably noted as nobody's but a guest's. Repeatable."""
        path = self._beside(memory_uuid, _LENT_SUFFIX)
        with storage_errors(path):
            if read_if_present(path) != checksum.encode():
                ensure_removed(path)
                write_whole(path, checksum.encode())
            sync_directory(self._memory)

    def lent(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for memory_uuid in self._named(_LENT_SUFFIX):
            path = self._beside(memory_uuid, _LENT_SUFFIX)
            with storage_errors(path):
                found[memory_uuid] = (read_if_present(path) or b"").decode("ascii", errors="replace")
        return found

    def take_back(self, memory_uuid: str) -> None:
        """It was not to be lent: something refers to it. Repeatable."""
        ensure_removed(self._beside(memory_uuid, _LENT_SUFFIX))

    def _named(self, suffix: str) -> list[str]:
        """The uuids of the files beside memory files, ascending."""
        with storage_errors(str(self._memory)):
            try:
                names = [entry.name for entry in os.scandir(self._memory)]
            except FileNotFoundError:
                return []
        stems = (name.removesuffix(suffix) for name in names if name.endswith(suffix))
        return sorted(stem for stem in stems if UUID.fullmatch(stem))

    def _beside(self, memory_uuid: str, suffix: str) -> str:
        return str(self._memory / (_checked(memory_uuid) + suffix))

    def list_owned(self) -> list[StoredFile]:
        """Every memory file, captures included, then every screenshot, each by uuid; empty when there is no store yet."""
        return [
            *listed(self._memory, StoredKind.MEMORY, (_MEMORY_SUFFIX,)),
            *listed(self._screenshots, StoredKind.SCREENSHOT, (_SCREENSHOT_SUFFIX, _SCREENSHOT_SUFFIX + PART_SUFFIX)),
        ]

    def put_screenshot(self, snapshot_uuid: str, png: bytes) -> str:
        """Store durably, whole or not at all; returns "blake3:…" over the bytes. Repeatable with the same bytes.

        Raises:
            Failed: STORAGE_FAILED when another picture is stored already: what is published never changes.
        """
        path = self._screenshot_path(snapshot_uuid)
        checksum = _checksum_of_bytes(png)
        with storage_errors(path):
            stored = read_if_present(path)
            if stored is None:
                ensure_directory(self._screenshots)
                write_whole(path, png)
            elif stored != png:
                raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: another screenshot is stored already")
            sync_directory(self._screenshots)
        return checksum

    def get_screenshot(self, snapshot_uuid: str, checksum: str) -> bytes | None:
        """The PNG; None when it is proved absent.

        Raises:
            Failed: STORAGE_FAILED when it is damaged or unreadable.
        """
        path = self._screenshot_path(snapshot_uuid)
        with storage_errors(path):
            png = read_if_present(path)
        if png is not None and _checksum_of_bytes(png) != checksum:
            raise Failed(ErrorCase.STORAGE_FAILED, f"screenshot {snapshot_uuid} is damaged: its checksum differs")
        return png

    def drop_screenshot(self, snapshot_uuid: str) -> None:
        """No screenshot of this uuid is left, durably. Repeatable."""
        path = self._screenshot_path(snapshot_uuid)
        ensure_removed(path + PART_SUFFIX)
        ensure_removed(path)

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


def _parsed(memory_uuid: str, checksum: str) -> Checksum:
    try:
        return parse_checksum(checksum)
    except ValueError as error:
        raise Failed(ErrorCase.MEMORY_DAMAGED, f"memory state {memory_uuid}: {error}") from error


def _checked(uuid: str) -> str:
    if UUID.fullmatch(uuid) is None:
        raise Refused(ErrorCase.PARAMETER_MALFORMED, f'"{uuid}" is not a canonical uuid')
    return uuid


def _is_sealed(descriptor: int) -> bool:
    return stat.S_IMODE(os.fstat(descriptor).st_mode) == _SEALED_MODE


def _identity(status: os.stat_result) -> tuple[int, ...]:
    """Changes whenever somebody writes to the file, replaces it or touches its mode."""
    return (status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


_OF_OTHER_CONTENTS = "its contents differ from what was saved"


def _damaged(memory_uuid: str, why: str) -> Failed:
    return Failed(ErrorCase.MEMORY_DAMAGED, f"memory state {memory_uuid}: {why}")


def _of_other_length(found: int, expected: int) -> str:
    return f"its file is {'truncated' if found < expected else 'too long'}: {found} bytes instead of {expected}"


def _checksum_of_bytes(data: bytes) -> str:
    return PREFIX + blake3(data).hexdigest()
