"""What becomes of the operation log in time: attempts that share lines, and lines that are removed. On real SQLite."""

from __future__ import annotations

import logging
import threading
from contextlib import closing, contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast
from uuid import uuid4

import pytest

from stillframe.adapters.metadata import open_metadata
from stillframe.domain.access import Principal, Role
from stillframe.domain.errors import ErrorCase, Failed
from stillframe.operations.log_keeper import DAY_S, KEPT_LINES, SILENCE_S, LogKeeper, seconds_since_boot
from stillframe.operations.refusals import SOURCES_MAX, WINDOW_S, Refusals, RefusedCall
from stillframe.operations.rows import About, new_row
from stillframe.ports.log import LogFilter, LogLine
from stillframe.ports.metadata import ACTIVE_STATES, OperationFilter, OperationState, Slot
from support.service import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from stillframe.operations.world import World

AT = 1_700_000_000
READER = Principal("1" * 12, Role.READER, "t1")


class Clocks:
    """The wall's and the one since boot; both go on together unless the wall's is set."""

    def __init__(self) -> None:
        self.at = float(AT)
        self.since_boot = 1000.0

    def wait(self, seconds: float) -> None:
        self.at += seconds
        self.since_boot += seconds


@pytest.fixture
def clocks() -> Clocks:
    return Clocks()


@pytest.fixture
def world(clocks: Clocks, tmp_path: Path) -> Iterator[World]:
    with closing(open_metadata(f"sqlite:///{tmp_path}/stillframe.db")) as metadata:
        made = SimpleNamespace(metadata=metadata, now_s=lambda: clocks.at, new_uuid=lambda: str(uuid4()))
        yield cast("World", made)


def lines(world: World) -> list[LogLine]:
    with world.metadata.read() as tx:
        return tx.log.page(LogFilter(limit=100_000))


# --- attempts that share lines ---------------------------------------------------------------------------------------


def a_stranger(address: str = "192.0.2.1", call: str = "create") -> RefusedCall:
    return RefusedCall(None, address, call, ErrorCase.NOT_AUTHENTICATED, "0 ApiKey headers; expected one")


@pytest.fixture
def refusals(world: World, clocks: Clocks) -> Refusals:
    return Refusals(world, lambda: clocks.since_boot)


def test_a_strangers_first_attempt_is_a_line_and_the_rest_of_its_minute_another(
    world: World, refusals: Refusals, clocks: Clocks
) -> None:
    for _ in range(100):
        refusals.note(a_stranger())
    refusals.write_counted()
    (first,) = lines(world)
    assert (first.address, first.who, first.tenant, first.call) == ("192.0.2.1", "", "", "create")
    assert first.scode == ErrorCase.NOT_AUTHENTICATED.code
    clocks.wait(WINDOW_S)
    refusals.write_counted()
    refusals.write_counted()
    second, _first = lines(world)
    assert second.desc == "99 more since 2023-11-14T22:13:20Z; the first: 0 ApiKey headers; expected one"
    assert (second.address, second.call, second.at) == ("192.0.2.1", "create", AT + 60)


def test_no_attempt_is_lost_and_no_minute_has_two_lines(world: World, refusals: Refusals, clocks: Clocks) -> None:
    for _ in range(600):
        refusals.note(a_stranger())
        refusals.write_counted()
        clocks.wait(1)
    refusals.write_counted(all_of_them=True)
    counts = [int(line.desc.split()[0]) if "more" in line.desc else 1 for line in lines(world)]
    assert sum(counts) == 600
    assert len(counts) <= 12
    moments = [line.at for line in lines(world)][1:]  # the last was written before its minute was over
    assert all(later - earlier >= WINDOW_S for later, earlier in pairwise(moments))


def test_a_stranger_that_comes_back_later_makes_a_line_again(world: World, refusals: Refusals, clocks: Clocks) -> None:
    for _ in range(3):
        refusals.note(a_stranger())
        clocks.wait(WINDOW_S)
        refusals.write_counted()
    assert [line.desc for line in lines(world)] == ["0 ApiKey headers; expected one"] * 3


def test_a_line_that_stands_for_different_calls_names_none(world: World, refusals: Refusals, clocks: Clocks) -> None:
    for call in ("create", "delete", "rollback"):
        refusals.note(a_stranger(call=call))
    clocks.wait(WINDOW_S)
    refusals.write_counted()
    assert [line.call for line in lines(world)] == ["", "create"]


def test_any_number_of_strangers_makes_a_bounded_number_of_lines(
    world: World, refusals: Refusals, clocks: Clocks
) -> None:
    for number in range(5000):
        refusals.note(a_stranger(f"2001:db8::{number:x}"))
    assert len(lines(world)) == SOURCES_MAX
    many = lines(world)[0]
    assert (many.address, many.desc[:42]) == ("", "many at once, among them 2001:db8::3b: 0 A")
    clocks.wait(WINDOW_S)
    refusals.write_counted()
    assert len(lines(world)) == SOURCES_MAX + 1
    assert lines(world)[0].desc.startswith(f"{5000 - SOURCES_MAX} more since")
    for number in range(5000, 5000 + SOURCES_MAX):
        refusals.note(a_stranger(f"2001:db8::{number:x}"))
    # the line of all the others has been written in this minute already
    assert len(lines(world)) == SOURCES_MAX + 1 + SOURCES_MAX - 2


