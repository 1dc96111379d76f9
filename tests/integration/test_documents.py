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


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        ("$ echo so\nnot so\n", "the document shows"),
        ("$ false\n", "ended with 1, not 0"),
        ("$ true  # exit code 1\n", "ended with 0, not 1"),
        ("$ exit 3\n", "the shell has ended"),
    ],
)
def test_a_document_that_is_not_true_fails(tmp_path: Path, lie: str, why: str) -> None:
    with DocumentShell(tmp_path) as shell, pytest.raises(AssertionError, match=why):
        shell.follow(blocks_of(f"```console\n{lie}```\n"))


def test_what_runs_on_aside_is_waited_for_and_ended(tmp_path: Path) -> None:
    beside = "<!-- other terminal -->\n\n```console\n$ echo first; sleep 0.2; echo up; sleep 611\n…\nup\n```\n"
    with DocumentShell(tmp_path) as shell:
        shell.follow(blocks_of(beside + "```console\n$ pgrep -f -x 'sleep 611' >pid\n```\n"))
        pid = int((tmp_path / "pid").read_text().split()[-1])
        assert Path(f"/proc/{pid}").exists()
    assert not Path(f"/proc/{pid}/exe").exists()
    ended = "<!-- other terminal -->\n\n```console\n$ echo up\nnever up\n```\n"
    with DocumentShell(tmp_path) as shell, pytest.raises(AssertionError, match="has ended"):
        shell.follow(blocks_of(ended))
