"""Which files of a directory are the store's, by their names."""

from __future__ import annotations

import re
import stat
from pathlib import Path

from stillframe.adapters.memory.files import PART_SUFFIX, storage_errors
from stillframe.ports.memory_store import StoredFile, StoredKind

UUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
BLOCK_BYTES = 512  # the unit of st_blocks, whatever the file system's own is


def listed(directory: Path, kind: StoredKind, suffixes: tuple[str, ...]) -> list[StoredFile]:
    """Regular files named after a uuid, with one of these suffixes; by uuid, unfinished ones last. None where there is no directory."""
    found: list[StoredFile] = []
    with storage_errors(str(directory)):
        try:
            paths = list(directory.iterdir())
        except FileNotFoundError:
            return []
        for path in paths:
            uuid, dot, rest = path.name.partition(".")
            if UUID.fullmatch(uuid) is None or dot + rest not in suffixes:
                continue
            try:
                status = path.lstat()
            except FileNotFoundError:
                continue  # it went while the directory was read
            if stat.S_ISREG(status.st_mode):
                unfinished = rest.endswith(PART_SUFFIX)
                found.append(StoredFile(kind, uuid, str(path), status.st_blocks * BLOCK_BYTES, unfinished))
    return sorted(found, key=lambda file: (file.uuid, file.unfinished))
