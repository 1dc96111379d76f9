"""What every run of the suite does; ``STILLFRAME_WHOLE_SUITE``: it leaves nothing out."""

from __future__ import annotations

import os
from collections.abc import Generator

import pytest

from support.ending import end_in_order
from support.service import Service

# beginnings of the reasons for which the whole suite may leave out a test; all else that it needs, setup.sh installs
MAY_BE_LEFT_OUT = (
    "Skipped: promtool is not installed",
    "Skipped: Ubuntu has no Chromium",
    "Skipped: this kernel has no xfs or no loop device",
    "Skipped: this kernel has no btrfs or no loop device",
    "Skipped: this kernel gives no huge pages to anybody",
    "Skipped: this kernel merges no equal pages",
)


def pytest_configure() -> None:
    """Fixtures end what they have started also when the run is told to end."""
    end_in_order()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(call: pytest.CallInfo[None]) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """A failure comes with what the services were at and what they had logged."""
    report = yield
    if report.skipped and os.environ.get("STILLFRAME_WHOLE_SUITE") and isinstance(report.longrepr, tuple):
        why = report.longrepr[2]
        if not why.startswith(MAY_BE_LEFT_OUT):
            report.outcome, report.longrepr = (
                "failed",
                f"the whole suite leaves nothing out, but this was left out: {why}",
            )
    if report.failed and call.excinfo is not None:
        report.sections += [(f"service in {service.state}", service.last_words()) for service in Service.alive]
    return report
