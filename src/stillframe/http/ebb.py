"""Memory that a crowd of connections needed, given back when the crowd has gone."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import logging

log = logging.getLogger("stillframe.http")

# the last ones are on their way out when this is asked for
WAIT_S = 5.0

# glibc keeps what was freed in case it is needed again, between what is in use, until it is told not to; others have no such call
_malloc_trim = getattr(ctypes.CDLL(None), "malloc_trim", None)


def give_back_soon() -> None:
    """To be called in the event loop."""
    asyncio.get_running_loop().call_later(WAIT_S, _give_back)


def _give_back() -> None:
    gc.collect()  # asyncio's transports are cycles
    if _malloc_trim is not None:
        _malloc_trim(0)
    log.debug("memory of a crowd that has gone was given back")
