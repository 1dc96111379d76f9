"""An adapter that is watched, and a place with a secret beside it."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.hostile_bench import WORDS
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes


@pytest.fixture
def spied(tmp_path: Path) -> tuple[Qcow2Volumes, Path]:
    """The adapter, and a file that holds the arguments of each call of qemu-img."""
    calls, program = tmp_path / "calls", tmp_path / "qemu-img-that-is-watched"
    calls.touch()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{calls}\nexec qemu-img "$@"\n', encoding="ascii")
    program.chmod(0o755)
    return Qcow2Volumes(str(program), lock_wait_s=0.2, image_directories=[str(tmp_path / "extra")]), calls


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A disk's own directory; beside it lie ``extra``, which is allowed, and ``secret``, which is not."""
    for name in ("home", "extra", "vault"):
        (tmp_path / name).mkdir()
    (tmp_path / "vault" / "secret").write_text(WORDS * 20_000)
    return tmp_path / "home"
