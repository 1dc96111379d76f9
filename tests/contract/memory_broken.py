"""Memory stores that break one promise each, and the check of the suite that must see it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from blake3 import blake3

from stillframe.adapters.memory.files import storage_errors
from stillframe.adapters.memory.local import _SEALED_MODE, LocalMemoryStore
from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.ports.memory_store import StoredFile, StoredKind


class ErrorThoughStored(LocalMemoryStore):
    """The file is sealed, the reply says that it failed."""

    def seal(self, memory_uuid: str) -> tuple[str, int]:
        super().seal(memory_uuid)
        raise Failed(ErrorCase.STORAGE_FAILED, "the reply was lost")


class StoresThoughRefused(LocalMemoryStore):
    """Says that there is no space, after the file was made."""

    def ensure_capture_file(self, memory_uuid: str, needed_bytes: int) -> str:
        path = super().ensure_capture_file(memory_uuid, 0)
        if needed_bytes > 1 << 50:
            raise Refused(ErrorCase.SPACE_EXHAUSTED, f"{needed_bytes} bytes")
        return path


class IgnoresSpace(LocalMemoryStore):
    def ensure_capture_file(self, memory_uuid: str, needed_bytes: int) -> str:
        return super().ensure_capture_file(memory_uuid, 0)


class ReusesTheFile(LocalMemoryStore):
    """Truncates what a crashed attempt left, which that attempt's QEMU may still write to."""

    def ensure_capture_file(self, memory_uuid: str, needed_bytes: int) -> str:
        path = Path(self.capture_path(memory_uuid))
        if path.exists():
            os.truncate(path, 0)
            return str(path)
        return super().ensure_capture_file(memory_uuid, needed_bytes)


class PublicFiles(LocalMemoryStore):
    def ensure_capture_file(self, memory_uuid: str, needed_bytes: int) -> str:
        path = super().ensure_capture_file(memory_uuid, needed_bytes)
        Path(path).chmod(0o644)
        return path


class OwnChecksum(LocalMemoryStore):
    """Base of those whose checksum does not cover everything; ``verify`` compares it all the same."""

    def covered(self, path: Path) -> bytes:
        return path.read_bytes()

    def seal(self, memory_uuid: str) -> tuple[str, int]:
        super().seal(memory_uuid)
        path = Path(self.capture_path(memory_uuid))
        return "blake3:" + blake3(self.covered(path)).hexdigest(), path.stat().st_blocks * 512

    def verify(self, memory_uuid: str, checksum: str) -> str:
        path = Path(self.capture_path(memory_uuid))
        if not path.exists():
            raise Failed(ErrorCase.MEMORY_DAMAGED, f"{memory_uuid} is missing")
        if self.seal(memory_uuid)[0] != checksum:
            raise Failed(ErrorCase.MEMORY_DAMAGED, f"{memory_uuid}: contents differ, truncated or too long")
        return str(path)


class MissesFlippedBits(OwnChecksum):
    """Covers the length and the first byte of every page."""

    def covered(self, path: Path) -> bytes:
        return path.read_bytes()[::4096]


class MissesTruncation(OwnChecksum):
    def covered(self, path: Path) -> bytes:
        return path.read_bytes().rstrip(b"\0")


class MissesPositions(OwnChecksum):
    def covered(self, path: Path) -> bytes:
        contents = path.read_bytes()
        pages = (contents[at : at + 4096] for at in range(0, len(contents), 4096))
        return str(len(contents)).encode() + b"".join(page for page in pages if any(page))


class KnowsTheLayout(OwnChecksum):
    def covered(self, path: Path) -> bytes:
        return path.read_bytes() + str(path.stat().st_blocks).encode()


class TrustsTheFile(LocalMemoryStore):
    def verify(self, memory_uuid: str, checksum: str) -> str:
        return self.capture_path(memory_uuid)


class FailureIsDamage(LocalMemoryStore):
    def verify(self, memory_uuid: str, checksum: str) -> str:
        try:
            return super().verify(memory_uuid, checksum)
        except Failed as failure:
            raise Failed(ErrorCase.MEMORY_DAMAGED, failure.desc) from failure


class SealedIsWritable(LocalMemoryStore):
    def seal(self, memory_uuid: str) -> tuple[str, int]:
        sealed = super().seal(memory_uuid)
        Path(self.capture_path(memory_uuid)).chmod(0o600)
        return sealed


