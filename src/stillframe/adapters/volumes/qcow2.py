"""Layers as qcow2 files, handled with qemu-img.

Only the user's own base may have another format (raw). Formats are always given, never guessed: a guest can write
anything into a raw image, also a header that names a file of the host.
Sources: qemu-img(1) and docs/interop/qcow2.rst of QEMU; tried with 10.0.2.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path

from stillframe.adapters.volumes import files
from stillframe.adapters.volumes.headers import Headers
from stillframe.adapters.volumes.qemu_img import QemuImg
from stillframe.adapters.volumes.written import holds_all_of, holds_data
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.ports.hypervisor import MergeProgress, OnMerge
from stillframe.ports.volumes import ImageInfo, OwnedFile

_DAY_S = 24 * 3600.0
_CHECK_MEMORY_BYTES = 8 << 30  # it counts every cluster: two bytes for each that the file has room for
_THROTTLE = "speed"
_CHECKED = (0, 2, 3)  # qemu-img-check(1): nothing found, corruptions, leaks; 1 is a check that did not come to its end


class Qcow2Volumes:
    """``ports.volumes.Volumes`` on local or shared file systems. Holds no state; threads may share it."""

    def __init__(
        self,
        program: str = "qemu-img",
        *,
        call_timeout_s: float = 60.0,
        commit_timeout_s: float = _DAY_S,
        lock_wait_s: float = 10.0,
        merge_bytes_per_s: int = 0,
        image_directories: Sequence[str] = (),
    ) -> None:
        """``merge_bytes_per_s``: how fast a merge may be; 0: as fast as it goes.

        ``image_directories``: where backing files may lie, beside a disk's own directory and what is below that.
        """
        self._headers = Headers(image_directories)
        self._qemu_img = QemuImg(program, lock_wait_s)
        self._call_timeout_s = call_timeout_s
        self._commit_timeout_s = commit_timeout_s
        self._merge_bytes_per_s = merge_bytes_per_s

    def probe_image(self, path: str, image_format: str) -> ImageInfo | None:
        """The image's own header, without its lock and without looking at its backing file; None when proved absent.

        Raises:
            Refused: IMAGE_REFUSED when it may not be opened: it is no regular file, not of that format, or its header
                is not to be trusted (domain/image_header.py).
            Failed: STORAGE_FAILED when it could not be looked at, or is marked corrupt.
        """
        return self._headers.probe(path, image_format)

    def probe_chain(self, path: str, image_format: str) -> tuple[ImageInfo, ...]:
        """The image and all that it stands on, topmost first, each looked at; it ends where a file is proved absent.

        Raises:
            Refused, Failed: as ``probe_image``, for any of them; IMAGE_REFUSED also when one lies outside of the
                directories that are allowed, or stands on itself.
        """
        return self._headers.chain(path, image_format)

    def check_directory(self, directory: str) -> None:
        """Layers can be made in this directory of the service's, which need not exist yet.

        Raises:
            Refused: IMAGE_REFUSED: it is a symbolic link, or no directory.
            Failed: STORAGE_FAILED: the service may not write there.
        """
        files.check_directory(directory)

    def ensure_overlay(self, path: str, backing_path: str, backing_format: str) -> None:
        """An empty qcow2 of the backing image's virtual size at ``path``, whole or not at all, durable.

        Safe to repeat. ``backing_path`` may be open for writing elsewhere: neither its lock nor its data is touched.

        Raises:
            Failed: the backing image does not exist or is of another format; ``path`` is not <uuid>.qcow2, holds
                anything but an overlay on the same backing image, or is in use: what was there is unchanged.
        """
        files.check_owned(path)
        backing = self._existing(backing_path, backing_format)
        self._check_replaceable(path, backing_path)
        target = Path(path)
        with files.storage_errors(path), files.making(target, Path(backing_path).stat()) as part:
            self._create(part, path, backing)

    def ensure_durable(self, path: str) -> None:
        """What was written to the file so far, and its name, survive a power loss when this returns."""
        files.check_absolute(path)
        with files.storage_errors(path):
            files.sync_file(Path(path))
            files.sync_directory(Path(path).parent)

    def ensure_committed(self, top_path: str, base_path: str, on_progress: OnMerge | None = None) -> None:
        """``base_path`` reads what ``top_path`` reads, in contents and in size, durably; top reads the same throughout.

        Zeroes and discards of top count as data. A larger top makes the base grow; a smaller one makes it shrink
        afterwards: a child of top that is larger than top reads zeroes beyond top's end, and would read the base's old
        data there. Interrupted anywhere, top is unchanged and the base is a mixture that only a repetition makes
        whole; repeating is always safe.

        qemu-img tells progress as a percentage: the bytes are this share of what top occupies, its metadata included.

        Raises:
            Failed: STORAGE_FAILED before anything is done when top's backing file is not base, or either is missing;
                STORAGE_FAILED when either is open elsewhere; SPACE_EXHAUSTED. Top still reads the same.
        """
        files.check_absolute(base_path)
        top = self._existing(top_path, "qcow2")
        if not top.backing_path or not files.same_file(top.backing_path, base_path):
            raise Failed(
                ErrorCase.STORAGE_FAILED,
                f"{top_path}: its backing file is {top.backing_path or 'none'}, not {base_path}; nothing was merged",
            )
        base = self._existing(base_path, top.backing_format)
        # also when an interrupted merge is taken up again: qemu-img opens all that base stands on
        self._headers.chain(top_path, "qcow2")
        # -d leaves top's data where it is; without it a crash would find top half emptied. The page cache is used:
        # QEMU orders its metadata by flushes, and the fsync below makes the whole result durable.
        tell = on_progress or (lambda _progress: None)
        rate = ["-r", str(self._merge_bytes_per_s)] if self._merge_bytes_per_s > 0 else []
        commit = ["commit", "-p", "-d", *rate, "-f", "qcow2", "-b", top.backing_path, "--", top_path]
        self._qemu_img.run(
            commit,
            top_path,
            self._commit_timeout_s,
            on_percent=lambda percent: tell(MergeProgress(int(top.disk_bytes * percent / 100), top.disk_bytes)),
            memory_bytes=None,
        )
        if top.virtual_bytes < base.virtual_bytes:
            resize = ["resize", "-q", "--shrink", "-f", base.format, "--", base_path, str(top.virtual_bytes)]
            self._qemu_img.run(resize, base_path, self._commit_timeout_s, memory_bytes=None)
        self.ensure_durable(base_path)
        tell(MergeProgress(top.disk_bytes, top.disk_bytes))

    def ensure_pulled(
        self,
        top_path: str,
        base_path: str,
        parent_path: str,
        parent_format: str,
        on_progress: OnMerge | None = None,
    ) -> None:
        """``top_path`` backs on ``parent_path``, durably, and holds what ``base_path`` adds to it; it reads the same
        throughout. Base and parent are only read. Zeroes become zero clusters without data.

        Safe to repeat, and to interrupt anywhere: until its header names the parent, top stands on base.

        Raises:
            Failed: STORAGE_FAILED before anything is done when top backs on neither, or one of the three is missing;
                STORAGE_FAILED when one is open elsewhere; SPACE_EXHAUSTED. Top still reads the same.
        """
        top = self._existing(top_path, "qcow2")
        self._existing(parent_path, parent_format)
        tell = on_progress or (lambda _progress: None)
        copied_bytes = 0
        if (top.backing_path, top.backing_format) != (parent_path, parent_format):
            if not top.backing_path or not files.same_file(top.backing_path, base_path):
                raise Failed(
                    ErrorCase.STORAGE_FAILED,
                    f"{top_path}: its backing file is {top.backing_path or 'none'}, neither {base_path} nor {parent_path}; "
                    "nothing was merged",
                )
            copied_bytes = self._existing(base_path, "qcow2").disk_bytes
            self._headers.chain(top_path, "qcow2")
            self._rebase(top_path, parent_path, parent_format, copied_bytes, tell)
        self.ensure_durable(top_path)
        tell(MergeProgress(copied_bytes, copied_bytes))

    def _rebase(self, top_path: str, parent_path: str, parent_format: str, copied_bytes: int, tell: OnMerge) -> None:
        # writethrough: QEMU 10.0 names the new backing file in the header while tables that lead to what was copied may
        # still be in its memory; killed then, top would have lost that. So each write is durable before the next.
        rebase = ["rebase", "-p", "-t", "writethrough"]
        if self._merge_bytes_per_s > 0:
            rebase += ["--object", f"throttle-group,id={_THROTTLE},x-bps-write={self._merge_bytes_per_s}"]
        rebase += ["-b", parent_path, "-F", parent_format, "--", _sparing(top_path, self._merge_bytes_per_s > 0)]
        self._qemu_img.run(
            rebase,
            top_path,
            self._commit_timeout_s,
            on_percent=lambda percent: tell(MergeProgress(int(copied_bytes * percent / 100), copied_bytes)),
            memory_bytes=None,
        )

    def probe_pulled(self, top_path: str, base_path: str) -> bool:
        """Every cluster that the qcow2 file at ``base_path`` has, the one at ``top_path`` has, too, as they are on the disk.

        Raises:
            Failed: STORAGE_FAILED when one could not be looked at, is no whole qcow2 file or has extended tables.
        """
        for path in (top_path, base_path):
            files.check_absolute(path)
        with files.storage_errors(top_path):
            try:
                return holds_all_of(Path(top_path), Path(base_path))
            except ValueError as error:
                raise Failed(ErrorCase.STORAGE_FAILED, f"{top_path} on {base_path}: {error}") from error

    def ensure_backing(self, path: str, backing_path: str, backing_format: str) -> None:
        """``path``'s header names this backing file and format; no data moves; durable. Safe to repeat.

        Raises:
            Failed: STORAGE_FAILED, the header names what it named before: either file is missing or of another
                format, or ``path`` is open elsewhere.
        """
        self._existing(backing_path, backing_format)
        image = self._existing(path, "qcow2")
        if (image.backing_path, image.backing_format) != (backing_path, backing_format):
            rebase = ["rebase", "-q", "-u", "-f", "qcow2", "-b", backing_path, "-F", backing_format, "--", path]
            self._qemu_img.run(rebase, path, self._call_timeout_s)
        self.ensure_durable(path)

    def ensure_dropped(self, path: str) -> None:
        """The file is gone, durably, and so is its ``stillframe-…`` directory when that is empty now. Repeatable.

        An unfinished file beside it goes too; given the unfinished one's path, that one alone.

        Raises:
            Failed: STORAGE_FAILED, also when the name is not one that this service gives; then nothing was deleted.
        """
        if files.is_part_name(path):
            files.check_absolute(path)
            with files.storage_errors(path):
                files.remove_part(Path(path))
            return
        files.check_owned(path)
        with files.storage_errors(path):
            files.remove_file(Path(path))

    def list_owned(self, directory: str) -> list[OwnedFile]:
        """The regular files named <uuid>.qcow2 or <uuid>.qcow2.part, by path; empty when there is no directory.

        Raises:
            Failed: STORAGE_FAILED when it could not be read.
        """
        files.check_absolute(directory)
        with files.storage_errors(directory):
            files.check_no_link(Path(directory))
            try:
                with os.scandir(directory) as entries:
                    found = [_owned_file(entry) for entry in entries if entry.is_file(follow_symlinks=False)]
            except FileNotFoundError:
                return []
        return sorted((file for file in found if file is not None), key=lambda file: file.path)

    def probe_size(self, path: str) -> int | None:
        """The bytes that the file occupies; None when it is proved absent.

        Raises:
            Failed: STORAGE_FAILED when it could not be looked at.
        """
        files.check_absolute(path)
        with files.storage_errors(path):
            try:
                return files.occupied_bytes(Path(path).stat())
            except FileNotFoundError:
                return None

    def probe_written(self, path: str) -> bool:
        """The overlay has got clusters of its own, or an internal snapshot; false when it has none or is proved absent.

        Raises:
            Failed: STORAGE_FAILED when it could not be looked at or is no whole qcow2 file.
        """
        files.check_absolute(path)
        with files.storage_errors(path):
            try:
                return holds_data(Path(path))
            except FileNotFoundError:
                return False
            except ValueError as error:
                raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: {error}") from error

    def probe_damage(self, path: str, image_format: str) -> str:
        """What ``qemu-img check`` finds corrupt; "" for a sound image and for a raw one, which has no structure.

        Leaked clusters are no damage: a QEMU that was killed leaves some.

        Raises:
            Failed: STORAGE_FAILED when the check could not be made, also because somebody writes to the image.
        """
        if image_format != "qcow2":
            return ""
        self._existing(path, image_format)
        arguments = ["check", "--output=json", "--", _alone(path, image_format)]
        text = self._qemu_img.run(
            arguments, path, self._commit_timeout_s, accepted=_CHECKED, memory_bytes=_CHECK_MEMORY_BYTES
        )
        try:
            corruptions, errors = (int(json.loads(text).get(key, 0)) for key in ("corruptions", "check-errors"))
        except (ValueError, AttributeError) as error:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: qemu-img check gave an unknown answer") from error
        if errors:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: qemu-img check could not read {errors} places")
        return f"qemu-img check: {corruptions} corruptions" if corruptions else ""

    def _existing(self, path: str, image_format: str) -> ImageInfo:
        image = self.probe_image(path, image_format)
        if image is None:
            raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: does not exist")
        return image

    def _check_replaceable(self, path: str, backing_path: str) -> None:
        existing = self.probe_image(path, "qcow2")
        if existing is None:
            return
        if not existing.backing_path or not files.same_file(existing.backing_path, backing_path):
            raise Failed(
                ErrorCase.STORAGE_FAILED,
                f"{path}: exists already, on {existing.backing_path or 'no backing file'} instead of {backing_path}",
            )
        # Without --force-share qemu-img asks for the lock: an overlay that a QEMU writes to is never replaced.
        self._qemu_img.run(["info", "--output=json", "-f", "qcow2", "--", path], path, self._call_timeout_s)

    def _create(self, part: int, path: str, backing: ImageInfo) -> None:
        # -u and a given size: qemu-img does not open the backing file, so a running QEMU's lock cannot be in the way.
        # The part is named by its descriptor: whatever gets its name meanwhile is not written to.
        arguments = ["create", "-q", "-u", "-f", "qcow2", "-b", backing.path, "-F", backing.format, "--"]
        arguments += [f"/proc/self/fd/{part}", str(backing.virtual_bytes)]
        self._qemu_img.run(arguments, path, self._call_timeout_s, pass_fds=(part,))


def _owned_file(entry: os.DirEntry[str]) -> OwnedFile | None:
    unfinished = files.is_part_name(entry.name)
    if not unfinished and not files.is_owned_name(entry.name):
        return None
    try:
        size_bytes = files.occupied_bytes(entry.stat(follow_symlinks=False))
    except FileNotFoundError:
        return None  # it went while the directory was read
    return OwnedFile(entry.path, entry.name.partition(".")[0], size_bytes, unfinished)


def _alone(path: str, image_format: str) -> str:
    """The image by itself: what it stands on may be missing or damaged."""
    options = {"driver": image_format, "backing": None, "file": {"driver": "file", "filename": path}}
    return f"json:{json.dumps(options)}"


def _sparing(path: str, throttled: bool) -> str:
    """The image, to be opened so that zeroes that are written to it take no space, at the throttle's speed if wanted."""
    file: dict[str, object] = {"driver": "file", "filename": path}
    if throttled:
        file = {"driver": "throttle", "throttle-group": _THROTTLE, "file": file}
    return f"json:{json.dumps({'driver': 'qcow2', 'detect-zeroes': 'unmap', 'discard': 'unmap', 'file': file})}"
