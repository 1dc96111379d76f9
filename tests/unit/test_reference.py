"""docs/reference is what the code is, and says something of everything in it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.client.clients import Calls
from stillframe.settings import Settings

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "docs" / "reference"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("reference")
    done = subprocess.run([sys.executable, "scripts/reference.py", str(directory)], cwd=ROOT, check=False)
    assert done.returncode == 0
    return directory


@pytest.mark.parametrize("name", ["api-calls.md", "settings.md", "client.md"])
def test_the_page_is_up_to_date(made: Path, name: str) -> None:
    assert (PAGES / name).read_text("utf-8") == (made / name).read_text("utf-8"), "run: make docs-reference"


def test_no_setting_is_without_words() -> None:
    for name, field in Settings.model_fields.items():
        assert (field.description or "").endswith("."), name


def test_no_call_of_the_client_is_without_words() -> None:
    assert [name for name, value in vars(Calls).items() if not name.startswith("_") and not value.__doc__] == []
