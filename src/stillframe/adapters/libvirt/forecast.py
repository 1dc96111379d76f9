"""How long QEMU's pass over a guest's memory will take, from the passes before it.

Before QEMU can track writes it touches every page once ("populate", migration/ram.c), while the guest runs. A guest that
is to stand still for its disks' sake is stopped just before that ends: stopped earlier, the rest of the pass is part of
the pause; stopped later, it is too late (see pause.py) and the capture is begun again.

The first pass over a fresh guest goes over huge pages and is short. Tracking splits them: where they are not put together
again (huge_pages.py), the next pass takes several times as long, and those after it about as long as that one. So a guest's own
last passes are what counts, and until there are two of them what later passes took per page in other guests.
"""

from __future__ import annotations

import threading
from collections import OrderedDict, deque
from dataclasses import dataclass, field

_FIRST_S_PER_PAGE = 15e-9  # nothing shorter was seen: too early costs some milliseconds, too late a second attempt
_LEAD_S = 0.002  # from the request to the guest's stop
_LEAST_MARGIN = 0.06
_FIRST_MARGIN = 0.12
_MOST_MARGIN = 0.6
# of a shorter pass much is not the memory's; and one over huge pages tells nothing of one over small ones
_TELLING_S = 0.02
_KEPT_PASSES = 2
_KEPT_GUESTS = 4096


@dataclass
class _Guest:
    """``passes``: seconds per page, the newest last. ``margin``: the share of a pass by which it is stopped early."""

    passes: deque[float] = field(default_factory=lambda: deque(maxlen=_KEPT_PASSES))
    margin: float = _FIRST_MARGIN


class Forecast:
    """The passes of one host's guests, each named by a text of the caller's. Threads may share it.

    Kept in memory alone: after a restart of the service a guest's first pause may be longer, no more.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._guests: OrderedDict[str, _Guest] = OrderedDict()
        self._later_s_per_page = 0.0  # of second and later passes, of all guests together

    def stop_after_s(self, guest: str, pages: int) -> float:
        """How long the pass may go on before the guest is to be stopped; 0: stop it at once."""
        with self._lock:
            known = self._guests.get(guest, _Guest())
            if len(known.passes) == _KEPT_PASSES:
                per_page = min(known.passes)
            elif known.passes:
                per_page = max(known.passes[0], self._later_s_per_page)
            else:
                per_page = _FIRST_S_PER_PAGE
            return max(0.0, per_page * pages * (1 - known.margin) - _LEAD_S)

    def learn(self, guest: str, pages: int, took_s: float, *, in_time: bool) -> None:
        """A pass has ended. ``in_time``: the guest stood still before it did."""
        per_page = took_s / max(1, pages)
        with self._lock:
            known = self._guests.setdefault(guest, _Guest())
            self._guests.move_to_end(guest)
            if len(self._guests) > _KEPT_GUESTS:
                self._guests.popitem(last=False)
            if known.passes and took_s >= _TELLING_S:
                later = self._later_s_per_page
                self._later_s_per_page = (later + per_page) / 2 if later else per_page
            known.passes.append(per_page)
            if in_time:
                known.margin = max(_LEAST_MARGIN, known.margin * 0.8)
            else:
                known.margin = min(_MOST_MARGIN, known.margin + 0.15)
