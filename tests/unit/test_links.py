"""Links between documents reach what they name; those that lead elsewhere lead where we mean to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from support.documents import ROOT, anchors_of, documents, links_of

# what others have written that we point to: a new host is a decision
HOSTS = {
    "127.0.0.1:8080",  # the reader's own
    "developer.broadcom.com",
    "docs.ansible.com",
    "docs.astral.sh",
    "docs.redhat.com",
    "libvirt.org",
    "pve.proxmox.com",
    "www.sqlite.org",
}


@pytest.mark.parametrize("path", documents(), ids=lambda path: str(path.relative_to(ROOT)))
def test_links_within_reach_something(path: Path) -> None:
    for link in links_of(path.read_text("utf-8")):
        if urlsplit(link).scheme:
            continue
        name, _, anchor = link.partition("#")
        target = (path.parent / name).resolve() if name else path
        assert target.exists(), link
        if path.is_relative_to(ROOT / "docs"):
            assert target.is_relative_to(ROOT / "docs"), f"{link}: not on the site"
        assert not anchor or anchor in anchors_of(target.read_text("utf-8")), link


def test_links_elsewhere_lead_where_we_mean_to() -> None:
    elsewhere = {link for path in documents() for link in links_of(path.read_text("utf-8")) if urlsplit(link).scheme}
    assert {urlsplit(link).netloc for link in elsewhere} == HOSTS
    listed = subprocess.run(
        [sys.executable, "scripts/links.py"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout
    assert {line.split()[0] for line in listed.splitlines()} == elsewhere


def test_links_and_anchors_are_found() -> None:
    text = "# A [b](c.md) `D`\n[![x](y.png)](z.md) <https://e.org/f> `[no](g.md)`\n```\n[no](h.md)\n```\n"
    assert list(links_of(text)) == ["c.md", "y.png", "z.md", "https://e.org/f"]
    assert anchors_of("# What it needs\n## The service's `own` log\n### 1, 2: three\n") == {
        "what-it-needs", "the-services-own-log", "1-2-three"
    }  # fmt: skip
