"""Calls that may hang have a thread for themselves; one that has ended gives its thread to the next."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator
from functools import partial

import pytest

from stillframe.adapters.libvirt.calls import Calls, NoAnswerError, _Threads
from stillframe.ports.correlation import in_request, request_id
from support.service import eventually


class Thing:
    """Something that a call returns."""


@pytest.fixture
def gate() -> Iterator[threading.Event]:
    """What a call that hangs waits for."""
    gate = threading.Event()
    yield gate
    gate.set()


def await_idle(calls: Calls, count: int) -> None:
    eventually(lambda: len(calls._threads._idle) == count, f"{count} threads wait for a call")


def test_the_next_call_has_the_thread_of_the_last() -> None:
    calls = Calls()
    used = set()
    for _call in range(10):
        used.add(calls.run("ask", "", threading.get_ident, 30))
        await_idle(calls, 1)
    assert len(used) == 1
    assert threading.get_ident() not in used


def test_an_error_is_raised_where_the_call_is_waited_for_and_costs_no_thread() -> None:
    calls = Calls()

    def fail() -> None:
        raise ZeroDivisionError

    for _call in range(3):
        with pytest.raises(ZeroDivisionError):
            calls.run("fail", "", fail, 30)
        await_idle(calls, 1)


def test_a_call_that_hangs_keeps_its_own_thread_and_no_other(gate: threading.Event) -> None:
    calls = Calls()
    hung: list[int] = []

    def hang() -> None:
        hung.append(threading.get_ident())
        gate.wait()

    with pytest.raises(NoAnswerError):
        calls.run("hang", "vm", hang, 0.05)
    others = {calls.run("ask", "another vm", threading.get_ident, 30) for _call in range(5)}
    assert hung[0] not in others
    with pytest.raises(NoAnswerError, match="has not answered yet: hang"):
        calls.run("ask", "vm", threading.get_ident, 30, patient=False)
    gate.set()
    assert calls.run("ask", "vm", threading.get_ident, 30)


def test_a_call_is_about_the_request_that_made_it_and_about_no_earlier_one() -> None:
    calls = Calls()
    with in_request("first"):
        assert calls.run("ask", "", request_id, 30) == "first"
    await_idle(calls, 1)
    assert calls.run("ask", "", request_id, 30) == ""


def test_a_thread_that_waits_holds_nothing_of_its_last_call() -> None:
    calls = Calls()
    of_result = weakref.ref(calls.run("ask", "", Thing, 30))
    await_idle(calls, 1)
    assert of_result() is None
    assert calls.run("ask", "", lambda: calls.is_wanted, 30)


def test_a_thread_that_nobody_wants_ends_and_another_begins_when_it_is_needed() -> None:
    threads = _Threads(idle_s=0.01)
    seen: list[threading.Thread] = []

    def has(number: int) -> bool:
        return len(seen) == number

    for number in (1, 2):
        threads.run("look", lambda: seen.append(threading.current_thread()))
        eventually(partial(has, number), "the job is done")
        eventually(lambda: not seen[-1].is_alive(), "its thread has ended")
    assert len(set(seen)) == 2
    assert threads._idle == []
