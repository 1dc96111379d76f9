"""What every run of the suite does."""

from __future__ import annotations

from collections.abc import Generator

import pytest

from support.ending import end_in_order
from support.service import Service


def pytest_configure() -> None:
    """Fixtures end what they have started also when the run is told to end."""
    end_in_order()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with what the services were at and what they had logged."""
    report = yield
    if report.failed and call.excinfo is not None:
        report.sections += [(f"service in {service.state}", service.last_words()) for service in Service.alive]
    return report
