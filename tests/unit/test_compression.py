"""Memory that is to be compressed where the file system cannot: said before the service starts, not when a guest is saved."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from stillframe.adapters.memory.compression import why_not_compressed
from stillframe.adapters.memory.local import LocalMemoryStore


@pytest.fixture
def elsewhere() -> Iterator[Path]:
    """On tmpfs, whatever the suite's own directory is on."""
    with TemporaryDirectory(dir="/dev/shm", prefix="sf-") as found:
        yield Path(found)


def test_it_is_said_in_both_languages(elsewhere: Path) -> None:
    english, chinese = why_not_compressed(elsewhere / "state").splitlines()
    assert english.startswith("refused: STILLFRAME_COMPRESS_MEMORY")
    assert chinese.startswith("拒绝：")
    for words in (english, chinese):
        assert str(elsewhere / "state" / "memory") in words
        assert "btrfs" in words


def test_the_service_does_not_start(elsewhere: Path) -> None:
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "stillframe.cli.main",
            "serve",
            "--state",
            str(elsewhere / "state"),
            "--listen",
            "127.0.0.1:1",
        ],
        env={**os.environ, "STILLFRAME_COMPRESS_MEMORY": "true"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2, done.stderr
    assert "STILLFRAME_COMPRESS_MEMORY" in done.stderr
    assert "拒绝" in done.stderr


def test_a_store_whose_file_system_cannot_any_more_stores_it_as_it_is(elsewhere: Path) -> None:
    """A snapshot is worth more than the space that it takes."""
    store = LocalMemoryStore(elsewhere, compressed=True)
    uuid = "0b7a4f0e-6f1e-4a5e-8d39-3f9a5a1b2c3d"
    path = Path(store.ensure_capture_file(uuid, 1))
    path.write_bytes(b"memory" * 1000)
    checksum, _bytes = store.seal(uuid)
    assert store.verify(uuid, checksum) == str(path)
