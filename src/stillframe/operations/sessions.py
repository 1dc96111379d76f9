"""Sessions of the console: a token that stands for a key for a while, so that the key itself is in no browser.

Like keys they are looked up with every request: one ends the moment it is ended, or its key is revoked or expires.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

from stillframe.domain.access import Principal
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.operations import keys
from stillframe.operations.world import World
from stillframe.ports.keys import SessionRow

LIFETIME_S = 12 * 3600
SESSIONS_MAX = 50  # of one key; who signs in once more ends the oldest
_TOKEN_BYTES = 32
_TOKEN = re.compile(rf"[0-9a-f]{{{2 * _TOKEN_BYTES}}}")


@dataclass(frozen=True)
class NewSession:
    """``token`` is the secret itself; ``expires_at`` in Unix seconds."""

    principal: Principal
    token: str
    expires_at: int

    def __repr__(self) -> str:  # a secret must not appear in a traceback or a log
        return f"NewSession({self.principal.key_id})"


def open_session(world: World, key_text: str) -> NewSession:
    """Sign in with a key.

    Raises:
        Refused: NOT_AUTHENTICATED.
    """
    principal = keys.authenticate(world, key_text)
    token, now = secrets.token_hex(_TOKEN_BYTES), int(world.now_s())
    session = SessionRow(_digest(token), principal.key_id, now, now + LIFETIME_S)
    with world.metadata.write() as tx:
        tx.keys.end_sessions(now)
        tx.keys.end_oldest_sessions(principal.key_id, keep=SESSIONS_MAX - 1)
        tx.keys.open_session(session)
    return NewSession(principal, token, session.expires_at)


def resume(world: World, token: str) -> Principal:
    """Who signed in.

    Raises:
        Refused: NOT_AUTHENTICATED: there is no such session, it has expired or was ended, or its key has stopped.
    """
    now = world.now_s()
    with world.metadata.read() as tx:
        session = tx.keys.session(_digest(token)) if _TOKEN.fullmatch(token) else None
        key = tx.keys.get(session.key_id) if session is not None else None
    if session is None or now >= session.expires_at:
        raise Refused(ErrorCase.NOT_AUTHENTICATED, "the session has ended; sign in again")
    if key is None or not key.is_usable(now):
        raise Refused(ErrorCase.NOT_AUTHENTICATED, "the key that the session was opened with has stopped")
    return Principal(key.key_id, key.role, key.tenant)


def end(world: World, token: str) -> None:
    """Sign out. Repeatable."""
    with world.metadata.write() as tx:
        tx.keys.end_session(_digest(token))


def _digest(token: str) -> str:
    # 256 random bits: see keys._digest
    return hashlib.sha256(token.encode()).hexdigest()