class DropsAll(LocalMemoryStore):
    def ensure_dropped(self, memory_uuid: str) -> None:
        for owned in self.list_owned():
            super().ensure_dropped(owned.uuid)


class DropsCapturesOnly(LocalMemoryStore):
    def ensure_dropped(self, memory_uuid: str) -> None:
        path = Path(self.capture_path(memory_uuid))
        if not path.exists() or path.stat().st_mode & 0o200:
            super().ensure_dropped(memory_uuid)


class ListsEveryName(LocalMemoryStore):
    """Takes whatever lies in the store for its own."""

    def list_owned(self) -> list[StoredFile]:
        directories = ((StoredKind.MEMORY, self._memory), (StoredKind.SCREENSHOT, self._screenshots))
        return [
            StoredFile(kind, path.name.partition(".")[0], str(path), path.lstat().st_blocks * 512, unfinished=False)
            for kind, directory in directories
            if directory.exists()
            for path in sorted(directory.iterdir())
        ]


class ListsLengths(LocalMemoryStore):
    """Says how long a file is, holes included, instead of what it occupies."""

    def list_owned(self) -> list[StoredFile]:
        return [replace(file, size_bytes=Path(file.path).stat().st_size) for file in super().list_owned()]


class ForgetsScreenshots(LocalMemoryStore):
    def list_owned(self) -> list[StoredFile]:
        return [file for file in super().list_owned() if file.kind is StoredKind.MEMORY]


class TakesUnfinishedForFinished(LocalMemoryStore):
    def list_owned(self) -> list[StoredFile]:
        return [replace(file, unfinished=False) for file in super().list_owned()]


class LengthIgnored(LocalMemoryStore):
    def check_length(self, memory_uuid: str, checksum: str) -> None:
        if not Path(self.capture_path(memory_uuid)).exists():
            raise Failed(ErrorCase.MEMORY_DAMAGED, f"{memory_uuid} is missing")


class LengthOfNothing(LocalMemoryStore):
    """A file that is not there cannot be too short."""

    def check_length(self, memory_uuid: str, checksum: str) -> None:
        if Path(self.capture_path(memory_uuid)).exists():
            super().check_length(memory_uuid, checksum)


class LengthFailureIsDamage(LocalMemoryStore):
    def check_length(self, memory_uuid: str, checksum: str) -> None:
        try:
            super().check_length(memory_uuid, checksum)
        except Failed as failure:
            raise Failed(ErrorCase.MEMORY_DAMAGED, failure.desc) from failure


class TakesAnyName(LocalMemoryStore):
    def capture_path(self, memory_uuid: str) -> str:
        return str(self._memory / f"{memory_uuid}.mem")


class ScreenshotFailureIsAbsence(LocalMemoryStore):
    def get_screenshot(self, snapshot_uuid: str, checksum: str) -> bytes | None:
        try:
            return super().get_screenshot(snapshot_uuid, checksum)
        except Failed:
            return None


class ScreenshotUnchecked(LocalMemoryStore):
    def get_screenshot(self, snapshot_uuid: str, checksum: str) -> bytes | None:
        path = Path(self._screenshot_path(snapshot_uuid))
        return path.read_bytes() if path.exists() else None


class ScreenshotOverwritten(LocalMemoryStore):
    def put_screenshot(self, snapshot_uuid: str, png: bytes) -> str:
        self.drop_screenshot(snapshot_uuid)
        return super().put_screenshot(snapshot_uuid, png)


class ChecksNothingSlowly(LocalMemoryStore):
    def check_slowly(self, memory_uuid: str, checksum: str, *, goes_on: Callable[[], bool]) -> bool:
        while goes_on():
            pass
        return True


class ChecksToTheEnd(LocalMemoryStore):
    """Whether or not anybody still wants it."""

    def check_slowly(self, memory_uuid: str, checksum: str, *, goes_on: Callable[[], bool]) -> bool:
        return super().check_slowly(memory_uuid, checksum, goes_on=lambda: goes_on() or True)


class DropsWhatItLends(LocalMemoryStore):
    def lend(self, memory_uuid: str, checksum: str) -> None:
        super().lend(memory_uuid, checksum)
        Path(self.capture_path(memory_uuid)).unlink(missing_ok=True)


