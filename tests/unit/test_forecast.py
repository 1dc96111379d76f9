"""When a guest is stopped for its capture: what the passes before it say."""

from __future__ import annotations

import ctypes
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import pytest

from stillframe.adapters.libvirt.forecast import Forecast
from stillframe.adapters.libvirt.passing import Pass
from stillframe.adapters.libvirt.qmp import Qmp

PAGES = 262_144  # of 1 GiB


def test_an_unknown_guest_is_stopped_early_and_more_memory_later() -> None:
    forecast = Forecast()
    small, large = forecast.stop_after_s("a", PAGES), forecast.stop_after_s("a", 16 * PAGES)
    assert 0 < small < 0.005
    assert small < large < 0.1


def test_the_smallest_guest_is_stopped_at_once() -> None:
    assert Forecast().stop_after_s("a", 1000) == 0


def test_a_known_guest_is_stopped_short_of_the_shorter_of_its_last_passes() -> None:
    forecast = Forecast()
    for took_s in (0.5, 0.3, 0.2):
        forecast.learn("a", PAGES, took_s, in_time=True)
    assert 0.15 < forecast.stop_after_s("a", PAGES) < 0.2
    assert forecast.stop_after_s("a", 2 * PAGES) > 0.3, "memory that was added counts"


def test_the_second_pass_of_a_guest_is_like_the_later_ones_of_others() -> None:
    forecast = Forecast()
    forecast.learn("a", PAGES, 0.01, in_time=True)
    assert forecast.stop_after_s("a", PAGES) < 0.01, "nobody has had a second one yet"
    forecast.learn("a", PAGES, 0.1, in_time=True)
    forecast.learn("b", PAGES, 0.01, in_time=True)
    assert 0.05 < forecast.stop_after_s("b", PAGES) < 0.1
    assert forecast.stop_after_s("c", PAGES) < 0.005, "the first one of a guest is always short"


def test_short_passes_tell_nothing_of_other_guests() -> None:
    """Over huge pages a guest's second pass is as short as its first; and a small guest's takes its time for other things."""
    forecast = Forecast()
    for _ in range(3):
        forecast.learn("small", 65_536, 0.005, in_time=True)  # 76 ns a page
    forecast.learn("large", 1_048_576, 0.016, in_time=True)
    assert forecast.stop_after_s("large", 1_048_576) < 0.016


def test_who_came_too_late_comes_earlier_next_time_and_only_slowly_later_again() -> None:
    forecast = Forecast()
    for _ in range(3):
        forecast.learn("a", PAGES, 0.1, in_time=True)
    before = forecast.stop_after_s("a", PAGES)
    forecast.learn("a", PAGES, 0.1, in_time=False)
    after = forecast.stop_after_s("a", PAGES)
    assert after < before - 0.01
    forecast.learn("a", PAGES, 0.1, in_time=True)
    assert after < forecast.stop_after_s("a", PAGES) < before
    for _ in range(30):
        forecast.learn("a", PAGES, 0.1, in_time=False)
    assert forecast.stop_after_s("a", PAGES) > 0.03, "never so early that nothing is gained"


def test_no_more_guests_are_remembered_than_there_can_be() -> None:
    forecast = Forecast()
    for number in range(5000):
        for _ in range(2):
            forecast.learn(str(number), PAGES, 0.2, in_time=True)
    assert forecast.stop_after_s("0", PAGES) < 0.005, "the one that was longest unseen is forgotten"
    assert forecast.stop_after_s("4999", PAGES) > 0.1


# --- watching ----------------------------------------------------------------------------------------------------------


class ThreadsOfThisProcess:
    """A monitor that names a thread of ours as its CPU: what is watched are the threads of a real process."""

    def run(self, command: str, **_arguments: Any) -> Any:
        assert command == "query-cpus-fast"
        return [{"thread-id": threading.get_native_id()}]


@contextmanager
def working(name: bytes, work_s: float) -> Iterator[threading.Event]:
    """A thread of this name in the system, which works for so long by its own processor time and then only waits."""
    named, worked, end = threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        ctypes.CDLL(None).pthread_setname_np(ctypes.c_void_p(threading.get_ident()), name)
        named.set()
        while time.thread_time() < work_s:
            pass
        worked.set()
        end.wait()

    thread = threading.Thread(target=work)
    thread.start()
    named.wait()
    try:
        yield worked
    finally:
        end.set()
        thread.join()


@pytest.fixture
def forecast() -> Forecast:
    """Of a guest whose passes took 100 ms."""
    known = Forecast()
    for _ in range(3):
        known.learn("a", PAGES, 0.1, in_time=True)
    return known


def watch(forecast: Forecast) -> Pass:
    return Pass(cast("Qmp", ThreadsOfThisProcess()), forecast, "a", PAGES)


@pytest.mark.parametrize("name", [b"bg_snapshot", b"mig/snapshot"])
def test_the_thread_s_own_time_counts(forecast: Forecast, name: bytes) -> None:
    """It works less than was forecast, and then stands still as if it got no processor: its time is not the wall's."""
    watched = watch(forecast)
    with working(name, 0.03) as worked:
        watched.begun()
        worked.wait()
        watched.goes_on()
        time.sleep(0.2)
        watched.over(0.25, in_time=True)
    assert 0.02 < forecast.stop_after_s("a", PAGES) < 0.05


def test_a_thread_that_gets_no_processor_is_not_waited_for_for_ever(forecast: Forecast) -> None:
    watched = watch(forecast)
    with working(b"bg_snapshot", 0.001):
        watched.begun()
        watched.await_stop_time()


def test_a_thread_that_ends_is_not_waited_for(forecast: Forecast) -> None:
    for _ in range(3):
        forecast.learn("a", PAGES, 3600, in_time=True)
    watched = watch(forecast)
    with working(b"bg_snapshot", 0.01):
        watched.begun()
    watched.await_stop_time()


@pytest.mark.parametrize(("took_s", "worth"), [(0.004, False), (0.1, True)])
def test_a_short_pass_may_as_well_be_part_of_the_pause(took_s: float, *, worth: bool) -> None:
    known = Forecast()
    assert not watch(known).is_worth_while, "1 GiB that nobody has seen yet"
    for _ in range(2):
        known.learn("a", PAGES, took_s, in_time=True)
    assert watch(known).is_worth_while is worth


def test_without_a_thread_to_be_seen_the_wall_s_time_counts(forecast: Forecast) -> None:
    watched = watch(forecast)
    with working(b"another", 0.001):
        watched.begun()
        began = time.monotonic()
        watched.await_stop_time()
        waited = time.monotonic() - began
    assert waited >= forecast.stop_after_s("a", PAGES) - 0.02
    watched.over(0.05, in_time=False)
    assert forecast.stop_after_s("a", PAGES) < 0.05


def test_a_thread_of_an_earlier_capture_is_not_taken_for_this_one_s(forecast: Forecast) -> None:
    with working(b"bg_snapshot", 0.001) as earlier:
        earlier.wait()
        watched = watch(forecast)
        watched.begun()
        time.sleep(0.03)
        watched.goes_on()
        watched.over(1.0, in_time=True)
    assert forecast.stop_after_s("a", PAGES) > 0.015, "the wall's"


def test_a_pass_that_nobody_watched_took_what_qemu_says_of_it(forecast: Forecast) -> None:
    """A guest that was stopped first: what is learned of its pass is learned behind its pause."""
    for _ in range(2):
        watch(forecast).over(0.03, in_time=True)
    assert 0.02 < forecast.stop_after_s("a", PAGES) < 0.03
