"""How fast QEMU may copy in a merge, and when that must give way."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)
_GIVES_WAY_AT = 2


class Throttle:
    """What holds one merge back. ``holds``: something does.

    Merging a layer that the guest writes to copies again what it writes meanwhile. A guest that writes as fast as the
    merge may copy would keep it from ever ending: when twice of what there was to do at first has been copied, ``lift``
    is called, and the rest goes as fast as it can.
    """

    def __init__(self, holds: bool, lift: Callable[[], None]) -> None:
        self._holds = holds
        self._lift = lift
        self._first_total = 0

    def saw(self, bytes_done: int, bytes_total: int) -> None:
        """To be called with every look at the job. ``bytes_done`` counts all that was copied, some of it repeatedly."""
        if not self._holds:
            return
        self._first_total = self._first_total or bytes_total
        if self._first_total and bytes_done >= _GIVES_WAY_AT * self._first_total:
            self._holds = False
            log.info("the guest writes as fast as the merge may copy: the rest is merged without the throttle")
            self._lift()
