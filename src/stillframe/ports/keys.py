"""The keys as rows; part of a transaction (ports/metadata.py). No secret is ever in them, only its salted hash."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from stillframe.domain.access import Role


@dataclass(frozen=True)
class KeyRow:
    """One key. ``salt`` and ``digest`` are hexadecimal; times in Unix seconds, None: never.

    ``created_by`` is the id of the key that made it, "" for the service itself.
    """

    key_id: str
    role: Role
    tenant: str
    description: str
    salt: str
    digest: str
    created_at: int
    created_by: str
    expires_at: int | None = None
    revoked_at: int | None = None

    def is_usable(self, now_s: float) -> bool:
        return self.revoked_at is None and (self.expires_at is None or now_s < self.expires_at)


@dataclass(frozen=True)
class SessionRow:
    """Somebody who signed in with a key, and needs not send it again until ``expires_at``, Unix seconds.

    ``digest``: of the session's token, hexadecimal; the token itself is nowhere but in the browser.
    """

    digest: str
    key_id: str
    created_at: int
    expires_at: int


class KeyRows(Protocol):
    """Every key that ever was, usable or not."""

    def insert(self, key: KeyRow) -> None: ...

    def get(self, key_id: str) -> KeyRow | None: ...

    def page(self, tenant: str, after: str, limit: int) -> list[KeyRow]:
        """Newest first, at most ``limit``; ``tenant`` "" means all; ``after`` is the id of the last one of the page before."""
        ...

    def administrators(self) -> list[KeyRow]:
        """The administrators' keys that are not revoked."""
        ...

    def open_session(self, session: SessionRow) -> None: ...

    def session(self, digest: str) -> SessionRow | None: ...

    def end_session(self, digest: str) -> None:
        """Repeatable."""
        ...

    def end_sessions(self, before: int) -> None:
        """Those that expired before then, Unix seconds, are forgotten."""
        ...

    def end_oldest_sessions(self, key_id: str, *, keep: int) -> None:
        """Of this key the newest ``keep`` stay."""
        ...

    def set_end(self, key_id: str, *, revoked_at: int | None, expires_at: int | None) -> None:
        """When it stops. Nothing else of a key ever changes."""
        ...
