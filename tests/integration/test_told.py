"""The search for secrets in logs, which every service of the suite goes through, finds them."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from support.service import Service, running_service
from support.told import secrets_in_logs


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with running_service() as running:
        yield running


@pytest.fixture
def copied(service: Service, tmp_path: Path) -> Path:
    """Of the state directory, so that what is put into the log is not found when the service ends."""
    for name in ("admin.key", "service.log"):
        shutil.copy(service.state / name, tmp_path)
    with closing(sqlite3.connect(service.state / "stillframe.db")) as database:
        database.execute("VACUUM INTO ?", (str(tmp_path / "stillframe.db"),))
    return tmp_path


def admin_secret(state: Path) -> str:
    return (state / "admin.key").read_text().strip().rpartition("_")[2]


def link_secret(state: Path) -> str:
    with closing(sqlite3.connect(state / "stillframe.db")) as database:
        return str(database.execute("SELECT value FROM service_facts WHERE name = 'link_secret'").fetchone()[0])


def test_a_service_that_has_told_nothing(copied: Path) -> None:
    assert "listening" in (copied / "service.log").read_text()
    assert secrets_in_logs(copied) == []


def test_each_secret_is_found(service: Service, copied: Path) -> None:
    key = service.post("/v1/stillframe/key/create", role="operator", tenant="t")["api_key"]
    told = {
        f"key {key} was refused": ["an ApiKey"],
        f"GET /x?expires=1&signature={'0a' * 32}": ["a link's signature"],
        f"GivenKey({admin_secret(copied)})": ["the secret of admin.key"],
        f"hmac({link_secret(copied)})": ["the secret of links"],
    }
    for line, names in told.items():
        (copied / "service.log").write_text(f"{line}\n")
        assert secrets_in_logs(copied) == names
