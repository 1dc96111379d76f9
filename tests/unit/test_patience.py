"""How long work is repeated whose hypervisor is away."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from stillframe.domain.errors import ErrorCase, Failed, StillframeError, Unknown
from stillframe.operations.patience import patiently

PATIENCE_S = 0.3
AWAY = (ErrorCase.HOST_UNREACHABLE,)


def attempts(*outcomes: tuple[float, StillframeError | None]) -> Callable[[], None]:
    """Each attempt takes so many seconds and ends so."""
    left = list(outcomes)

    def act() -> None:
        seconds, error = left.pop(0)
        time.sleep(seconds)
        if error is not None:
            raise error

    return act


def away() -> StillframeError:
    return Unknown(ErrorCase.HOST_UNREACHABLE, "the connection broke")


def silent() -> StillframeError:
    return Unknown(ErrorCase.HYPERVISOR_FAILED, "no answer")


def test_work_that_has_gone_on_for_long_is_not_given_up_when_the_daemon_is_restarted() -> None:
    patiently("it", attempts((2 * PATIENCE_S, away()), (0, away()), (0, None)), PATIENCE_S, AWAY)


def test_every_outage_has_a_patience_of_its_own() -> None:
    patiently("it", attempts((0, away()), (2 * PATIENCE_S, away()), (0, away()), (0, None)), PATIENCE_S, AWAY)


def test_what_stays_away_is_given_up() -> None:
    with pytest.raises(StillframeError, match="broke"):
        patiently("it", attempts(*[(0.1, away())] * 50), PATIENCE_S, AWAY)


def test_a_call_without_an_answer_was_away_all_the_time() -> None:
    with pytest.raises(StillframeError, match="no answer"):
        patiently("it", attempts((2 * PATIENCE_S, silent()), (0, None)), PATIENCE_S, AWAY)


def test_another_failure_is_told_at_once() -> None:
    with pytest.raises(StillframeError, match="full"):
        patiently("it", attempts((0, Failed(ErrorCase.SPACE_EXHAUSTED, "full"))), PATIENCE_S, AWAY)
