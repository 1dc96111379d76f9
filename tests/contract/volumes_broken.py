"""Volumes that break one promise each, and the check of the suite that must see it."""

from __future__ import annotations

import json
import os
import shutil
import struct
import subprocess
from dataclasses import replace
from pathlib import Path

from contract.volumes_bench import run
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.ports.hypervisor import OnMerge
from stillframe.ports.volumes import ImageInfo, OwnedFile


class Unbroken(Qcow2Volumes):
    def __init__(self) -> None:
        super().__init__(lock_wait_s=0.2)

    def size_of(self, path: str, image_format: str) -> int:
        info = super().probe_image(path, image_format)
        assert info is not None
        return info.virtual_bytes


class ErrorThoughStored(Unbroken):
    """The overlay is there, the reply says that it failed."""

    def ensure_overlay(self, path: str, backing_path: str, backing_format: str) -> None:
        super().ensure_overlay(path, backing_path, backing_format)
        raise Failed(ErrorCase.STORAGE_FAILED, f"{path}: the reply was lost")


class StoresThoughRefused(Unbroken):
    """A missing backing image is noticed, after the overlay was made."""

    def ensure_overlay(self, path: str, backing_path: str, backing_format: str) -> None:
        if not Path(backing_path).exists():
            Path(path).parent.mkdir()
            run("qemu-img", "create", "-q", "-u", "-f", "qcow2", "-b", backing_path, "-F", "qcow2", path, "1M")
        super().ensure_overlay(path, backing_path, backing_format)


class ReplacesAnyFile(Unbroken):
    def ensure_overlay(self, path: str, backing_path: str, backing_format: str) -> None:
        Path(path).unlink(missing_ok=True)
        super().ensure_overlay(path, backing_path, backing_format)


class KeepsOldOverlay(Unbroken):
    """Takes "it exists" for "it is done"."""

    def ensure_overlay(self, path: str, backing_path: str, backing_format: str) -> None:
        if not Path(path).exists():
            super().ensure_overlay(path, backing_path, backing_format)


class OwnsEverything(Unbroken):
    """Overlays belong to the service, whoever runs QEMU."""

    def ensure_overlay(self, path: str, backing_path: str, backing_format: str) -> None:
        super().ensure_overlay(path, backing_path, backing_format)
        Path(path).chmod(0o600)
        os.chown(path, os.geteuid(), os.getegid())


class TakesTheLock(Unbroken):
    """Asks a running QEMU for its lock before it looks."""

    def probe_image(self, path: str, image_format: str) -> ImageInfo | None:
        if Path(path).is_file():
            run("qemu-img", "info", "-f", image_format, path)
        return super().probe_image(path, image_format)


class FailureIsAbsence(Unbroken):
    def probe_image(self, path: str, image_format: str) -> ImageInfo | None:
        try:
            return super().probe_image(path, image_format)
        except StillframeError:
            return None


class FollowsTheChain(Unbroken):
    def probe_image(self, path: str, image_format: str) -> ImageInfo | None:
        if Path(path).is_file():
            chain = ["qemu-img", "info", "-U", "--backing-chain", "--output=json", "-f", image_format, path]
            answer = subprocess.run(chain, check=False, capture_output=True)
            if answer.returncode:
                raise Failed(ErrorCase.STORAGE_FAILED, path)
            json.loads(answer.stdout)
        return super().probe_image(path, image_format)


class TrustsBackingNames(Unbroken):
    """Follows a chain wherever it leads."""

    def probe_chain(self, path: str, image_format: str) -> tuple[ImageInfo, ...]:
        found = []
        while path and (info := self.probe_image(path, image_format)) is not None:
            found.append(info)
            path, image_format = info.backing_path, info.backing_format
        return tuple(found)


class LaysLayersAnywhere(Unbroken):
    def check_directory(self, directory: str) -> None:
        Path(directory).exists()


class ListsEverything(Unbroken):
    def list_owned(self, directory: str) -> list[OwnedFile]:
        path = Path(directory)
        found = sorted(path.iterdir()) if path.is_dir() else []
        return [OwnedFile(str(one), one.stem, one.stat().st_blocks * 512, unfinished=False) for one in found]


class ForgetsUnfinished(Unbroken):
    def list_owned(self, directory: str) -> list[OwnedFile]:
        return [file for file in super().list_owned(directory) if not file.unfinished]


class SaysLengths(Unbroken):
    """How long a file is instead of what it occupies."""

    def list_owned(self, directory: str) -> list[OwnedFile]:
        return [replace(file, size_bytes=Path(file.path).stat().st_size + 1) for file in super().list_owned(directory)]

    def probe_size(self, path: str) -> int | None:
        return Path(path).stat().st_size + 1 if super().probe_size(path) is not None else None


class SizeFailureIsAbsence(Unbroken):
    def probe_size(self, path: str) -> int | None:
        try:
            return super().probe_size(path)
        except Failed:
            return None


