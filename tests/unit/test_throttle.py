"""Requests per second of one caller, on a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.domain.errors import ErrorCase, Refused
from stillframe.http.throttle import Throttle


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def let_in(throttle: Throttle, caller: str, at_most: int = 10_000) -> int:
    """How many requests in a row are let in."""
    for count in range(at_most):
        try:
            throttle.check(caller)
        except Refused:
            return count
    return at_most


@pytest.fixture
def clock() -> Clock:
    return Clock()


def test_a_burst_of_twice_the_rate_and_then_the_rate(clock: Clock) -> None:
    throttle = Throttle(100, clock=clock)
    assert let_in(throttle, "a") == 200
    clock.now += 0.5
    assert let_in(throttle, "a") == 50
    clock.now += 3600
    assert let_in(throttle, "a") == 200, "what was not used is not saved up"


def test_a_refusal_tells_when_the_next_one_is_let_in(clock: Clock) -> None:
    throttle = Throttle(0.25, clock=clock)
    throttle.check("a")
    with pytest.raises(Refused) as refusal:
        throttle.check("a")
    assert refusal.value.case is ErrorCase.RATE_LIMITED
    assert refusal.value.retry_after_s == pytest.approx(4)
    clock.now += 3.9
    assert let_in(throttle, "a") == 0
    clock.now += 0.1
    assert let_in(throttle, "a") == 1


def test_one_caller_does_not_pay_for_another(clock: Clock) -> None:
    throttle = Throttle(10, clock=clock)
    let_in(throttle, "greedy")
    assert let_in(throttle, "modest") == 20


def test_zero_lets_everybody_in(clock: Clock) -> None:
    throttle = Throttle(0, clock=clock)
    assert let_in(throttle, "a") == 10_000
    assert len(throttle) == 0


def test_quiet_callers_are_forgotten(clock: Clock) -> None:
    throttle = Throttle(10, clock=clock)
    for number in range(1000):
        throttle.check(f"caller {number}")
        clock.now += 1
    assert len(throttle) <= 2


def test_never_more_callers_than_allowed_are_remembered(clock: Clock) -> None:
    throttle = Throttle(10, remembered=100, clock=clock)
    let_in(throttle, "kept")
    for number in range(1000):
        throttle.check(f"caller {number}")
        if number % 50 == 0:
            clock.now += 0.1
            throttle.check("kept")
        assert len(throttle) <= 100
    assert let_in(throttle, "kept") == 0, "whoever asks is not forgotten"


@given(
    rate=st.floats(0.01, 1000),
    pauses=st.lists(st.floats(0, 3), min_size=1, max_size=200),
)
def test_whoever_waits_as_told_is_let_in_and_nobody_exceeds_the_rate(rate: float, pauses: list[float]) -> None:
    clock = Clock()
    throttle = Throttle(rate, clock=clock)
    begun, count = clock.now, 0
    for pause in pauses:
        clock.now += pause
        try:
            throttle.check("a")
        except Refused as refusal:
            clock.now += refusal.retry_after_s or 0
            throttle.check("a")
        count += 1
    assert count <= (clock.now - begun) * rate + max(2 * rate, 1) + 0.01
