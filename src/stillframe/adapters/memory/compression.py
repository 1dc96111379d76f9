"""Memory files that the file system compresses: they stay plain files to whoever reads, maps or shares them.

btrfs does that file by file, for what is written after the file was told; what does not become smaller it stores as it is, and
reads see no difference. A file that was compressed as a whole could not be mapped: it would have to be unpacked before a rollback.

Source: btrfs-property(8), Documentation/Compression of btrfs-progs ("btrfs.compression").
"""

from __future__ import annotations

import errno
import logging
import os
from pathlib import Path

from stillframe.adapters.memory.files import ensure_directory

log = logging.getLogger(__name__)
_ATTRIBUTE, _ZSTD = "btrfs.compression", b"zstd"
_NOT_HERE = (errno.EOPNOTSUPP, errno.EISDIR)  # no such attribute; no files without a name


def compress(file: int | str) -> None:
    """What is written to this file from now on is compressed; where that is not to be had it is written as it is."""
    try:
        os.setxattr(file, _ATTRIBUTE, _ZSTD)
    except OSError as error:
        log.warning("a memory file is stored uncompressed: %s", error.strerror)


def why_not_compressed(root: Path) -> str:
    """Why files of a store below this directory would not be compressed, in both languages; "" when they would be.

    Raises:
        OSError: the directory cannot be looked at, or made.
    """
    directory = root / "memory"
    ensure_directory(directory)
    try:
        probe = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.setxattr(probe, _ATTRIBUTE, _ZSTD)
        finally:
            os.close(probe)
    except OSError as error:
        if error.errno == errno.EINVAL:
            return (
                f"refused: STILLFRAME_COMPRESS_MEMORY is set, but btrfs compresses nothing in {directory}: it is mounted with "
                "nodatacow, or the directory is marked so (chattr +C): change that, or unset it\n"
                f"拒绝：已设置 STILLFRAME_COMPRESS_MEMORY，但 btrfs 不压缩 {directory} 中的文件：其挂载选项为 nodatacow，"
                "或该目录带有此标记（chattr +C）：请更改，或取消该设置"
            )
        if error.errno not in _NOT_HERE:
            raise
        return (
            f"refused: STILLFRAME_COMPRESS_MEMORY is set, but {directory} is not on btrfs, which alone compresses files that can be "
            "mapped: put a btrfs there, or unset it\n"
            f"拒绝：已设置 STILLFRAME_COMPRESS_MEMORY，但 {directory} 不在 btrfs 上，而只有 btrfs 能压缩可被映射的文件："
            "请在该处使用 btrfs，或取消该设置"
        )
    return ""
