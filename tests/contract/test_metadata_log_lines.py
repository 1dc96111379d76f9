"""What the operations make of the log's rows, on both databases: who sees which lines, and what a line may hold."""

from __future__ import annotations

import logging
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import pytest

from stillframe.adapters.metadata import SqlMetadata
from stillframe.domain.access import Principal, Role
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.operations.log import Attempt, LogQuery, begin_line, list_log, logged, write_begun_lines
from stillframe.operations.refusals import Refusals, RefusedCall
from stillframe.operations.requests import Caller

if TYPE_CHECKING:
    from stillframe.operations.world import World
    from stillframe.ports.log import LogLine

AT = 1_700_000_000
ADMIN = Principal("a" * 12, Role.ADMINISTRATOR)
ONE = Principal("1" * 12, Role.OPERATOR, "t1")
ONE_READS = Principal("b" * 12, Role.READER, "t1")
TWO = Principal("2" * 12, Role.OPERATOR, "t2")
VM = "9f1c0a52-0000-4000-8000-000000000001"


@pytest.fixture
def world(metadata: SqlMetadata) -> World:
    made = SimpleNamespace(metadata=metadata, now_s=lambda: float(AT), new_uuid=lambda: str(uuid4()))
    return cast("World", made)


def attempt(principal: Principal, call: str = "create", **known: str) -> Attempt:
    return Attempt(Caller(principal, "192.0.2.7", "GCD"), call, **known)


def lines(world: World, viewer: Principal = ADMIN, **query: object) -> list[LogLine]:
    return list(list_log(world, LogQuery(**query), viewer).lines)  # type: ignore[arg-type]


def calls(world: World, viewer: Principal, **query: object) -> list[str]:
    return [line.call for line in lines(world, viewer, **query)]


def test_a_line_says_what_became_known_on_the_way(world: World) -> None:
    heard: list[str] = []
    caller = Caller(ONE, "192.0.2.7", "GCD", noted=lambda: heard.append("noted"))
    with logged(world, Attempt(caller, "create", vm_uuid=VM, snapshot="升级前")) as known:
        known.vm_name, known.tenant = "虚机", "t1"
        known.began("o-1")
        assert heard == []
    (line,) = lines(world)
    assert (line.at, line.who, line.address, line.tenant, line.call) == (AT, ONE.key_id, "192.0.2.7", "t1", "create")
    assert (line.vm_uuid, line.vm_name, line.mark, line.snapshot) == (VM, "虚机", "GCD", "升级前")
    assert (line.scode, line.desc, line.operation_uuid) == (0, "", "o-1")
    assert line.duration_ms >= 0
    assert heard == ["noted"]


def test_how_a_call_ended_is_in_its_line(world: World) -> None:
    with pytest.raises(Refused), logged(world, attempt(ONE)):
        raise Refused(ErrorCase.VM_BUSY, "delete since noon")
    with pytest.raises(ZeroDivisionError), logged(world, attempt(ONE, about="a key")):
        raise ZeroDivisionError("a secret in an exception")
    with logged(world, attempt(ONE)) as known:
        known.about = "key 0123456789ab"
    assert [(line.scode, line.desc) for line in lines(world)] == [
        (0, "key 0123456789ab"),
        (ErrorCase.INTERNAL.code, "ZeroDivisionError"),
        (ErrorCase.VM_BUSY.code, "delete since noon"),
    ]


def test_what_is_cut_off_gets_its_line_at_the_next_start_and_only_one(world: World) -> None:
    with logged(world, attempt(ONE, "delete", vm_uuid=VM, snapshot="a\nb")) as ended:
        ended.began("o-1")
        begin_line(world, ended)
        begin_line(world, ended)
    cut_off = attempt(TWO, "create", vm_uuid=VM)
    cut_off.began("o-2")
    begin_line(world, cut_off)
    assert [line.operation_uuid for line in lines(world)] == ["o-1"]
    for _ in range(2):
        write_begun_lines(world)
    second, first = lines(world)
    assert (first.operation_uuid, first.scode, first.snapshot) == ("o-1", 0, "a?b")
    assert (second.operation_uuid, second.who, second.tenant, second.call) == ("o-2", TWO.key_id, "t2", "create")
    assert (second.address, second.mark, second.vm_uuid) == ("192.0.2.7", "GCD", VM)
    assert (second.scode, second.desc[:28]) == (ErrorCase.STOPPING.code, "the service ended before thi")


