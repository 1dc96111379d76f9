"""Qcow2Volumes keeps the contract."""

from __future__ import annotations

from pathlib import Path

import pytest

from contract.volumes_bench import VolumesBench
from contract.volumes_contract import CHECKS, Check
from stillframe.adapters.volumes.qcow2 import Qcow2Volumes


@pytest.mark.parametrize("check", CHECKS.values(), ids=CHECKS.keys())
def test_contract(check: Check, tmp_path: Path) -> None:
    check(VolumesBench(Qcow2Volumes(lock_wait_s=0.2), tmp_path))