class BelievesNames(Unbroken):
    """Two names are two files."""

    def probe_image(self, path: str, image_format: str) -> ImageInfo | None:
        info = super().probe_image(path, image_format)
        return info and replace(info, real_path=path)


class SeesDataOnly(Unbroken):
    """Zeroes and discards are nothing."""

    def probe_written(self, path: str) -> bool:
        return Path(path).exists() and b"\x09" * 512 in Path(path).read_bytes()


class LooksAtTheBeginning(Unbroken):
    def probe_written(self, path: str) -> bool:
        table = Path(path).read_bytes()
        (offset,) = struct.unpack(">Q", table[40:48])
        return any(table[offset : offset + 8])


class UnreadableIsUnwritten(Unbroken):
    def probe_written(self, path: str) -> bool:
        try:
            return super().probe_written(path)
        except Failed:
            return False


class SeesNoDamage(Unbroken):
    def probe_damage(self, path: str, image_format: str) -> str:
        super().probe_damage(path, image_format)
        return ""


class RepairsDamage(Unbroken):
    """Looks by mending."""

    def probe_damage(self, path: str, image_format: str) -> str:
        words = super().probe_damage(path, image_format)
        if words:
            subprocess.run(["qemu-img", "check", "-q", "-r", "all", path], check=False, capture_output=True)
        return words


class LeaksAreDamage(Unbroken):
    def probe_damage(self, path: str, image_format: str) -> str:
        done = subprocess.run(["qemu-img", "check", "-q", "-f", image_format, path], check=False, capture_output=True)
        return "" if done.returncode in (0, 63) else "qemu-img check finds corruption"


class OpenIsSound(Unbroken):
    """What cannot be looked at is taken for sound."""

    def probe_damage(self, path: str, image_format: str) -> str:
        try:
            return super().probe_damage(path, image_format)
        except Failed:
            return ""


class DropsTheNeighbour(Unbroken):
    """Takes an unfinished file for a part of the finished one."""

    def ensure_dropped(self, path: str) -> None:
        super().ensure_dropped(path.removesuffix(".part"))


class CommitLosesZeroes(Unbroken):
    """Merges by copying what is not zero."""

    def ensure_committed(self, top_path: str, base_path: str, on_progress: OnMerge | None = None) -> None:
        top = self.probe_image(top_path, "qcow2")
        assert top is not None
        copy = f"{top_path}.raw"
        run("qemu-img", "convert", "-f", "qcow2", "-O", "raw", top_path, copy)
        contents = Path(copy).read_bytes()
        Path(copy).unlink()
        step = 64 * 1024
        commands = []
        for at in range(0, len(contents), step):
            block = contents[at : at + step]
            if any(block):
                commands += ["-c", f"write -P {block[0]} {at} {len(block)}"]
        run("qemu-io", "-f", top.backing_format, *commands, base_path)


class CommitDoesNotGrow(Unbroken):
    def ensure_committed(self, top_path: str, base_path: str, on_progress: OnMerge | None = None) -> None:
        top = self.probe_image(top_path, "qcow2")
        assert top is not None
        size = self.size_of(base_path, top.backing_format)
        super().ensure_committed(top_path, base_path, on_progress)
        run("qemu-img", "resize", "-q", "--shrink", "-f", top.backing_format, base_path, str(size))


class CommitDoesNotShrink(Unbroken):
    """What qemu-img commit does by itself."""

    def ensure_committed(self, top_path: str, base_path: str, on_progress: OnMerge | None = None) -> None:
        run("qemu-img", "commit", "-q", "-d", "-f", "qcow2", "-b", base_path, top_path)


class CommitsIntoAnything(Unbroken):
    """Makes the base fit first, instead of asking whether it does."""

    def ensure_committed(self, top_path: str, base_path: str, on_progress: OnMerge | None = None) -> None:
        top = self.probe_image(top_path, "qcow2")
        if top is not None and top.backing_path != base_path and Path(base_path).exists():
            self.ensure_backing(top_path, base_path, "raw")
        super().ensure_committed(top_path, base_path, on_progress)


class CommitTellsNothing(Unbroken):
    def ensure_committed(self, top_path: str, base_path: str, on_progress: OnMerge | None = None) -> None:
        super().ensure_committed(top_path, base_path)


class PullLosesData(Unbroken):
    """Changes the name of the backing file, and nothing else."""

    def ensure_pulled(
        self, top_path: str, base_path: str, parent_path: str, parent_format: str, on_progress: OnMerge | None = None
    ) -> None:
        self.ensure_backing(top_path, parent_path, parent_format)


class PullStoresZeroes(Unbroken):
    """What qemu-img rebase does by itself."""

    def ensure_pulled(
        self, top_path: str, base_path: str, parent_path: str, parent_format: str, on_progress: OnMerge | None = None
    ) -> None:
        run("qemu-img", "rebase", "-f", "qcow2", "-b", parent_path, "-F", parent_format, top_path)


