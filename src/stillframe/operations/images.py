"""Headers of image files, each read once, and the chains that they make."""

from __future__ import annotations

from stillframe.domain.errors import StillframeError
from stillframe.domain.image_header import LEAF_FORMATS
from stillframe.domain.vm import Disk, SourceKind, Vm
from stillframe.ports.volumes import ImageInfo, Volumes


class Images:
    """What the headers said when they were first asked; good for one look, not for a second one."""

    def __init__(self, volumes: Volumes) -> None:
        self._volumes = volumes
        self._seen: dict[tuple[str, str], ImageInfo | StillframeError | None] = {}

    def probe(self, path: str, image_format: str) -> ImageInfo | None:
        """The image's header; None when no file exists.

        Raises:
            StillframeError: as ``Volumes.probe_image``, and the same one again when it is asked again.
        """
        key = (path, image_format)
        if key not in self._seen:
            try:
                self._seen[key] = self._volumes.probe_image(path, image_format)
            except StillframeError as error:
                self._seen[key] = error
        found = self._seen[key]
        if isinstance(found, StillframeError):
            raise found
        return found

    def follow(self, path: str, image_format: str) -> tuple[ImageInfo, ...]:
        """The image and what it stands on, topmost first; it ends where a file does not exist.

        Raises:
            StillframeError: as ``Volumes.probe_chain``.
        """
        # an image that cannot stand on another file is looked at as one that has no header, which is to say: not opened
        looked_at_as = "raw" if image_format in LEAF_FORMATS else image_format
        return self._volumes.probe_chain(path, looked_at_as) if path else ()


def file_disks(vm: Vm) -> tuple[Disk, ...]:
    """Every file that the VM reads or would read, CD-ROMs included: running now, or at its next start. Each path once."""
    found = {disk.path: disk for disk in (*vm.saved_disks, *vm.disks) if disk.source is SourceKind.FILE}
    return tuple(found.values())
