"""What tests of hostile images share: a secret that nobody may open, and what every refusal must keep."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from stillframe.domain.errors import ErrorCase, Failed, Refused, StillframeError
from support.openings import unopened

WORDS = "words that are only for the host"


def secret_of(home: Path) -> Path:
    return home.parent / "vault" / "secret"


def new_layer(home: Path) -> str:
    return str(home / f"stillframe-{uuid.uuid4()}" / f"{uuid.uuid4()}.qcow2")


@contextmanager
def refused_unseen(
    spied: tuple[Qcow2Volumes, Path], home: Path, *words: str, case: ErrorCase = ErrorCase.IMAGE_REFUSED
) -> Iterator[None]:
    """The block is refused with these words; nothing is made, qemu-img is not called, the secret is neither read nor told."""
    before = {path: path.lstat().st_mtime_ns for path in home.rglob("*")}
    with unopened(secret_of(home)), pytest.raises(StillframeError) as caught:
        yield
    assert {path: path.lstat().st_mtime_ns for path in home.rglob("*")} == before
    assert caught.value.case is case
    assert isinstance(caught.value, Refused if case is ErrorCase.IMAGE_REFUSED else Failed)
    for word in words:
        assert word in caught.value.desc
    assert WORDS not in caught.value.desc
    assert "vault" not in caught.value.desc
    assert spied[1].read_text() == ""
