"""What a service may never have told its log; every service of the suite is searched when it ends."""

from __future__ import annotations

import contextlib
import re
import sqlite3
from collections.abc import Iterator
from pathlib import Path

# whole keys of anybody, also of those that tests have made and thrown away, and links that open something
_PATTERNS = {
    "an ApiKey": re.compile(rb"sfk_[0-9a-f]{12}_[0-9a-f]{64}"),
    "a link's signature": re.compile(rb"signature=[0-9a-f]{32}"),
}


def secrets_in_logs(state: Path) -> list[str]:
    """Names of what is in a log of this state directory and must not be; never the secret itself."""
    logs = b"".join(path.read_bytes() for path in state.glob("*.log"))
    told = [name for name, pattern in _PATTERNS.items() if pattern.search(logs)]
    return told + [name for name, secret in _own_secrets(state) if secret in logs]


def _own_secrets(state: Path) -> Iterator[tuple[str, bytes]]:
    with contextlib.suppress(OSError):
        yield "the secret of admin.key", (state / "admin.key").read_bytes().strip().rpartition(b"_")[2]
    database = state / "stillframe.db"
    if database.is_file():
        # a database that a test has damaged keeps its secret to itself
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database)) as opened:
            (secret,) = opened.execute("SELECT value FROM service_facts WHERE name = 'link_secret'").fetchone() or ("",)
            if secret:
                yield "the secret of links", secret.encode()
