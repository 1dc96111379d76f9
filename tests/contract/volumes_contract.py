"""What every ``ports.volumes.Volumes`` must keep. Each ``check_*`` gets a fresh bench and fails by ``AssertionError``.

An adapter passes when ``CHECKS`` pass; ``test_contract_catches.py`` proves that broken ones do not.
"""

from __future__ import annotations

from collections.abc import Callable

from contract import volumes_dropping, volumes_looking, volumes_merging, volumes_overlays, volumes_pulling
from contract.volumes_bench import VolumesBench

Check = Callable[[VolumesBench], None]
CHECKS: dict[str, Check] = {
    name: value
    for part in (volumes_looking, volumes_overlays, volumes_merging, volumes_pulling, volumes_dropping)
    for name, value in vars(part).items()
    if name.startswith("check_")
}
