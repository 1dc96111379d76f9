"""The catalogue of errors and the page made from it."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.domain.errors import ErrorCase

PAGE = Path(__file__).parents[2] / "docs" / "errors.md"


def test_no_code_is_used_twice() -> None:
    # by members, not by iteration: an enum makes equal values aliases of one another
    codes = [case.value.code for case in ErrorCase.__members__.values()]
    assert len(set(codes)) == len(codes)
    assert 0 not in codes


@pytest.mark.parametrize("case", ErrorCase)
def test_every_case_speaks_both_languages(case: ErrorCase) -> None:
    assert re.fullmatch(r"[\x20-\x7e]{10,}", case.value.message)
    assert re.search(r"[\u4e00-\u9fff]{2,}", case.value.message_cn)
    assert 400 <= case.value.http_status < 600


def test_the_page_is_what_the_catalogue_gives() -> None:
    command = [sys.executable, "-m", "stillframe.domain.errors_page"]
    made = subprocess.run(command, check=True, capture_output=True, encoding="utf-8", env={"PYTHONUTF8": "1"}).stdout
    assert PAGE.read_text("utf-8") == made, "run: python -m stillframe.domain.errors_page > docs/errors.md"
