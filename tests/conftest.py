"""What every run of the suite does."""

from __future__ import annotations

from support.ending import end_in_order


def pytest_configure() -> None:
    """Fixtures end what they have started also when the run is told to end."""
    end_in_order()
