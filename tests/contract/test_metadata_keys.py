"""What every metadata adapter promises about keys and facts, and what the operations make of them, on both databases."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import pytest

from stillframe.adapters.metadata import SqlMetadata
from stillframe.domain.access import Role, parse_key
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.operations import keys, links
from stillframe.operations.keys import KeySpec
from stillframe.operations.world import Limits

if TYPE_CHECKING:
    from collections.abc import Callable

    from stillframe.operations.world import World

AT = 1_700_000_000


class Clock:
    def __init__(self) -> None:
        self.at = float(AT)

    def __call__(self) -> float:
        return self.at


@pytest.fixture
def world(metadata: SqlMetadata) -> World:
    return cast("World", SimpleNamespace(metadata=metadata, now_s=Clock(), limits=Limits(link_lifetime_s=600)))


def set_clock(world: World, at: float) -> None:
    cast("Clock", world.now_s).at = at


def must_refuse(case: ErrorCase, act: Callable[[], object]) -> str:
    with pytest.raises(Refused) as refused:
        act()
    assert refused.value.case is case
    return refused.value.desc


def test_a_key_proves_who_it_was_made_for(world: World) -> None:
    new = keys.create_key(world, KeySpec(Role.READER, "t1", "monitoring"), "maker")
    principal = keys.authenticate(world, new.text)
    assert (principal.key_id, principal.role, principal.tenant) == (new.row.key_id, Role.READER, "t1")
    assert new.row.created_by == "maker"


def test_nothing_that_is_stored_or_shown_holds_the_secret(world: World) -> None:
    new = keys.create_key(world, KeySpec(Role.OPERATOR, "t1"), "")
    given = parse_key(new.text)
    assert given is not None
    (row,) = keys.list_keys(world, "", "", 10).keys
    assert given.secret not in repr(row) + repr(new) + repr(given)
    assert row.digest != given.secret


def test_the_same_secret_has_another_hash_in_every_key(world: World) -> None:
    one = keys.draw_key(world, KeySpec(Role.ADMINISTRATOR), "").row
    other = keys.draw_key(world, KeySpec(Role.ADMINISTRATOR), "").row
    assert len({one.salt, other.salt}) == 2


@pytest.mark.parametrize("change", ["secret", "id", "cut", "longer", "upper", "empty", "nothing of ours", "NUL"])
def test_anything_but_the_key_itself_proves_nothing(world: World, change: str) -> None:
    new = keys.create_key(world, KeySpec(Role.OPERATOR, "t1"), "")
    last = "0" if new.text[-1] != "0" else "1"
    first = "0" if new.text[4] != "0" else "1"
    wrong = {
        "secret": new.text[:-1] + last,
        "id": new.text[:4] + first + new.text[5:],
        "cut": new.text[:-1],
        "longer": new.text + "0",
        "upper": new.text.upper(),
        "empty": "",
        "nothing of ours": "Bearer 123",
        "NUL": new.text[:-1] + "\0",
    }[change]
    desc = must_refuse(ErrorCase.NOT_AUTHENTICATED, lambda: keys.authenticate(world, wrong))
    assert desc == "the ApiKey is not one of this service"


def test_a_revoked_key_stops_and_only_its_bearer_is_told_why(world: World) -> None:
    new = keys.create_key(world, KeySpec(Role.OPERATOR, "t1"), "")
    keys.revoke_key(world, new.row.key_id)
    keys.revoke_key(world, new.row.key_id)
    assert "was revoked" in must_refuse(ErrorCase.NOT_AUTHENTICATED, lambda: keys.authenticate(world, new.text))
    guess = new.text[:-2] + ("00" if new.text[-2:] != "00" else "11")
    assert "revoked" not in must_refuse(ErrorCase.NOT_AUTHENTICATED, lambda: keys.authenticate(world, guess))


def test_a_key_expires_at_its_second(world: World) -> None:
    new = keys.create_key(world, KeySpec(Role.OPERATOR, "t1", expires_at=AT + 10), "")
    set_clock(world, AT + 9.9)
    assert keys.authenticate(world, new.text).tenant == "t1"
    set_clock(world, AT + 10)
    assert "expired" in must_refuse(ErrorCase.NOT_AUTHENTICATED, lambda: keys.authenticate(world, new.text))
    must_refuse(ErrorCase.KEY_ENDED, lambda: keys.rotate_key(world, new.row.key_id, 0, ""))
    must_refuse(
        ErrorCase.PARAMETER_MALFORMED, lambda: keys.create_key(world, KeySpec(Role.OPERATOR, "t", "", AT + 10), "")
    )


def test_rotating_replaces_at_once_or_after_a_while(world: World) -> None:
    old = keys.create_key(world, KeySpec(Role.READER, "t1", "monitoring"), "")
    new = keys.rotate_key(world, old.row.key_id, 0, "maker")
    must_refuse(ErrorCase.NOT_AUTHENTICATED, lambda: keys.authenticate(world, old.text))
    assert (new.row.role, new.row.tenant, new.row.description) == (Role.READER, "t1", "monitoring")
    newest = keys.rotate_key(world, new.row.key_id, 60, "maker")
    assert keys.authenticate(world, new.text).key_id == new.row.key_id
    assert keys.authenticate(world, newest.text).key_id == newest.row.key_id
    set_clock(world, AT + 60)
    must_refuse(ErrorCase.NOT_AUTHENTICATED, lambda: keys.authenticate(world, new.text))
    assert keys.authenticate(world, newest.text).key_id == newest.row.key_id


def test_rotating_never_lengthens_a_keys_life(world: World) -> None:
    old = keys.create_key(world, KeySpec(Role.READER, "t1", expires_at=AT + 10), "")
    keys.rotate_key(world, old.row.key_id, 3600, "")
    set_clock(world, AT + 10)
    must_refuse(ErrorCase.NOT_AUTHENTICATED, lambda: keys.authenticate(world, old.text))


def test_somebody_can_always_administer(world: World) -> None:
    handed: list[str] = []
    keys.ensure_administrator(world, handed.append)
    keys.ensure_administrator(world, handed.append)
    (text,) = handed
    first = keys.authenticate(world, text)
    assert first.role is Role.ADMINISTRATOR
    must_refuse(ErrorCase.LAST_ADMINISTRATOR, lambda: keys.revoke_key(world, first.key_id))
    keys.create_key(world, KeySpec(Role.ADMINISTRATOR, expires_at=AT + 10), "")
    must_refuse(ErrorCase.LAST_ADMINISTRATOR, lambda: keys.revoke_key(world, first.key_id))
    second = keys.create_key(world, KeySpec(Role.ADMINISTRATOR), "")
    keys.revoke_key(world, first.key_id)
    must_refuse(ErrorCase.LAST_ADMINISTRATOR, lambda: keys.revoke_key(world, second.row.key_id))


def test_a_key_that_could_not_be_handed_over_does_not_exist(world: World) -> None:
    def fail(_text: str) -> None:
        raise OSError("full")

    with pytest.raises(OSError, match="full"):
        keys.ensure_administrator(world, fail)
    assert keys.list_keys(world, "", "", 10).keys == ()


def test_where_every_administrators_key_has_expired_the_next_start_makes_one(world: World) -> None:
    keys.create_key(world, KeySpec(Role.ADMINISTRATOR, expires_at=AT + 10), "")
    handed: list[str] = []
    keys.ensure_administrator(world, handed.append)
    assert handed == []
    set_clock(world, AT + 10)
    keys.ensure_administrator(world, handed.append)
    assert keys.authenticate(world, handed[0]).role is Role.ADMINISTRATOR


@pytest.mark.parametrize(("role", "tenant"), [(Role.ADMINISTRATOR, "t1"), (Role.OPERATOR, ""), (Role.READER, "")])
def test_a_tenants_key_has_a_tenant_and_an_administrators_none(world: World, role: Role, tenant: str) -> None:
    with pytest.raises(Refused, match="tenant"):
        keys.create_key(world, KeySpec(role, tenant), "")
    assert keys.list_keys(world, "", "", 10).keys == ()


def test_the_list_goes_by_pages_and_by_tenant(world: World) -> None:
    made = [keys.create_key(world, KeySpec(Role.READER, f"t{n % 2}"), "").row for n in range(5)]
    first = keys.list_keys(world, "", "", 3)
    keys.create_key(world, KeySpec(Role.READER, "t9"), "")
    rest = keys.list_keys(world, "", first.next, 3)
    assert [*first.keys, *rest.keys] == made[::-1]
    assert rest.next == ""
    assert list(keys.list_keys(world, "t1", "", 10).keys) == [made[3], made[1]]
    must_refuse(ErrorCase.KEY_UNKNOWN, lambda: keys.list_keys(world, "", "ffffffffffff", 3))


def test_what_no_key_has_as_its_id_is_unknown(world: World) -> None:
    for act in (lambda: keys.revoke_key(world, "f" * 12), lambda: keys.rotate_key(world, "f" * 12, 0, "")):
        must_refuse(ErrorCase.KEY_UNKNOWN, act)


# --- links ---------------------------------------------------------------------------------------------------------


def parts(query: str) -> dict[str, str]:
    return dict(pair.split("=") for pair in query.split("&"))


def test_a_link_opens_the_one_thing_until_its_time(world: World) -> None:
    links.ensure_secret(world)
    query = parts(links.signer(world).query("screenshot", "u1"))
    assert 600 <= links.check_link(world, "screenshot", "u1", **query) <= 900
    for kind, uuid, changed in (
        ("screenshot", "u2", query),
        ("memory", "u1", query),
        ("screenshot", "u1", {**query, "expires": str(int(query["expires"]) + 1)}),
        ("screenshot", "u1", {**query, "expires": "9" * 30}),
        ("screenshot", "u1", {**query, "expires": "-1"}),
        ("screenshot", "u1", {**query, "expires": "١٢"}),
        ("screenshot", "u1", {**query, "signature": query["signature"][:-1]}),
        ("screenshot", "u1", {**query, "signature": "快照"}),
        ("screenshot", "u1", {"expires": "", "signature": ""}),
    ):
        desc = must_refuse(ErrorCase.LINK_INVALID, lambda k=kind, u=uuid, c=changed: links.check_link(world, k, u, **c))
        assert uuid not in desc
    set_clock(world, int(query["expires"]))
    must_refuse(ErrorCase.LINK_INVALID, lambda: links.check_link(world, "screenshot", "u1", **query))


def test_drawing_the_secret_anew_stops_every_link(world: World) -> None:
    links.ensure_secret(world)
    query = parts(links.signer(world).query("screenshot", "u1"))
    links.ensure_secret(world)
    links.check_link(world, "screenshot", "u1", **query)
    links.draw_secret(world)
    must_refuse(ErrorCase.LINK_INVALID, lambda: links.check_link(world, "screenshot", "u1", **query))
    assert "secret" not in repr(replace(links.signer(world), secret=b"secret"))
