"""Links that stand for a key: they name one thing, expire, and stop together when their one secret is drawn anew."""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass

from stillframe.domain.errors import ErrorCase, Failed, Refused
from stillframe.operations.world import World

_FACT = "link_secret"  # where the secret stands
_SECRET_BYTES = 32
_MOMENT = re.compile(r"[0-9]{1,12}")
SCREENSHOT = "screenshot"  # what such a link is for
_STEP_S = 300  # links of one moment are the same for a while, so that a browser may keep what it has got


@dataclass(frozen=True)
class LinkSigner:
    """Signs links that are good until ``expires``, Unix seconds."""

    secret: bytes
    expires: int

    def __repr__(self) -> str:  # a secret must not appear in a traceback or a log
        return f"LinkSigner(expires={self.expires})"

    def query(self, kind: str, uuid: str) -> str:
        """What a link to this thing has behind its question mark."""
        return f"expires={self.expires}&signature={_signature(self.secret, kind, uuid, self.expires)}"


def ensure_secret(world: World) -> None:
    """There is a secret. Repeatable."""
    with world.metadata.write() as tx:
        if tx.facts.get(_FACT) is None:
            tx.facts.put(_FACT, secrets.token_hex(_SECRET_BYTES))


def draw_secret(world: World) -> None:
    """A new secret: every link that was given out stops at once."""
    with world.metadata.write() as tx:
        tx.facts.put(_FACT, secrets.token_hex(_SECRET_BYTES))


def signer(world: World) -> LinkSigner:
    """For links that are good for the operator's ``link_lifetime_s``, and up to five minutes more."""
    until = int(world.now_s()) + world.limits.link_lifetime_s
    return LinkSigner(_secret(world), -(-until // _STEP_S) * _STEP_S)


def check_link(world: World, kind: str, uuid: str, expires: str, signature: str) -> int:
    """The link was signed for this very thing and has not expired; returns how many seconds it is still good.

    Raises:
        Refused: LINK_INVALID, without a word about whether the thing exists.
    """
    good_until = int(expires) if _MOMENT.fullmatch(expires) else 0
    wanted = _signature(_secret(world), kind, uuid, good_until)
    left_s = good_until - int(world.now_s())
    if not hmac.compare_digest(wanted.encode(), signature.encode()) or left_s <= 0:
        raise Refused(ErrorCase.LINK_INVALID, "it has expired, or was not made by this service for this purpose")
    return left_s


def _secret(world: World) -> bytes:
    with world.metadata.read() as tx:
        secret = bytes.fromhex(tx.facts.get(_FACT) or "")
    if len(secret) != _SECRET_BYTES:  # with another one anybody could sign
        raise Failed(ErrorCase.STORAGE_FAILED, "the secret of signed links is not in the database; restart the service")
    return secret


def _signature(secret: bytes, kind: str, uuid: str, expires: int) -> str:
    return hmac.digest(secret, f"{kind}\n{uuid}\n{expires}".encode(), hashlib.sha256).hex()
