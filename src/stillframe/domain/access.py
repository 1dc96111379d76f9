"""Who may do what: the roles of keys, what calls need, and what a tenant gets to see. Pure.

An ApiKey reads ``sfk_<id>_<secret>``: the id is public and names the key in lists and logs, the secret is shown once.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from stillframe.domain.errors import ErrorCase, Refused

KEY_ID_CHARS = 12
SECRET_CHARS = 64
_KEY = re.compile(rf"sfk_([0-9a-f]{{{KEY_ID_CHARS}}})_([0-9a-f]{{{SECRET_CHARS}}})")


class Role(StrEnum):
    """What a key is for. The two of a tenant are bound to it."""

    ADMINISTRATOR = "administrator"
    OPERATOR = "operator"  # a tenant's, reads and writes
    READER = "reader"  # a tenant's, reads only


class Need(StrEnum):
    """What a call needs."""

    LOOK = "look"
    ACT = "act"  # changes something of a tenant's
    ADMINISTER = "administer"  # concerns the service, or all tenants


_MAY = {
    Role.ADMINISTRATOR: frozenset(Need),
    Role.OPERATOR: frozenset({Need.LOOK, Need.ACT}),
    Role.READER: frozenset({Need.LOOK}),
}


@dataclass(frozen=True)
class Principal:
    """Who asks, proved by a key. ``tenant`` bounds everything that it sees and does; "" for an administrator."""

    key_id: str
    role: Role
    tenant: str = ""

    def sees(self, tenant: str) -> bool:
        """Whether what belongs to this tenant exists for it."""
        return self.role is Role.ADMINISTRATOR or tenant == self.tenant

    @property
    def bound(self) -> str | None:
        """The tenant that lists are narrowed to; None: to none."""
        return None if self.role is Role.ADMINISTRATOR else self.tenant

    def check(self, need: Need) -> None:
        """Its role is enough.

        Raises:
            Refused: NOT_ALLOWED.
        """
        if need not in _MAY[self.role]:
            raise Refused(ErrorCase.NOT_ALLOWED, f"key {self.key_id} is {_described(self.role)}")


def _described(role: Role) -> str:
    match role:
        case Role.READER:
            return "a reader's: it may only look"
        case Role.OPERATOR:
            return "a tenant's: this call is an administrator's"
        case Role.ADMINISTRATOR:
            return "an administrator's"


@dataclass(frozen=True)
class GivenKey:
    """What a client sent, in its two parts."""

    key_id: str
    secret: str

    @property
    def text(self) -> str:
        return f"sfk_{self.key_id}_{self.secret}"

    def __repr__(self) -> str:  # a secret must not appear in a traceback or a log
        return f"GivenKey({self.key_id})"


def parse_key(text: str) -> GivenKey | None:
    """The parts of an ApiKey; None for anything else."""
    match = _KEY.fullmatch(text)
    return GivenKey(match[1], match[2]) if match else None


def check_scope(role: Role, tenant: str) -> None:
    """A tenant's key names its tenant, an administrator's none.

    Raises:
        Refused: PARAMETER_MISSING or PARAMETER_MALFORMED.
    """
    if role is Role.ADMINISTRATOR and tenant:
        raise Refused(ErrorCase.PARAMETER_MALFORMED, "tenant: an administrator's key is bound to no tenant")
    if role is not Role.ADMINISTRATOR and not tenant:
        raise Refused(ErrorCase.PARAMETER_MISSING, f"tenant: expected for a key of role {role.value}")
