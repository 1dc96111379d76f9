"""The systemd unit says what systemd understands, and stays as tight as docs/security.md says."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGING = ROOT / "packaging"

pytestmark = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture
def units(tmp_path: Path) -> dict[str, Path]:
    """The unit by itself and with its drop-in, with a program that exists."""
    plain = (PACKAGING / "stillframe.service").read_text().replace("/opt/stillframe/bin/stillframe", "/bin/true")
    as_root = plain + (PACKAGING / "stillframe-root.conf").read_text()
    made = {}
    for name, text in (("user", plain), ("root", as_root)):
        made[name] = tmp_path / name / "stillframe.service"
        made[name].parent.mkdir()
        made[name].write_text(text)
    return made


def analyze(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", "--no-pager", *words], capture_output=True, text=True, check=False)


@pytest.mark.parametrize("kind", ["user", "root"])
def test_systemd_understands_it(kind: str, units: dict[str, Path]) -> None:
    said = analyze("verify", "--man=no", str(units[kind]))
    assert (said.returncode, said.stdout + said.stderr) == (0, "")


@pytest.mark.parametrize("kind", ["user", "root"])
def test_its_exposure_is_what_the_document_says(kind: str, units: dict[str, Path]) -> None:
    """Measured by systemd 254; another version may know more, or weigh otherwise."""
    said = analyze("security", "--offline=true", str(units[kind])).stdout
    found = re.search(r"Overall exposure level for stillframe.service: (\d+\.\d)", said)
    assert found is not None, said
    document = (ROOT / "docs" / "security.md").read_text(encoding="utf-8")
    told = re.search(rf"as {kind}: (\d+\.\d)", document)
    assert told is not None
    assert float(found[1]) <= float(told[1]) + 0.3
