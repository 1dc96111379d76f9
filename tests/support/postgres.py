"""A private PostgreSQL: its own cluster in a temporary directory, on a unix socket, gone afterwards.

The cluster sorts text by English rules, so a query that forgets to ask for code-point order is seen.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from uuid import uuid4

import psycopg
from psycopg import sql

if TYPE_CHECKING:
    from collections.abc import Iterator

_SUPERUSER = "stillframe"
_START_TIMEOUT_S = 60.0
_STOP_TIMEOUT_S = 30.0
_KNOWS_STRATEGIES = 150000  # as libpq counts versions


class PostgresMissingError(Exception):
    """The machine has no PostgreSQL server, or it does not start."""


@dataclass(frozen=True)
class PostgresCluster:
    """A running server; ``directory`` holds its data and its socket."""

    directory: Path

    def connect(self, database: str = "postgres") -> psycopg.Connection[Any]:
        return psycopg.connect(host=str(self.directory), user=_SUPERUSER, dbname=database, autocommit=True)

    @contextmanager
    def database(self, *, template: str = "template0", encoding: str = "UTF8") -> Iterator[str]:
        """The URL of a new database that is as ``template`` is; it is dropped afterwards.

        Nobody may be connected to the template. Whoever is still connected to the database at the end has forgotten to
        close something: psycopg.errors.ObjectInUse. Then, as after an error in between, it goes with the cluster.
        """
        name = f"t{uuid4().hex}"
        create = sql.SQL("CREATE DATABASE {} TEMPLATE {} ENCODING {}").format(
            sql.Identifier(name), sql.Identifier(template), sql.Literal(encoding)
        )
        with self.connect() as connection:
            if encoding != "UTF8":
                create += sql.SQL(" LOCALE_PROVIDER libc LOCALE 'C'")
            if connection.info.server_version >= _KNOWS_STRATEGIES:
                create += sql.SQL(" STRATEGY FILE_COPY")  # less than half the time; earlier ones know no other way
            connection.execute(create)
        yield f"postgresql+psycopg://{_SUPERUSER}@/{name}?host={self.directory}"
        with self.connect() as connection:
            connection.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))


@contextmanager
def private_postgres() -> Iterator[PostgresCluster]:
    """A server of our own, stopped by its process id at the end.

    Raises:
        PostgresMissingError: with what to do about it.
    """
    programs = _programs()
    directory = Path(tempfile.mkdtemp(prefix="sf-pg-"))  # short: a socket's path has at most 107 bytes
    try:
        account = _unprivileged(directory)
        _run_initdb(programs, directory, account)
        with (directory / "server.log").open("wb") as log:
            server = subprocess.Popen(
                _server_command(programs, directory),
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=directory,
                **account,
            )
        try:
            cluster = PostgresCluster(directory)
            _wait_until_ready(cluster, server)
            yield cluster
        finally:
            _stop(server)
    finally:
        shutil.rmtree(directory)


def _programs() -> Path:
    """The newest installed server's programs: Debian keeps them off PATH, by version."""
    found = [path for path in Path("/usr/lib/postgresql").glob("*/bin") if (path / "postgres").exists()]
    on_path = shutil.which("postgres")
    if found:
        return max(found, key=lambda path: float(path.parent.name))
    if on_path is not None:
        return Path(on_path).resolve().parent
    raise PostgresMissingError("PostgreSQL's server programs are missing on this machine: run `make setup`")


def _unprivileged(directory: Path) -> dict[str, Any]:
    """How to start the server as somebody other than root, which it refuses to run as."""
    if os.geteuid() != 0:
        return {}
    try:
        user = pwd.getpwnam("postgres")
    except KeyError:
        raise PostgresMissingError("the account `postgres` is missing on this machine: run `make setup`") from None
    os.chown(directory, user.pw_uid, user.pw_gid)
    return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}


def _server_command(programs: Path, directory: Path) -> list[str]:
    # setpriv becomes the server, and has it end when a killed test run cannot end it.
    command = ["setpriv", "--pdeathsig", "INT", "--"]
    command += [str(programs / "postgres"), "-D", str(directory / "data"), "-k", str(directory)]
    return [*command, "-c", "listen_addresses=", "-c", "fsync=off", "-c", "full_page_writes=off"]


def _run_initdb(programs: Path, directory: Path, account: dict[str, Any]) -> None:
    command = [str(programs / "initdb"), "-D", str(directory / "data"), "-U", _SUPERUSER, "--auth=trust", "--no-sync"]
    command += ["--encoding=UTF8", "--locale=C.UTF-8", "--locale-provider=icu", "--icu-locale=en-US"]
    made = subprocess.run(
        command,
        cwd=directory,
        capture_output=True,
        text=True,
        check=False,
        **account,
    )
    if made.returncode != 0:
        raise PostgresMissingError(f"initdb failed: {made.stderr}")


def _wait_until_ready(cluster: PostgresCluster, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while True:
        try:
            cluster.connect().close()
        except psycopg.OperationalError as error:
            if server.poll() is not None or time.monotonic() > deadline:
                log = (cluster.directory / "server.log").read_text(errors="replace")
                raise PostgresMissingError(f"PostgreSQL did not start: {error}\n{log}") from error
            time.sleep(0.05)
        else:
            return


def _stop(server: subprocess.Popen[bytes]) -> None:
    server.send_signal(signal.SIGINT)  # "fast": ends the sessions, then itself
    try:
        server.wait(_STOP_TIMEOUT_S)
    except subprocess.TimeoutExpired:
        server.send_signal(signal.SIGQUIT)  # "immediate"; SIGKILL would leave its children and shared memory
        server.wait(_STOP_TIMEOUT_S)
