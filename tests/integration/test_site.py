"""The documents become a site, strictly, and whoever reads it is seen by no third party."""

from __future__ import annotations

import os
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import pytest

from support.documents import ROOT

MKDOCS = ROOT / "build" / "docs" / "bin" / "mkdocs"
# elements that a browser loads something for, unasked
LOADING = {
    "script": "src",
    "link": "href",
    "img": "src",
    "iframe": "src",
    "source": "src",
    "video": "src",
    "audio": "src",
}


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    assert MKDOCS.exists(), "run: make setup-docs"
    directory = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [str(MKDOCS), "build", "--strict", "--quiet", "--site-dir", str(directory)],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stdout + done.stderr) == (0, "")
    return directory


class Loaded(HTMLParser):
    """What a page makes a browser load, and the classes of its elements."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.addresses: list[str] = []
        self.classes: set[str] = set()
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        self.classes.update((found.get("class") or "").split())
        if address := found.get(LOADING.get(tag, "")):
            self.addresses.append(address)


def test_every_document_is_a_page(site: Path) -> None:
    documents = {path.relative_to(ROOT / "docs").with_suffix(".html") for path in (ROOT / "docs").rglob("*.md")}
    assert {path.relative_to(site) for path in site.rglob("*.html")} == {*documents, Path("404.html")}


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        loaded = Loaded(page.read_text("utf-8"))
        assert loaded.addresses
        for address in loaded.addresses:
            assert "//" not in address, f"{page.name}: {address}"
        # the theme's script would fetch a library for such a one
        assert "mermaid" not in loaded.classes
    for style in site.rglob("*.css"):
        text = style.read_text("utf-8").replace(" ", "")
        assert "url(http" not in text
        assert "url(//" not in text
        assert "@import" not in text


def test_it_can_be_searched_without_asking_anybody(site: Path) -> None:
    assert "point of no return" in (site / "search" / "search_index.json").read_text("utf-8")
