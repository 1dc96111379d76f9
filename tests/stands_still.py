"""Not among the suite's tests: one that stands still, with a guest, until its run is ended (fault/test_ended.py)."""

from __future__ import annotations

import signal

from fault.conftest import daemon, ground, ground_settings, striker  # noqa: F401 -- fixtures are found by their names
from support.ground import Ground


def test_stands_still(ground: Ground) -> None:  # noqa: F811 -- see above
    ground.running("still")
    while True:
        signal.pause()