def test_who_comes_too_often_shares_lines_by_key_and_stays_its_tenants(
    world: World, refusals: Refusals, clocks: Clocks
) -> None:
    hasty = RefusedCall(READER, "::1", "create", ErrorCase.RATE_LIMITED, "too often")
    for _ in range(50):
        refusals.note(hasty)
        refusals.note(replace(hasty, principal=replace(READER, key_id="2" * 12)))
    assert sorted(line.who for line in lines(world)) == [READER.key_id, "2" * 12]
    clocks.wait(WINDOW_S)
    refusals.write_counted()
    counted = lines(world)[:2]
    assert sorted(line.who for line in counted) == [READER.key_id, "2" * 12]
    assert all((line.tenant, line.desc[:7]) == ("t1", "49 more") for line in counted)


def test_who_asks_to_see_what_it_may_not_shares_lines_too(world: World, refusals: Refusals) -> None:
    for _ in range(50):
        refusals.note(RefusedCall(READER, "::1", "", ErrorCase.NOT_ALLOWED, "a reader's"))
    assert [(line.who, line.tenant) for line in lines(world)] == [(READER.key_id, "t1")]


def test_among_too_many_hasty_keys_nobodys_tenant_is_told_of_the_others(
    world: World, refusals: Refusals, clocks: Clocks
) -> None:
    for number in range(SOURCES_MAX + 5):
        principal = Principal(f"{number:012x}", Role.OPERATOR, f"t{number}")
        refusals.note(RefusedCall(principal, "::1", "create", ErrorCase.RATE_LIMITED, "too often", "vm", "s", "GCD"))
    clocks.wait(WINDOW_S)
    refusals.write_counted()
    for line in lines(world)[:2]:
        assert (line.tenant, line.who, line.address, line.vm_uuid, line.snapshot) == ("", "", "", "", "")
    assert lines(world)[0].desc.startswith("5 more since")


def test_other_refusals_of_a_key_have_a_line_each(world: World, refusals: Refusals) -> None:
    for _ in range(20):
        refusals.note(RefusedCall(READER, "::1", "create", ErrorCase.NOT_ALLOWED, "a reader's"))
    assert len(lines(world)) == 20


