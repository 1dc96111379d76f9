"""List the addresses elsewhere that the documents point to, each with the documents that do.

    python scripts/links.py

Whether they still answer is for somebody with a network to look at; the suite asks none of them.
"""

from __future__ import annotations

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "tests"))

from support.documents import documents, links_of


def main() -> None:
    pointing: dict[str, list[str]] = {}
    for path in documents():
        for link in links_of(path.read_text("utf-8")):
            if link.startswith(("http://", "https://")):
                pointing.setdefault(link, []).append(str(path.relative_to(ROOT)))
    for link, names in sorted(pointing.items()):
        print(f"{link}    {', '.join(sorted(set(names)))}")


if __name__ == "__main__":
    main()
