"""The contract suites see what they are for: on each broken adapter the named check fails."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from contract import memory_broken, memory_contract, volumes_broken, volumes_contract
from contract.memory_bench import MemoryBench
from contract.volumes_bench import VolumesBench
from stillframe.adapters.memory.local import LocalMemoryStore
from stillframe.domain.errors import StillframeError

# How a check says no: an assertion, an outcome that it did not expect, a program that could not read the result.
FAILURES = (AssertionError, StillframeError, subprocess.CalledProcessError)


@pytest.mark.parametrize(
    ("broken", "name"), volumes_broken.BROKEN, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_broken_volumes_fail(broken: type[volumes_broken.Unbroken], name: str, tmp_path: Path) -> None:
    if broken is volumes_broken.OwnsEverything and os.geteuid() != 0:
        pytest.skip("only root can give files away")
    with pytest.raises(FAILURES):
        volumes_contract.CHECKS[name](VolumesBench(broken(), tmp_path))


@pytest.mark.parametrize(
    ("broken", "name"), memory_broken.BROKEN, ids=lambda value: value if isinstance(value, str) else value.__name__
)
def test_broken_memory_stores_fail(broken: type[LocalMemoryStore], name: str, tmp_path: Path) -> None:
    bench = MemoryBench(
        broken(tmp_path), lambda uuid: tmp_path / "screenshots" / f"{uuid}.png", lambda: broken(tmp_path)
    )
    with pytest.raises(FAILURES):
        memory_contract.CHECKS[name](bench)


def test_most_checks_are_proved_to_bite() -> None:
    for checks, broken in (
        (volumes_contract.CHECKS.keys(), [name for _, name in volumes_broken.BROKEN]),
        (memory_contract.CHECKS.keys(), [name for _, name in memory_broken.BROKEN]),
    ):
        assert set(broken) <= set(checks)
        assert len(set(broken)) > len(checks) / 2
