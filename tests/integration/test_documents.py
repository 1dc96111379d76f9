"""The documents' commands, run as a reader would: README and tutorial on what ``make up`` starts, each guide on a host.

What is run and what is not is counted in unit/test_documents.py.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.document_shell import DocumentShell
from support.documents import blocks_of
from support.reader import ReaderHost, reader_host

pytestmark = pytest.mark.guest

ROOT = Path(__file__).parents[2]
GUIDES = sorted((ROOT / "docs" / "howto").glob("*.md"))


@pytest.fixture(scope="module")
def host() -> Iterator[ReaderHost]:
    with reader_host() as host:
        yield host


@pytest.mark.parametrize("name", ["README.md", "docs/tutorial.md"])
def test_in_the_checkout(tmp_path: Path, name: str) -> None:
    with DocumentShell(tmp_path, cwd=ROOT) as shell:
        shell.follow(blocks_of((ROOT / name).read_text("utf-8")))
    assert not (ROOT / "build" / "up").exists()


@pytest.mark.parametrize("guide", GUIDES, ids=lambda guide: guide.stem)
def test_guide(host: ReaderHost, guide: Path) -> None:
    with host.shell() as shell:
        shell.follow(blocks_of(guide.read_text("utf-8")))
