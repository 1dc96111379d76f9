"""What is built to be installed elsewhere: a wheel and a source archive that hold everything, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from stillframe.http.pages import FILES
from support.service import end_process, free_port

ROOT = Path(__file__).parents[2]
SOURCES = ROOT / "src" / "stillframe"


def _build(directory: Path, source: Path, *what: str) -> None:
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(directory), *what]
    done = subprocess.run(command, cwd=source, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("dist")
    _build(directory, ROOT, "-t", "sdist", "-t", "wheel")
    return directory


def _contents(directory: Path) -> set[str]:
    (wheel,) = directory.glob("*.whl")
    return {name for name in zipfile.ZipFile(wheel).namelist() if not name.endswith("/")}


def test_the_wheel_holds_the_package_whole_and_nothing_else(built: Path) -> None:
    packed = {name for name in _contents(built) if ".dist-info/" not in name}
    wanted = {
        f"stillframe/{path.relative_to(SOURCES)}"
        for path in SOURCES.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == wanted
    assert {f"stillframe/console/static/{name}" for name in FILES} <= packed


def test_the_source_archive_builds_the_same_wheel(built: Path, tmp_path: Path) -> None:
    (archive,) = built.glob("*.tar.gz")
    with tarfile.open(archive) as packed:
        packed.extractall(tmp_path, filter="data")
    (source,) = (path for path in tmp_path.iterdir() if path.is_dir())
    _build(tmp_path / "dist", source, "-t", "wheel")
    assert _contents(tmp_path / "dist") == _contents(built)
    for name in ("README.md", "LICENSE", "CHANGELOG.md", "uv.lock"):
        assert (source / name).is_file(), name
    assert not list(source.rglob("*.db"))
    assert not (source / ".venv").exists()


@pytest.fixture
def installed(built: Path, tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """A service of the wheel's files, away from the tree; its address and where it lies."""
    where = tmp_path / "installed"
    (wheel,) = built.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(where)  # noqa: S202 -- we have just built it
    url = f"127.0.0.1:{free_port()}"
    state = tmp_path / "state"
    command = [sys.executable, "-P", "-m", "stillframe.cli.main", "serve", "--listen", url, "--state", str(state)]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [*command, "--connect", "test:///default"],
            cwd=tmp_path, env={"PYTHONPATH": str(where), "PATH": "/usr/bin:/bin"}, stdout=log, stderr=log,
        )  # fmt: skip
    try:
        until = time.monotonic() + 60
        while not (state / "service.json").exists():
            assert process.poll() is None, (tmp_path / "log").read_text()
            assert time.monotonic() < until, (tmp_path / "log").read_text()
            time.sleep(0.05)
        yield f"http://{url}", where
    finally:
        end_process(process.pid)
        process.wait()


def test_what_is_installed_serves_its_console_and_its_document(installed: tuple[str, Path]) -> None:
    url, where = installed
    page = httpx.get(f"{url}/")
    assert page.content == (where / "stillframe" / "console" / "static" / "index.html").read_bytes()
    assert httpx.get(f"{url}/openapi.json").json()["info"]["title"] == "Stillframe"
