"""Waiting for what is away: idempotent work is tried again until it can be done, or has been away for too long."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Collection

from stillframe.domain.errors import ErrorCase, StillframeError, Unknown

log = logging.getLogger(__name__)
_POLL_S = 0.2


def patiently(what: str, act: Callable[[], None], patience_s: float, cases: Collection[ErrorCase]) -> None:
    """Try again as long as ``act`` fails with one of ``cases``, or as a call that got no answer in time does: a daemon
    that comes up again takes calls and does not answer them.

    ``patience_s`` is for one outage. It begins when work breaks off, not when the work began: what has gone well for
    hours is not given up because of a daemon that is restarted. Only a call without an answer was away all the time.

    Raises:
        StillframeError: the last error, when the outage lasts longer; any other one at once.
    """
    give_up_at: float | None = None
    while True:
        begun = time.monotonic()
        try:
            act()
        except StillframeError as error:
            now = time.monotonic()
            silent = isinstance(error, Unknown) and error.case is ErrorCase.HYPERVISOR_FAILED
            if not (silent or error.case in cases):
                raise
            is_another = not silent and now - begun > patience_s  # it was back for so long before it broke off again
            if give_up_at is None or is_another:
                log.warning("%s: tried again until it works: %s", what, error)
                give_up_at = (begun if silent else now) + patience_s
            if now > give_up_at:
                raise
            time.sleep(_POLL_S)
        else:
            return
