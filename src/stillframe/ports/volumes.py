"""What the operations need of storage: image files that no QEMU has open.

Paths are absolute. Every call is idempotent (``ensure_*``) or looks only (``probe_*``). "Absent" is a proved answer;
a look-up that fails raises ``Failed`` STORAGE_FAILED. ENOSPC and quotas raise ``Failed`` SPACE_EXHAUSTED.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stillframe.ports.hypervisor import OnMerge


@dataclass(frozen=True)
class ImageInfo:
    """What an image file's own header says. ``backing_path`` is absolute or "" ; ``disk_bytes`` is what it occupies.

    ``real_path`` is where the file lies when every symbolic link on the way is followed: two names of one file agree in it.
    """

    path: str
    format: str
    virtual_bytes: int
    disk_bytes: int
    backing_path: str
    backing_format: str
    real_path: str = ""


@dataclass(frozen=True)
class OwnedFile:
    """A file with a name that this service gives. ``uuid`` is the name's; ``size_bytes`` is what it occupies.

    ``unfinished``: it was being made (or its making was cut off) and never got its final name.
    """

    path: str
    uuid: str
    size_bytes: int
    unfinished: bool


class Volumes(Protocol):
    """One kind of layer storage."""

    def probe_image(self, path: str, image_format: str) -> ImageInfo | None:
        """The image's header, read without taking its lock (a QEMU may have it open); None when no file exists.

        Raises:
            Refused: IMAGE_REFUSED when it may not be opened: no regular file, not of that format, or with a header that
                is not to be trusted.
            Failed: STORAGE_FAILED when it could not be looked at.
        """
        ...

    def probe_chain(self, path: str, image_format: str) -> tuple[ImageInfo, ...]:
        """The image and all that it stands on, topmost first, looked at before anybody opens it as an image.

        It ends early where a file is proved absent: the last one then names a backing file.

        Raises:
            Refused: IMAGE_REFUSED, as ``probe_image``, for any of them; also when one lies outside of the directories
                that are allowed, or stands on itself. ``desc`` names files below the topmost by their place alone.
            Failed: STORAGE_FAILED when one could not be looked at.
        """
        ...

    def check_directory(self, directory: str) -> None:
        """Layers can be made in this directory of the service's, which need not exist yet.

        Raises:
            Refused: IMAGE_REFUSED: it is a symbolic link, or no directory.
            Failed: STORAGE_FAILED: the service may not write there; ``desc`` says where, and what to do.
        """
        ...

    def ensure_overlay(self, path: str, backing_path: str, backing_format: str) -> None:
        """An empty qcow2 at ``path`` of the backing image's virtual size, durable, directories made as needed.

        An existing file at ``path`` is replaced when it is an overlay on the same backing image; the caller owns it.
        Ownership and mode follow the backing file. The backing file may be open for writing elsewhere.

        Raises:
            Failed: STORAGE_FAILED when the backing image does not exist; nothing is left at ``path``.
        """
        ...

    def ensure_durable(self, path: str) -> None:
        """What was written to the file so far survives a power loss when this returns."""
        ...

    def ensure_committed(self, top_path: str, base_path: str, on_progress: OnMerge | None = None) -> None:
        """All data of ``top_path`` is in ``base_path``, its backing file, and durable; top is still valid after it.

        ``on_progress`` is told, in this thread, how much of what top holds has been copied: never less than before, and
        everything at the end.

        The base takes top's size. Neither may be open elsewhere. Top reads the same at every instant; interrupted, the
        base is a mixture until the call is repeated, so nobody else may depend on it.

        Raises:
            Unknown: STORAGE_FAILED when the work neither ended in time nor could be stopped.
        """
        ...

    def ensure_pulled(
        self,
        top_path: str,
        base_path: str,
        parent_path: str,
        parent_format: str,
        on_progress: OnMerge | None = None,
    ) -> None:
        """What ``base_path``, top's backing file, adds to ``parent_path``, its own, is in ``top_path``, which backs on that
        parent; durable. Zeroes take no space. Base and parent are only read.

        ``on_progress`` as for ``ensure_committed``, of what base holds. None of them may be open for writing elsewhere.
        Top reads the same at every instant, power loss included, as long as base is there. Nothing happens when top backs
        on the parent already.

        Raises:
            Unknown: STORAGE_FAILED when the work neither ended in time nor could be stopped.
        """
        ...

    def probe_pulled(self, top_path: str, base_path: str) -> bool:
        """Nothing that ``top_path`` reads is in ``base_path``, of the same size: it can do without it.

        Told from what lies on the disk, by metadata alone; right also while a QEMU writes to top.

        Raises:
            Failed: STORAGE_FAILED when it could not be looked at.
        """
        ...

    def ensure_backing(self, path: str, backing_path: str, backing_format: str) -> None:
        """``path``'s header names this backing file; no data moves; durable."""
        ...

    def ensure_dropped(self, path: str) -> None:
        """The file is gone, durably, and so is the directory made for it when that is empty now.

        Of an unfinished file's path only that goes; with a finished one's path an unfinished one beside it goes too.
        """
        ...

    def list_owned(self, directory: str) -> list[OwnedFile]:
        """The files with names that this service gives, finished or not, by path; empty when there is no directory."""
        ...

    def probe_size(self, path: str) -> int | None:
        """The bytes that the file occupies, whatever is in it; None when no file exists."""
        ...

    def probe_written(self, path: str) -> bool:
        """Something was written to this overlay since ``ensure_overlay`` made it; false also when no file exists.

        Zeroes and discards count as well. Reads metadata only: quick, however large the image is. While a QEMU that runs
        has it open the answer may be old; of one that is paused, or of nobody's, it is right.

        Raises:
            Failed: STORAGE_FAILED when it could not be looked at.
        """
        ...

    def probe_damage(self, path: str, image_format: str) -> str:
        """What a check of the image's whole structure finds wrong, in words; "" when nothing, or nothing can be checked.

        Reads metadata only, not data: seconds for a large image. Space that is lost, but harmless, is not damage.

        Raises:
            Failed: STORAGE_FAILED when it could not be looked at, also because somebody writes to it.
        """
        ...
