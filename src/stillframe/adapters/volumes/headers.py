"""Looking at image files without QEMU: what each one's header says, and whether the chain below it may be opened.

Neither a header nor what it names is trusted: this is asked before QEMU or qemu-img opens anything. The rules for headers
are pure (domain/image_header.py); here stands what only the file system knows. A path is looked at through a descriptor
that opens nothing (O_PATH, open(2)): a device is not touched, a FIFO is not waited for, and between the look and the
reading the file cannot be exchanged.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from stillframe.adapters.volumes import files
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.domain.image_header import FORMATS, HEAD_BYTES, BadHeaderError, Header, check_raw, read_header
from stillframe.ports.volumes import ImageInfo

CHAIN_MAX = 200
"""More than this many files on each other are refused before the rules for depth are asked."""

_KINDS = {
    stat.S_IFDIR: "a directory",
    stat.S_IFBLK: "a block device",
    stat.S_IFCHR: "a character device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}


@dataclass(frozen=True)
class _Look:
    """One file. ``inode`` is what it is known by, whatever its name."""

    info: ImageInfo
    inode: tuple[int, int]


class Headers:
    """Reads headers. Holds no state; threads may share it.

    ``directories``: where backing files may lie, beside the directory of the disk itself and what is below that.
    """

    def __init__(self, directories: Sequence[str] = ()) -> None:
        self._directories = tuple(directories)

    def probe(self, path: str, image_format: str) -> ImageInfo | None:
        """What one file's own header says; None when it is proved absent. What it stands on is not looked at.

        Raises:
            Refused: IMAGE_REFUSED: it may not be opened.
            Failed: STORAGE_FAILED: it could not be looked at, or QEMU marked it corrupt.
        """
        look = self._look(path, image_format, path)
        return look.info if look is not None else None

    def chain(self, path: str, image_format: str) -> tuple[ImageInfo, ...]:
        """The file and all that it stands on, topmost first; it ends where a file is proved absent.

        Raises:
            Refused: IMAGE_REFUSED: one of them may not be opened, lies where it may not, or stands on itself.
            Failed: STORAGE_FAILED: one of them could not be looked at, or is marked corrupt.
        """
        files.check_absolute(path)
        top, roots = path, self._roots(path)
        found: list[ImageInfo] = []
        seen: set[tuple[int, int]] = set()
        while path:
            name = _name(top, len(found))
            if len(found) == CHAIN_MAX:
                raise _refused(top, f"more than {CHAIN_MAX} files stand on each other")
            if found and not _is_inside(os.path.realpath(path), roots):
                # before anything else is asked, so that nobody learns what is there
                raise _outside(name)
            look = self._look(path, image_format, name)
            if look is None:
                break
            if found and not _is_inside(look.info.real_path, roots):
                raise _outside(name)
            if look.inode in seen:
                raise _refused(name, "it stands on itself")
            seen.add(look.inode)
            found.append(look.info)
            path, image_format = look.info.backing_path, look.info.backing_format
        return tuple(found)

    def _roots(self, path: str) -> tuple[str, ...]:
        """Where the files below this one may lie, with every symbolic link resolved."""
        own = os.path.realpath(files.home_of(path))
        allowed = [os.path.realpath(directory) for directory in self._directories]
        # of a disk in the root directory "its directory and below" would be everything
        return tuple(root for root in (own, *allowed) if root != "/")

    def _look(self, path: str, image_format: str, name: str) -> _Look | None:
        files.check_absolute(path)
        if image_format not in FORMATS:
            raise _refused(name, f"its format is {image_format or 'not known'}; only qcow2 and raw are opened")
        with files.storage_errors(path):
            try:
                handle = os.open(path, os.O_PATH | os.O_CLOEXEC)
            except FileNotFoundError:
                return None
            try:
                return self._look_through(handle, path, image_format, name)
            finally:
                os.close(handle)

    def _look_through(self, handle: int, path: str, image_format: str, name: str) -> _Look:
        status = os.fstat(handle)
        if not stat.S_ISREG(status.st_mode):
            raise _refused(name, f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no file')}, not a regular file")
        real = str(Path(f"/proc/self/fd/{handle}").readlink())
        if files.is_in_our_directory(path) and real != files.expected_real_path(path):
            raise _refused(name, "it is reached through a symbolic link that Stillframe did not make")
        try:
            header = _header(handle, image_format, status.st_size)
        except BadHeaderError as bad:
            raise _refused(name, str(bad)) from bad
        if header.is_corrupt:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{name}: is marked corrupt; run qemu-img check")
        info = ImageInfo(
            path=path,
            format=image_format,
            virtual_bytes=header.virtual_bytes,
            disk_bytes=files.occupied_bytes(status),
            backing_path=_absolute(path, header.backing_name),
            backing_format=header.backing_format,
            real_path=real,
        )
        return _Look(info, (status.st_dev, status.st_ino))


def _header(handle: int, image_format: str, file_bytes: int) -> Header:
    if image_format == "raw":
        return Header(check_raw(file_bytes), "", "", is_corrupt=False)
    # the file behind the descriptor itself, whatever has its name by now
    reader = os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY)
    try:
        return read_header(os.pread(reader, HEAD_BYTES, 0), file_bytes)
    finally:
        os.close(reader)


def _absolute(path: str, name: str) -> str:
    """Where QEMU would look for a backing file of this name: relative names start at the image's own directory."""
    if not name:
        return ""
    absolute = PurePosixPath(path).parent / name
    # ".." may climb out of a symbolic link's target, so only the file system can take it out of the name
    if ".." in absolute.parts:
        return str(PurePosixPath(os.path.realpath(absolute.parent)) / absolute.name)
    return str(absolute)


def _name(top: str, level: int) -> str:
    """How errors name a file: those below the topmost by their place, since their names are another file's contents."""
    if level == 0:
        return top
    return f"{top}: its backing file" if level == 1 else f"{top}: the file {level} below it"


def _is_inside(real: str, roots: Sequence[str]) -> bool:
    return any(real.startswith(f"{root}/") for root in roots)


def _outside(name: str) -> Refused:
    return _refused(
        name, "it lies outside of the directories that are allowed for it (its disk's own, and IMAGE_DIRECTORIES)"
    )


def _refused(name: str, why: str) -> Refused:
    return Refused(ErrorCase.IMAGE_REFUSED, f"{name}: {why}")