class SharesByWriting(LocalMemoryStore):
    """What is alike is written anew, from the other file: an own idea of sharing, and without asking who else writes."""

    def share(self, memory_uuid: str, with_uuid: str, *, goes_on: Callable[[], bool]) -> int:
        path, other = Path(self.capture_path(memory_uuid)), Path(self.capture_path(with_uuid))
        with storage_errors(str(path)):
            data = other.read_bytes()[: path.stat().st_size]
        path.chmod(0o600)
        with path.open("r+b") as file:
            file.write(data)
        path.chmod(_SEALED_MODE)
        return len(data)


class SharesAFile(LocalMemoryStore):
    """Both are one file then, whatever the second held that the first does not."""

    def share(self, memory_uuid: str, with_uuid: str, *, goes_on: Callable[[], bool]) -> int:
        path, other = Path(self.capture_path(memory_uuid)), Path(self.capture_path(with_uuid))
        if other.exists() and path.exists() and path.stat().st_size == other.stat().st_size:
            path.unlink()
            path.hardlink_to(other)
        return 0


class LeavesTheImage(LocalMemoryStore):
    def drop_lazy_file(self, memory_uuid: str) -> None:
        """Nothing."""


BROKEN: tuple[tuple[type[LocalMemoryStore], str], ...] = (
    (ErrorThoughStored, "check_sealed_file_verifies"),
    (StoresThoughRefused, "check_no_space_is_said_and_leaves_nothing"),
    (IgnoresSpace, "check_no_space_is_said_and_leaves_nothing"),
    (ReusesTheFile, "check_capture_again_starts_empty"),
    (ReusesTheFile, "check_capture_never_empties_a_sealed_file"),
    (PublicFiles, "check_capture_file_is_empty_and_private"),
    (MissesFlippedBits, "check_verify_finds_one_flipped_bit"),
    (MissesTruncation, "check_verify_finds_a_truncated_file"),
    (MissesPositions, "check_checksum_knows_where_data_lies"),
    (KnowsTheLayout, "check_checksum_ignores_how_holes_are_stored"),
    (TrustsTheFile, "check_verify_finds_one_flipped_bit"),
    (TrustsTheFile, "check_verify_finds_a_missing_file"),
    (FailureIsDamage, "check_verify_failure_is_not_damage"),
    (SealedIsWritable, "check_seal_is_repeatable_and_read_only"),
    (DropsAll, "check_drop_takes_this_one_only"),
    (DropsCapturesOnly, "check_drop_takes_this_one_only"),
    (ListsEveryName, "check_list_owned_takes_only_names_of_the_store"),
    (ListsLengths, "check_list_owned_says_what_is_occupied"),
    (ForgetsScreenshots, "check_list_owned_has_screenshots_and_unfinished_ones"),
    (TakesUnfinishedForFinished, "check_list_owned_has_screenshots_and_unfinished_ones"),
    (LengthIgnored, "check_length_is_looked_at_alone"),
    (LengthOfNothing, "check_length_of_a_missing_file_is_damage"),
    (LengthFailureIsDamage, "check_length_failure_is_not_damage"),
    (TakesAnyName, "check_no_path_is_made_of_anything_but_a_uuid"),
    (ChecksNothingSlowly, "check_slowly_finds_one_flipped_bit"),
    (ChecksNothingSlowly, "check_slowly_finds_what_is_cut_off"),
    (ChecksToTheEnd, "check_slowly_ends_when_it_is_told_to"),
    (DropsWhatItLends, "check_lent_files_stay_until_they_are_dropped"),
    (SharesByWriting, "check_sharing_changes_no_byte"),
    (SharesByWriting, "check_captures_are_not_shared"),
    (SharesByWriting, "check_sharing_ends_when_it_is_told_to"),
    (SharesByWriting, "check_sharing_leaves_either_without_the_other"),
    (SharesAFile, "check_sharing_changes_no_byte"),
    (SharesAFile, "check_sharing_leaves_either_without_the_other"),
    (SharesAFile, "check_damage_to_one_is_none_of_the_other"),
    (SharesAFile, "check_sharing_needs_both_files"),
    (LeavesTheImage, "check_what_a_lazy_restore_needs_goes_alone_or_with_the_file"),
    (ScreenshotFailureIsAbsence, "check_screenshot_failure_is_not_absence"),
    (ScreenshotUnchecked, "check_screenshot_damage_is_found"),
    (ScreenshotOverwritten, "check_screenshot_never_changes"),
)
