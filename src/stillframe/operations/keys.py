"""Keys: made, shown once, proved, revoked. A secret is hashed the moment it is drawn, and never stored or logged.

Nothing is cached: what a request may do is read from the database with it, so that a key works from the very next request
after it was made, and stops with the very next after it was revoked.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from stillframe.domain.access import KEY_ID_CHARS, SECRET_CHARS, GivenKey, Principal, Role, check_scope, parse_key
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.operations.world import World
from stillframe.ports.keys import KeyRow
from stillframe.ports.metadata import Transaction

_SALT_BYTES = 16
# what is compared with when there is no such key: finding none takes as long as finding one
_NOBODY = KeyRow("", Role.READER, "", "", "00" * _SALT_BYTES, "00" * 32, 0, "")


@dataclass(frozen=True)
class NewKey:
    """A key as its maker gets it, once. ``text`` is the secret itself."""

    row: KeyRow
    text: str

    def __repr__(self) -> str:  # a secret must not appear in a traceback or a log
        return f"NewKey({self.row.key_id})"


@dataclass(frozen=True)
class KeySpec:
    """What a key is to be. ``expires_at``: Unix seconds, None: it does not."""

    role: Role
    tenant: str = ""
    description: str = ""
    expires_at: int | None = None


@dataclass(frozen=True)
class KeyPage:
    """``next`` is what ``after`` has to be for the following page; "" at the end."""

    keys: tuple[KeyRow, ...]
    next: str


def authenticate(world: World, text: str) -> Principal:
    """Who a key proves its bearer to be.

    Raises:
        Refused: NOT_AUTHENTICATED; only who has the right secret is told that the key was revoked or has expired.
    """
    given = parse_key(text)
    with world.metadata.read() as tx:
        row = tx.keys.get(given.key_id) if given else None
    known = _digest((row or _NOBODY).salt, given.secret if given else "")
    right = hmac.compare_digest(known, (row or _NOBODY).digest)
    if row is None or not right:
        raise Refused(ErrorCase.NOT_AUTHENTICATED, "the ApiKey is not one of this service")
    if not row.is_usable(world.now_s()):
        raise Refused(ErrorCase.NOT_AUTHENTICATED, f"key {row.key_id} {_ended(row)}")
    return Principal(row.key_id, row.role, row.tenant)


def create_key(world: World, spec: KeySpec, created_by: str) -> NewKey:
    """A new key, usable when this returns.

    Raises:
        Refused: PARAMETER_MISSING or PARAMETER_MALFORMED, when role, tenant and expiry do not fit together.
    """
    check_scope(spec.role, spec.tenant)
    if spec.expires_at is not None and spec.expires_at <= world.now_s():
        raise Refused(ErrorCase.PARAMETER_MALFORMED, "expires_at: expected a time to come")
    new = draw_key(world, spec, created_by)
    with world.metadata.write() as tx:
        tx.keys.insert(new.row)
    return new


def draw_key(world: World, spec: KeySpec, created_by: str) -> NewKey:
    """A key that is in no database yet."""
    given = GivenKey(secrets.token_hex(KEY_ID_CHARS // 2), secrets.token_hex(SECRET_CHARS // 2))
    salt = secrets.token_hex(_SALT_BYTES)
    row = KeyRow(
        key_id=given.key_id,
        role=spec.role,
        tenant=spec.tenant,
        description=spec.description,
        salt=salt,
        digest=_digest(salt, given.secret),
        created_at=int(world.now_s()),
        created_by=created_by,
        expires_at=spec.expires_at,
    )
    return NewKey(row, given.text)


def list_keys(world: World, tenant: str, after: str, limit: int) -> KeyPage:
    """Newest first, revoked and expired ones too.

    Raises:
        Refused: KEY_UNKNOWN, for an ``after`` that is no key's.
    """
    with world.metadata.read() as tx:
        if after:
            _known(tx, after)
        rows = tx.keys.page(tenant, after, limit + 1)
    shown = rows[:limit]
    return KeyPage(tuple(shown), shown[-1].key_id if len(rows) > len(shown) else "")


def revoke_key(world: World, key_id: str) -> KeyRow:
    """It stops at once; returns it as it was. Repeatable.

    Raises:
        Refused: KEY_UNKNOWN; LAST_ADMINISTRATOR, when nobody could administer the service afterwards.
    """
    now = int(world.now_s())
    with world.metadata.write() as tx:
        row = _known(tx, key_id)
        if row.revoked_at is None:
            _check_not_last(tx, row, now)
            tx.keys.set_end(key_id, revoked_at=now, expires_at=row.expires_at)
    return row


def rotate_key(world: World, key_id: str, grace_s: int, created_by: str) -> NewKey:
    """A new key in the place of an old one, with its role, tenant, description and expiry.

    The old one stops after ``grace_s`` seconds, at once for 0; one transaction.

    Raises:
        Refused: KEY_UNKNOWN; KEY_ENDED, when the old one has been revoked or has expired.
    """
    now = int(world.now_s())
    with world.metadata.read() as tx:
        old = _known(tx, key_id)
    new = draw_key(world, KeySpec(old.role, old.tenant, old.description, old.expires_at), created_by)
    with world.metadata.write() as tx:
        old = _known(tx, key_id)
        if not old.is_usable(now):
            raise Refused(ErrorCase.KEY_ENDED, f"key {key_id} {_ended(old)}")
        tx.keys.insert(new.row)
        if grace_s > 0:
            end = now + grace_s if old.expires_at is None else min(now + grace_s, old.expires_at)
            tx.keys.set_end(key_id, revoked_at=None, expires_at=end)
        else:
            tx.keys.set_end(key_id, revoked_at=now, expires_at=old.expires_at)
    return new


def ensure_administrator(world: World, hand_over: Callable[[str], None]) -> None:
    """Some administrator's key works; where none does, a new one is handed over first and works afterwards.

    Cut off in between, the key that was handed over does not work, and the next start hands over another.
    """
    with world.metadata.read() as tx:
        if any(key.is_usable(world.now_s()) for key in tx.keys.administrators()):
            return
    new = draw_key(world, KeySpec(Role.ADMINISTRATOR, description="made by the service at its start"), "")
    hand_over(new.text)
    with world.metadata.write() as tx:
        tx.keys.insert(new.row)


def _digest(salt: str, secret: str) -> str:
    # the secret has 256 random bits: there is nothing to guess that a slow hash would make dearer
    return hmac.digest(bytes.fromhex(salt), secret.encode(), hashlib.sha256).hex()


def _known(tx: Transaction, key_id: str) -> KeyRow:
    row = tx.keys.get(key_id)
    if row is None:
        raise Refused(ErrorCase.KEY_UNKNOWN, f"key {key_id}")
    return row


def _check_not_last(tx: Transaction, row: KeyRow, now_s: int) -> None:
    """Somebody can administer the service for ever without this key."""
    if row.role is not Role.ADMINISTRATOR or not row.is_usable(now_s):
        return
    others = [key for key in tx.keys.administrators() if key.key_id != row.key_id and key.expires_at is None]
    if not others:
        raise Refused(ErrorCase.LAST_ADMINISTRATOR, f"key {row.key_id}")


def _ended(row: KeyRow) -> str:
    if row.revoked_at is not None:
        return f"was revoked at {_moment(row.revoked_at)}"
    return f"expired at {_moment(row.expires_at or 0)}"


def _moment(at: int) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
