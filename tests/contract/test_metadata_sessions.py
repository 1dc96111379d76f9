"""Sessions of the console, on real SQLite and real PostgreSQL: a token stands for its key, for a while."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast
from uuid import uuid4

import pytest

from stillframe.adapters.metadata import SqlMetadata
from stillframe.domain.access import Role
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.operations import keys, sessions
from stillframe.operations.keys import KeySpec
from stillframe.operations.world import World

AT = 1_700_000_000


@pytest.fixture
def world(metadata: SqlMetadata) -> World:
    clock = SimpleNamespace(at=float(AT))
    made = SimpleNamespace(metadata=metadata, now_s=lambda: clock.at, new_uuid=lambda: str(uuid4()), clock=clock)
    return cast("World", made)


def wait(world: World, seconds: float) -> None:
    world.clock.at += seconds  # type: ignore[attr-defined]


def a_key(world: World, expires_at: int | None = None) -> keys.NewKey:
    return keys.create_key(world, KeySpec(Role.READER, "t1", expires_at=expires_at), "")


def must_refuse(world: World, token: str, why: str) -> None:
    with pytest.raises(Refused, match=why) as refusal:
        sessions.resume(world, token)
    assert refusal.value.case is ErrorCase.NOT_AUTHENTICATED


def test_a_session_is_its_keys_until_it_ends(world: World) -> None:
    key = a_key(world)
    one, other = (sessions.open_session(world, key.text) for _ in range(2))
    assert sessions.resume(world, one.token) == keys.authenticate(world, key.text) == one.principal
    sessions.end(world, one.token)
    sessions.end(world, one.token)
    must_refuse(world, one.token, "sign in again")
    assert sessions.resume(world, other.token).key_id == key.row.key_id
    wait(world, sessions.LIFETIME_S - 1)
    assert sessions.resume(world, other.token).tenant == "t1"
    wait(world, 1)
    must_refuse(world, other.token, "sign in again")


def test_with_its_key_a_session_stops(world: World) -> None:
    key, short = a_key(world), a_key(world, expires_at=AT + 60)
    session, briefly = sessions.open_session(world, key.text), sessions.open_session(world, short.text)
    keys.revoke_key(world, key.row.key_id)
    must_refuse(world, session.token, "has stopped")
    wait(world, 60)
    must_refuse(world, briefly.token, "has stopped")
    for text in (key.text, "sfk_no"):
        with pytest.raises(Refused):
            sessions.open_session(world, text)


@pytest.mark.parametrize("token", ["", "x", "0" * 64, "0" * 63 + "'", "é" * 64])
def test_what_is_no_token_opens_nothing(world: World, token: str) -> None:
    sessions.open_session(world, a_key(world).text)
    must_refuse(world, token, "sign in again")


def test_nothing_that_is_stored_or_shown_holds_the_token(world: World, tmp_path: Path) -> None:
    session = sessions.open_session(world, a_key(world).text)
    assert session.token not in repr(session)
    for file in tmp_path.iterdir():
        assert session.token.encode() not in file.read_bytes()


def test_sessions_that_have_expired_are_forgotten_with_the_next(world: World) -> None:
    key = a_key(world)
    old = sessions.open_session(world, key.text)
    wait(world, sessions.LIFETIME_S + 1)
    sessions.open_session(world, key.text)
    with world.metadata.read() as tx:
        assert tx.keys.session(sessions._digest(old.token)) is None


def test_who_signs_in_again_and_again_ends_the_oldest(world: World) -> None:
    key, other = a_key(world), a_key(world)
    others = sessions.open_session(world, other.text)
    opened = []
    for _ in range(sessions.SESSIONS_MAX + 2):
        opened.append(sessions.open_session(world, key.text))
        wait(world, 1)
    for session in opened[:2]:
        must_refuse(world, session.token, "sign in again")
    for session in (*opened[2:], others):
        assert sessions.resume(world, session.token) == session.principal
