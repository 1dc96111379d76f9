"""Both databases, as they are made and as a service leaves them; an adapter that is watched, and a secret beside it."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import sqlalchemy as sa

from contract.hostile_bench import WORDS
from stillframe.adapters.metadata import SqlMetadata, open_metadata
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes
from support.postgres import PostgresCluster, private_postgres

BOTH = ("sqlite", "postgresql")


@pytest.fixture(scope="session")
def cluster() -> Iterator[PostgresCluster]:
    """One server for the whole run: every test has a database of its own in it."""
    with private_postgres() as running:
        yield running


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file as a service leaves it that has made it and done nothing else."""
    path = tmp_path_factory.mktemp("migrated") / "stillframe.db"
    open_metadata(f"sqlite:///{path}").close()
    assert [left.name for left in path.parent.iterdir()] == [path.name]  # a copy of it is whole without its log
    return path


@pytest.fixture(scope="session")
def migrated_postgres(cluster: PostgresCluster) -> Iterator[str]:
    """The name of a database in ``cluster`` that was made likewise, to be the template of others."""
    with cluster.database() as url:
        open_metadata(url).close()
        yield str(sa.make_url(url).database)


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """A file that is not there yet."""
    return f"sqlite:///{tmp_path}/stillframe.db"


@pytest.fixture(params=BOTH)
def empty_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A database without a table: for what is about making it."""
    if request.param == "sqlite":
        yield request.getfixturevalue("sqlite_url")
    else:
        with request.getfixturevalue("cluster").database() as url:
            yield url


@pytest.fixture(params=BOTH)
def url(request: pytest.FixtureRequest) -> str:
    """A database that has been made and that holds nothing."""
    return str(request.getfixturevalue(f"{request.param}_made"))


@pytest.fixture
def sqlite_made(sqlite_url: str, tmp_path: Path, migrated_sqlite: Path) -> str:
    shutil.copyfile(migrated_sqlite, tmp_path / "stillframe.db")
    return sqlite_url


@pytest.fixture
def postgresql_made(cluster: PostgresCluster, migrated_postgres: str) -> Iterator[str]:
    with cluster.database(template=migrated_postgres) as url:
        yield url


@pytest.fixture
def metadata(url: str) -> Iterator[SqlMetadata]:
    with closing(open_metadata(url)) as opened:
        yield opened


@pytest.fixture
def on_sqlite(sqlite_made: str) -> Iterator[SqlMetadata]:
    with closing(open_metadata(sqlite_made)) as opened:
        yield opened


@pytest.fixture
def on_postgres(postgresql_made: str) -> Iterator[SqlMetadata]:
    with closing(open_metadata(postgresql_made)) as opened:
        yield opened


@pytest.fixture
def spied(tmp_path: Path) -> tuple[Qcow2Volumes, Path]:
    """The adapter, and a file that holds the arguments of each call of qemu-img."""
    calls, program = tmp_path / "calls", tmp_path / "qemu-img-that-is-watched"
    calls.touch()
    program.write_text(f'#!/bin/sh\nprintf "%s\\n" "$*" >>{calls}\nexec qemu-img "$@"\n', encoding="ascii")
    program.chmod(0o755)
    return Qcow2Volumes(str(program), lock_wait_s=0.2, image_directories=[str(tmp_path / "extra")]), calls


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A disk's own directory; beside it lie ``extra``, which is allowed, and ``secret``, which is not."""
    for name in ("home", "extra", "vault"):
        (tmp_path / name).mkdir()
    (tmp_path / "vault" / "secret").write_text(WORDS * 20_000)
    return tmp_path / "home"
