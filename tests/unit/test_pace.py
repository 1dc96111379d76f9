"""How fast a merge may be beside a guest that writes: examples, and a storage that serves both."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.adapters.libvirt.pace import Activity, Bounds, Pace, bounds, first_pace, next_pace

MIB = 1 << 20
LIMITS = Bounds(64 << 10, 8 * MIB, 1024 * MIB)
IDLE = Activity()


def writing(latency_us: float, count: int = 100) -> Activity:
    return Activity(writes=count, write_ns=int(latency_us * 1000 * count))


def flushing(latency_us: float, count: int = 100) -> Activity:
    return Activity(flushes=count, flush_ns=int(latency_us * 1000 * count))


USUAL = writing(1000) + flushing(10000)


def test_the_bounds_follow_the_setting() -> None:
    assert bounds(0) == Bounds(64 << 10, 8 * MIB, 4096 * MIB)
    assert bounds(100 * MIB) == Bounds(64 << 10, 8 * MIB, 100 * MIB)
    assert bounds(4096) == Bounds(4096, 4096, 4096)


def test_an_idle_guest_gets_full_speed() -> None:
    pace = first_pace(IDLE, LIMITS)
    assert pace.bytes_per_s == LIMITS.ceiling
    assert next_pace(pace, IDLE, 0, LIMITS) == pace


def test_beside_a_guest_that_writes_it_begins_slowly() -> None:
    assert first_pace(USUAL, LIMITS) == Pace(64 * MIB, USUAL)
    assert first_pace(USUAL, Bounds(1, 8 * MIB, 16 * MIB)).bytes_per_s == 16 * MIB


@pytest.mark.parametrize(
    ("now", "speed"),
    [
        (writing(1000) + flushing(10000), 200 * MIB),
        (writing(1200) + flushing(14900), 125 * MIB),
        (writing(1490) + flushing(10000), 125 * MIB),
        (writing(1600), 100 * MIB),
        (writing(1990) + flushing(2000), 100 * MIB),
        (writing(2100), 50 * MIB),
        (writing(1000) + flushing(21000), 50 * MIB),
        (flushing(9000), 200 * MIB),
        (IDLE, 1024 * MIB),
    ],
)
def test_it_follows_what_the_guest_feels_most(now: Activity, speed: int) -> None:
    assert next_pace(Pace(100 * MIB, USUAL), now, 100 * MIB, LIMITS).bytes_per_s == speed


def test_it_slows_down_from_where_it_really_is() -> None:
    assert next_pace(Pace(1024 * MIB, USUAL), writing(5000), 60 * MIB, LIMITS).bytes_per_s == 30 * MIB
    assert next_pace(Pace(1024 * MIB, USUAL), writing(5000), 0, LIMITS).bytes_per_s == LIMITS.floor


def test_what_no_guest_notices_does_not_slow_it_down() -> None:
    """Six times as long as the page cache takes is still faster than most storage."""
    pace = Pace(100 * MIB, writing(100) + flushing(200))
    assert next_pace(pace, writing(600) + flushing(400), 100 * MIB, LIMITS).bytes_per_s == 200 * MIB
    assert next_pace(pace, writing(100) + flushing(1010), 100 * MIB, LIMITS).bytes_per_s == 50 * MIB


def test_what_cannot_be_compared_changes_nothing() -> None:
    pace = Pace(100 * MIB, writing(1000))
    assert next_pace(pace, flushing(10), 0, LIMITS) == pace


def test_what_is_usual_is_learned_while_the_merge_is_hushed() -> None:
    """A guest that begins to write beside a merge at full speed: what it feels then is no measure."""
    pace = first_pace(IDLE, LIMITS)
    pace = next_pace(pace, writing(90000), 500 * MIB, LIMITS)
    assert pace == Pace(LIMITS.hushed, None, IDLE)
    pace = next_pace(pace, writing(1000, 9), 0, LIMITS)
    assert (pace.bytes_per_s, pace.usual) == (LIMITS.hushed, None)
    pace = next_pace(pace, writing(2000, 11), 0, LIMITS)
    assert pace == Pace(LIMITS.floor, writing(1000, 9) + writing(2000, 11))
    assert next_pace(pace, writing(2100), LIMITS.floor, LIMITS).bytes_per_s > LIMITS.floor


def test_it_is_not_hushed_for_long_by_a_guest_that_hardly_writes() -> None:
    pace = next_pace(first_pace(IDLE, LIMITS), writing(90000, 1), 0, LIMITS)
    for _ in range(3):
        assert pace.bytes_per_s == LIMITS.hushed
        pace = next_pace(pace, writing(1000, 1), 0, LIMITS)
    assert pace == Pace(LIMITS.floor, writing(1000, 3))


def test_a_guest_that_stops_while_it_is_learned_from_is_learned_from_anew() -> None:
    pace = next_pace(first_pace(IDLE, LIMITS), writing(90000), 500 * MIB, LIMITS)
    assert next_pace(pace, IDLE, 0, LIMITS) == Pace(LIMITS.ceiling, None)


def test_what_the_lowest_speed_does_not_mend_is_learned_anew() -> None:
    pace = Pace(LIMITS.floor, USUAL)
    for _ in range(15):
        assert pace.bytes_per_s == LIMITS.floor
        pace = next_pace(pace, writing(10000), LIMITS.floor, LIMITS)
    assert pace == Pace(LIMITS.hushed, USUAL, IDLE)
    pace = next_pace(pace, writing(10000), 0, LIMITS)
    assert pace == Pace(LIMITS.floor, writing(10000))


def test_only_looks_in_a_row_count() -> None:
    pace = replace(Pace(LIMITS.floor, USUAL), looks=14)
    assert next_pace(pace, writing(1600), LIMITS.floor, LIMITS) == Pace(LIMITS.floor, USUAL)


@given(
    capacity_mib=st.integers(40, 2000),
    usual_us=st.integers(20, 5000),
    sensitivity=st.floats(0.1, 20),
)
def test_on_a_storage_that_serves_both_it_settles_where_the_guest_can_live(
    capacity_mib: int, usual_us: int, sensitivity: float
) -> None:
    """A write takes longer in proportion to what the merge takes of the storage."""
    unnoticed = max(usual_us, 500) / usual_us
    limits = bounds(0)
    pace = first_pace(writing(usual_us), limits)
    felt = []
    for _ in range(200):
        copied = min(pace.bytes_per_s, capacity_mib * MIB)
        times = 1 + sensitivity * copied / (capacity_mib * MIB)
        felt.append(times)
        pace = next_pace(pace, writing(usual_us * times), copied, limits)
        assert limits.hushed <= pace.bytes_per_s <= limits.ceiling
    at_the_floor = 1 + sensitivity * limits.floor / (capacity_mib * MIB)
    settled = felt[50:]
    assert sum(settled) / len(settled) < max(2.1 * unnoticed, at_the_floor * 1.01)
    if 1 + sensitivity < 1.5 * unnoticed:
        assert pace.bytes_per_s == limits.ceiling


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10**9), st.integers(0, 50), st.integers(0, 10**9))))
def test_whatever_the_guest_does_it_stays_within_its_bounds(looks: list[tuple[int, int, int, int]]) -> None:
    pace = first_pace(IDLE, LIMITS)
    for look in looks:
        pace = next_pace(pace, Activity(*look), 50 * MIB, LIMITS)
        assert LIMITS.hushed <= pace.bytes_per_s <= LIMITS.ceiling