def test_strangers_in_many_threads_are_counted_exactly(world: World, refusals: Refusals, clocks: Clocks) -> None:
    def come() -> None:
        for _ in range(500):
            refusals.note(a_stranger())

    threads = [threading.Thread(target=come) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clocks.wait(WINDOW_S)
    refusals.write_counted()
    counted, _first = lines(world)
    assert counted.desc.startswith("3999 more since")


# --- lines that are removed ------------------------------------------------------------------------------------------


@pytest.fixture
def keeper(world: World, refusals: Refusals, clocks: Clocks) -> LogKeeper:
    """Of 30 days' lines, and the newest two."""
    return LogKeeper(world, refusals, 30, kept_lines=2, clock=lambda: clocks.since_boot)


def fill(world: World, *days_ago: float) -> None:
    """One line for each, from the oldest on."""
    with world.metadata.write() as tx:
        for days in days_ago:
            at = int(world.now_s() - days * DAY_S)
            tx.log.append(LogLine(str(uuid4()), at, "k", "", "t1", "create", "vm", "n", "", "s", 0, "", 1, ""))


def ages(world: World) -> list[int]:
    """Of the lines that are left, in days, newest first."""
    return [round((world.now_s() - line.at) / DAY_S) for line in lines(world)]


def test_lines_beyond_the_retention_go_at_the_start_and_once_a_day(
    world: World, keeper: LogKeeper, clocks: Clocks
) -> None:
    fill(world, 40, 31, 29, 28, 1, 0)
    assert keeper.look() == 2
    assert ages(world) == [0, 1, 28, 29]
    clocks.wait(DAY_S / 2)
    assert keeper.look() == 0
    clocks.wait(DAY_S * 0.6)
    fill(world, 0)
    assert keeper.look() == 1
    assert ages(world) == [0, 1, 2, 29]


def test_tasks_that_have_ended_go_with_the_lines_and_no_others(world: World, keeper: LogKeeper, clocks: Clocks) -> None:
    """The newest two stay as the newest lines do."""
    fill(world, 0)
    about = About("vm")
    with world.metadata.write() as tx:
        for number, state in enumerate(OperationState):
            for days in (40, 31, 29):
                clocks.at -= days * DAY_S
                row = new_row(world, about, Slot.EXCLUSIVE, "create")
                clocks.at += days * DAY_S
                active = state in ACTIVE_STATES
                row = replace(row, vm_uuid=f"vm {number} {days}", state=state, steps_done=("a",))
                tx.journal.open(row if active else replace(row, ended_at=row.started_at + 1))
    keeper.look()
    with world.metadata.read() as tx:
        left = tx.journal.page(OperationFilter(limit=1000))
    ended = (OperationState.DONE, OperationState.UNDONE, OperationState.REFUSED)
    kept = {row.state for row in left if row.started_at < clocks.at - 30 * DAY_S}
    assert kept == set(OperationState) - set(ended)
    assert {row.state for row in left if row.started_at > clocks.at - 30 * DAY_S} == set(OperationState)
    assert all(row.steps_done == ("a",) for row in left)


def test_many_lines_go_in_short_transactions(world: World, keeper: LogKeeper, caplog: pytest.LogCaptureFixture) -> None:
    fill(world, *[40] * 1201, 0, 0)
    with caplog.at_level(logging.INFO):
        assert keeper.look() == 1201
    assert "1201 lines older than 30 days were removed" in caplog.text


def test_with_no_retention_nothing_goes(world: World, refusals: Refusals, clocks: Clocks) -> None:
    fill(world, *[4000] * 10, 0)
    keeper = LogKeeper(world, refusals, 0, kept_lines=2, clock=lambda: clocks.since_boot)
    for _ in range(3):
        assert keeper.look() == 0
        clocks.wait(DAY_S + 1)
    assert len(lines(world)) == 11


def test_a_clock_that_jumps_forward_is_not_believed_for_a_day(
    world: World, keeper: LogKeeper, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    fill(world, *range(29, -1, -1))
    assert keeper.look() == 0
    clocks.wait(DAY_S - 5)
    keeper.look()
    clocks.at += 400 * DAY_S  # and this is the moment at which it would have been due
    clocks.wait(10)
    assert keeper.look() == 0
    assert "the clock was set by +34560000 s" in caplog.text
    clocks.wait(3600)
    assert keeper.look() == 0
    clocks.at -= 400 * DAY_S  # set right again
    clocks.wait(DAY_S - 10)
    assert keeper.look() == 0
    assert len(lines(world)) == 30


def test_a_clock_that_stays_where_it_jumped_is_believed_in_the_end(
    world: World, keeper: LogKeeper, clocks: Clocks
) -> None:
    fill(world, 20, 19, 18, 17)
    keeper.look()
    clocks.at += 20 * DAY_S
    assert keeper.look() == 0
    clocks.wait(DAY_S + 1)
    assert keeper.look() == 2  # and the newest two stay


def test_a_start_with_a_clock_far_ahead_removes_nothing_at_once(
    world: World, keeper: LogKeeper, clocks: Clocks, caplog: pytest.LogCaptureFixture
) -> None:
    """Or the service did not run for long: that cannot be told, and a day more does no harm."""
    fill(world, *[1] * 10)
    clocks.at += SILENCE_S + 100 * DAY_S
    assert keeper.look() == 0
    assert "its last line is 108.0 days old by the clock" in caplog.text
    clocks.wait(DAY_S + 1)
    assert keeper.look() == 8


def test_a_start_with_a_clock_that_is_behind_removes_nothing(world: World, keeper: LogKeeper, clocks: Clocks) -> None:
    fill(world, *[1] * 10)
    clocks.at -= 1000 * DAY_S
    for _ in range(4):
        assert keeper.look() == 0
        fill(world, 0)
        clocks.wait(DAY_S + 1)
    assert len(lines(world)) == 14


def test_the_newest_stay_whatever_their_time(world: World, refusals: Refusals, clocks: Clocks) -> None:
    fill(world, *[19_000] * (KEPT_LINES + 1), 0)
    keeper = LogKeeper(world, refusals, 30, clock=lambda: clocks.since_boot)
    assert keeper.look() == 2
    assert len(lines(world)) == KEPT_LINES


def test_a_failure_is_repeated_after_an_hour(world: World, keeper: LogKeeper, clocks: Clocks) -> None:
    fill(world, 40, 0, 0)
    whole = world.metadata
    world.metadata = SimpleNamespace(read=whole.read, write=_cannot_write)  # type: ignore[assignment,misc]
    with pytest.raises(Failed):
        keeper.look()
    assert keeper.look() == 0
    world.metadata = whole  # type: ignore[misc]
    clocks.wait(1800)
    assert keeper.look() == 0
    clocks.wait(1801)
    assert keeper.look() == 1


@contextmanager
def _cannot_write() -> Iterator[None]:
    raise Failed(ErrorCase.STORAGE_FAILED, "the database stayed locked")
    yield


def test_while_it_runs_and_when_it_stops_what_was_counted_is_written(world: World, refusals: Refusals) -> None:
    fill(world, 40, 0, *[0] * KEPT_LINES)
    refusals.note(a_stranger())
    refusals.note(a_stranger())
    keeper = LogKeeper(world, refusals, 30)
    keeper.start()
    eventually(lambda: 40 not in ages(world), "the old line is removed")
    keeper.stop()
    assert [line.desc[:6] for line in lines(world)[:2]] == ["1 more", "0 ApiK"]


def test_the_clock_since_boot_goes_on() -> None:
    assert 0 < seconds_since_boot() <= seconds_since_boot()