def test_a_start_goes_on_where_the_database_does_not_take_what_was_cut_off(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with logged(world, attempt(ONE)):
        pass
    (line,) = lines(world)
    world.new_uuid = lambda: line.uuid  # type: ignore[misc]  # the database refuses it a second time
    begin_line(world, attempt(TWO))
    write_begun_lines(world)
    assert "wait for the next start" in caplog.text
    assert lines(world) == [line]


def test_what_has_lines_of_its_own_needs_none_when_it_goes_well(world: World) -> None:
    with logged(world, attempt(ONE), only_refused=True):
        pass
    assert lines(world) == []
    with pytest.raises(Refused), logged(world, attempt(ONE), only_refused=True):
        raise Refused(ErrorCase.VM_UNKNOWN, "VM x")
    assert [line.scode for line in lines(world)] == [ErrorCase.VM_UNKNOWN.code]


def test_each_tenant_sees_its_own_lines_and_an_administrator_all(world: World) -> None:
    for principal, call, tenant in (
        (ONE, "create", "t1"),
        (TWO, "delete", "t2"),
        (ADMIN, "rollback", "t1"),
        (ADMIN, "doctor repair", ""),
    ):
        with logged(world, attempt(principal, call, tenant=tenant)):
            pass
    everything = ["doctor repair", "rollback", "delete", "create"]
    assert calls(world, ADMIN) == everything
    assert calls(world, ADMIN, tenant="t1") == ["rollback", "create"]
    for viewer in (ONE, ONE_READS):
        assert calls(world, viewer) == ["rollback", "create"]
        assert calls(world, viewer, tenant="t1", key_id=ADMIN.key_id) == ["rollback"]
        assert calls(world, viewer, tenant="t2") == []
        assert calls(world, viewer, key_id=TWO.key_id) == []
        assert calls(world, viewer, call="doctor repair") == []
    assert calls(world, TWO) == ["delete"]


def test_an_attempt_on_anothers_machine_is_the_callers_own_business(world: World) -> None:
    with pytest.raises(Refused), logged(world, attempt(TWO, "delete", vm_uuid=VM)):
        raise Refused(ErrorCase.VM_UNKNOWN, f"VM {VM}")
    assert lines(world, ONE) == []
    (line,) = lines(world, TWO, compute_uuid=VM)
    assert (line.tenant, line.vm_name) == ("t2", "")


def test_pages_follow_each_other_and_end(world: World) -> None:
    for number in range(5):
        with logged(world, attempt(ONE, snapshot=str(number))):
            pass
        with logged(world, attempt(TWO)):
            pass
    seen: list[str] = []
    after = ""
    for expected in (2, 2, 1):
        page = list_log(world, LogQuery(after=after, limit=2), ONE)
        assert len(page.lines) == expected
        seen += [line.snapshot for line in page.lines]
        after = page.next
    assert (seen, after) == (["4", "3", "2", "1", "0"], "")


def test_after_a_line_that_is_none_or_anothers(world: World) -> None:
    with logged(world, attempt(TWO)):
        pass
    (theirs,) = lines(world)
    descs = []
    for after in (theirs.uuid, str(uuid4())):
        with pytest.raises(Refused) as refusal:
            list_log(world, LogQuery(after=after), ONE)
        assert refusal.value.case is ErrorCase.LOG_LINE_UNKNOWN
        descs.append(refusal.value.desc.replace(after, "…"))
    assert descs[0] == descs[1]
    assert list_log(world, LogQuery(after=theirs.uuid), ADMIN).lines == ()


def test_what_a_client_chooses_is_short_and_one_line(world: World) -> None:
    evil = "a\r\nforged\u2028line\x1b[2J\u202eyl\ud800e" + "\U0001f600" * 2000
    with pytest.raises(Refused), logged(world, attempt(ONE, vm_name=evil, snapshot=evil)):
        raise Refused(ErrorCase.NAME_ILLEGAL, evil)
    (line,) = lines(world)
    for text, longest in ((line.vm_name, 256), (line.snapshot, 256), (line.desc, 1000)):
        assert text.startswith("a??forged?line?[2J?yl?e\U0001f600")
        assert len(text) == longest
    assert lines(world, snapshot=evil) == [line]


def test_a_refusal_at_the_door_is_a_line_like_any_other(world: World) -> None:
    refusals = Refusals(world)
    for principal in (ONE_READS, TWO):
        refusals.note(
            RefusedCall(principal, "::1", "delete", ErrorCase.NOT_ALLOWED, "a reader's", VM, "升级前", "GDT", 3)
        )
    (line,) = lines(world, ONE, failed=True)
    assert (line.who, line.tenant, line.address, line.call) == (ONE_READS.key_id, "t1", "::1", "delete")
    assert (line.vm_uuid, line.vm_name, line.snapshot, line.mark) == (VM, "", "升级前", "GDT")
    assert (line.scode, line.desc, line.duration_ms) == (ErrorCase.NOT_ALLOWED.code, "a reader's", 3)
    assert len(lines(world)) == 2


def test_a_log_that_cannot_be_written_is_told_to_the_services_log(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    """The call's own outcome stands."""
    with caplog.at_level(logging.ERROR):
        with logged(world, attempt(ONE, snapshot="升级前")):
            pass
        (line,) = lines(world)
        world.new_uuid = lambda: line.uuid  # type: ignore[misc]  # the database refuses it a second time
        with logged(world, attempt(ONE, snapshot="a\nb")):
            pass
    assert "the operation log could not be written" in caplog.text
    assert "snapshot='a?b'" in caplog.text
    assert len(lines(world)) == 1