class PullTellsNothing(Unbroken):
    def ensure_pulled(
        self, top_path: str, base_path: str, parent_path: str, parent_format: str, on_progress: OnMerge | None = None
    ) -> None:
        super().ensure_pulled(top_path, base_path, parent_path, parent_format)


class AnythingIsPulled(Unbroken):
    """What is on the way is taken for arrived."""

    def probe_pulled(self, top_path: str, base_path: str) -> bool:
        return super().probe_pulled(top_path, base_path) or self.probe_written(top_path)


class RebaseMovesData(Unbroken):
    """A safe rebase: the image goes on reading what it read before."""

    def ensure_backing(self, path: str, backing_path: str, backing_format: str) -> None:
        run("qemu-img", "rebase", "-q", "-f", "qcow2", "-b", backing_path, "-F", backing_format, path)


class DropsAnything(Unbroken):
    def ensure_dropped(self, path: str) -> None:
        Path(path).unlink(missing_ok=True)


class DropsTheDirectory(Unbroken):
    def ensure_dropped(self, path: str) -> None:
        super().ensure_dropped(path)
        shutil.rmtree(Path(path).parent, ignore_errors=True)


class LeavesTheDirectory(Unbroken):
    def ensure_dropped(self, path: str) -> None:
        existed = Path(path).parent.exists()
        super().ensure_dropped(path)
        if existed:
            Path(path).parent.mkdir(exist_ok=True)


BROKEN: tuple[tuple[type[Unbroken], str], ...] = (
    (ErrorThoughStored, "check_overlay_reads_as_its_backing_image"),
    (StoresThoughRefused, "check_overlay_without_backing_leaves_nothing"),
    (ReplacesAnyFile, "check_overlay_refuses_any_other_file"),
    (ReplacesAnyFile, "check_overlay_in_use_is_not_replaced"),
    (KeepsOldOverlay, "check_overlay_replaces_one_on_the_same_backing"),
    (OwnsEverything, "check_overlay_follows_owner_and_mode"),
    (TakesTheLock, "check_probe_looks_at_an_open_image"),
    (TakesTheLock, "check_overlay_on_an_open_image"),
    (FailureIsAbsence, "check_probe_failure_is_not_absence"),
    (FailureIsAbsence, "check_probe_refuses_what_is_not_a_plain_file"),
    (FollowsTheChain, "check_probe_does_not_follow_the_chain"),
    (TrustsBackingNames, "check_chain_refuses_what_lies_elsewhere"),
    (LaysLayersAnywhere, "check_a_place_for_layers_is_a_directory_or_can_be_made"),
    (ListsEverything, "check_list_owned_takes_only_names_of_the_service"),
    (ListsEverything, "check_list_owned_failure_is_not_emptiness"),
    (ForgetsUnfinished, "check_list_owned_tells_unfinished_files"),
    (SaysLengths, "check_list_owned_tells_unfinished_files"),
    (SaysLengths, "check_size_is_what_is_occupied"),
    (SizeFailureIsAbsence, "check_size_is_what_is_occupied"),
    (BelievesNames, "check_probe_follows_links_to_the_file"),
    (SeesDataOnly, "check_what_was_written_is_seen"),
    (LooksAtTheBeginning, "check_what_was_written_at_the_end_of_a_large_image_is_seen"),
    (UnreadableIsUnwritten, "check_written_is_not_said_of_what_cannot_be_read"),
    (SeesNoDamage, "check_damage_is_found_and_soundness_is_said"),
    (RepairsDamage, "check_damage_is_found_and_soundness_is_said"),
    (LeaksAreDamage, "check_leaked_space_is_no_damage"),
    (OpenIsSound, "check_damage_that_cannot_be_looked_for"),
    (DropsTheNeighbour, "check_drop_of_an_unfinished_file_takes_it_alone"),
    (CommitLosesZeroes, "check_commit_moves_data_zeroes_and_discards"),
    (CommitDoesNotGrow, "check_commit_grows_the_base"),
    (CommitDoesNotShrink, "check_commit_of_a_smaller_top_uncovers_nothing_above"),
    (CommitsIntoAnything, "check_commit_refuses_another_base"),
    (CommitTellsNothing, "check_commit_tells_its_progress"),
    (PullLosesData, "check_pull_moves_data_zeroes_and_discards"),
    (PullLosesData, "check_pull_of_any_sizes_uncovers_nothing"),
    (PullStoresZeroes, "check_pull_stores_no_zeroes"),
    (PullStoresZeroes, "check_pull_refuses_another_base"),
    (PullTellsNothing, "check_pull_tells_its_progress"),
    (AnythingIsPulled, "check_what_was_pulled_is_told_by_its_clusters"),
    (RebaseMovesData, "check_backing_changes_the_header_alone"),
    (DropsAnything, "check_drop_refuses_foreign_files"),
    (DropsTheDirectory, "check_drop_leaves_what_others_put_there"),
    (LeavesTheDirectory, "check_drop_removes_file_and_empty_directory"),
)
