"""The house's direction holds, and the linter that says so would say otherwise (4-house: a planted import goes red)."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

# file below src/stillframe, the module planted there as an import, the contract that must break
PLANTED = [
    ("domain/snapshot.py", "sqlalchemy", "SQL stays in its adapter"),
    ("domain/tree.py", "stillframe.ports", "the house's direction"),
    ("ports/volumes.py", "stillframe.operations", "the house's direction"),
    ("operations/requests.py", "stillframe.adapters.volumes", "operations see ports, never adapters"),
    ("operations/use_cases.py", "httpx", "HTTP stays at the edges"),
    ("http/__init__.py", "libvirt", "libvirt stays in its adapter"),
    ("adapters/volumes/__init__.py", "stillframe.operations", "adapters see ports and domain only"),
    ("adapters/memory/__init__.py", "stillframe.adapters.metadata", "adapter families do not know each other"),
    ("client/flow.py", "stillframe.operations", "the client stands on itself and the domain"),
    ("operations/work.py", "stillframe.client", "the service does not call itself"),
    ("adapters/metadata/__init__.py", "libvirt_qemu", "libvirt stays in its adapter"),
    ("adapters/metrics/__init__.py", "stillframe.adapters.traces", "adapter families do not know each other"),
    ("operations/telling.py", "prometheus_client", "figures and traces stay in their adapters"),
    ("http/health.py", "opentelemetry", "figures and traces stay in their adapters"),
]


def copy_of_the_house(to: Path) -> Path:
    """The sources and the contracts."""
    shutil.copytree(ROOT / "src", to / "src", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", to)
    return to


def lint_imports(house: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--config", house / "pyproject.toml", "--no-cache"],
        cwd=house / "src",
        env=os.environ | {"PYTHONPATH": str(house / "src")},  # before the installed package, which is the real tree
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def verdict_on_planted(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """What the linter says of a tree with every bad import of ``PLANTED`` in it."""
    house = copy_of_the_house(tmp_path_factory.mktemp("planted"))
    for file, module, _ in PLANTED:
        target = house / "src" / "stillframe" / file
        target.write_text(f"{target.read_text()}\nimport {module}\n")
    return lint_imports(house)


def test_the_real_tree_keeps_its_direction(tmp_path: Path) -> None:
    result = lint_imports(copy_of_the_house(tmp_path))
    assert result.returncode == 0, result.stdout


@pytest.mark.parametrize(("file", "module", "contract"), PLANTED)
def test_a_planted_import_goes_red(
    verdict_on_planted: subprocess.CompletedProcess[str], file: str, module: str, contract: str
) -> None:
    importer = "stillframe." + file.removesuffix(".py").removesuffix("/__init__").replace("/", ".")
    assert verdict_on_planted.returncode == 1
    assert f"{contract} BROKEN" in verdict_on_planted.stdout
    details = verdict_on_planted.stdout.split("Broken contracts", 1)[1]
    assert f"{importer} -> {module} (" in details, details


def test_the_whole_suite_leaves_nothing_out() -> None:
    """Where a tool is missing whose tests are skipped elsewhere, ``make test`` fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests/unit/test_packaging.py"]
    without = {"PATH": "/nonexistent"}  # systemd-analyze is not found there
    for more, code in (({}, 0), ({"STILLFRAME_WHOLE_SUITE": "1"}, 1)):
        done = subprocess.run(command, env=without | more, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stdout
        assert ("this was left out: Skipped: systemd is not installed" in done.stdout) == (code == 1)
