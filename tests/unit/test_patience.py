"""How long the runner waits for a hypervisor that is away: from its first silence on, and anew when it has moved since."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from stillframe.adapters.metadata.database import open_metadata
from stillframe.domain.errors import ErrorCase, Failed, StillframeError
from stillframe.operations.runner import About, Runner
from stillframe.operations.steps import Operation, Scratch, Step
from stillframe.operations.world import Limits, World
from stillframe.ports.metadata import Slot

VM = str(uuid.uuid4())
PATIENCE_S = 0.6


@pytest.fixture
def runner(tmp_path: Path) -> Iterator[Runner]:
    with closing(open_metadata(f"sqlite:///{tmp_path / 'journal.db'}")) as metadata:
        world = SimpleNamespace(
            metadata=metadata,
            now_s=lambda: 1.0,
            new_uuid=lambda: str(uuid.uuid4()),
            watch=lambda moment: None,
            limits=Limits(host_patience_s=PATIENCE_S),
        )
        yield Runner(cast("World", world))


def run(runner: Runner, act: Callable[[Scratch], None]) -> None:
    """One step behind the point of no return."""
    steps = (Step("commit", commits=True), Step("act", lambda _world, _plan, scratch: act(scratch)))
    operation = Operation("test", Slot.EXCLUSIVE, dict[str, str], lambda _plan: steps, ("commit", "act"), "commit")
    with runner.claim(About(VM), Slot.EXCLUSIVE, "test") as claim:
        claim.run(operation, {})


def be_away() -> None:
    raise Failed(ErrorCase.HOST_UNREACHABLE, "libvirt is away")


def test_what_has_gone_well_for_long_is_not_given_up_at_the_first_silence(runner: Runner) -> None:
    """A memory that took minutes to save must survive a restart of the daemon at its end."""
    attempts: list[float] = []

    def act(_scratch: Scratch) -> None:
        attempts.append(time.monotonic())
        if len(attempts) == 1:
            time.sleep(2 * PATIENCE_S)
            be_away()

    run(runner, act)
    assert len(attempts) == 2


def test_what_moves_between_two_silences_is_not_given_up(runner: Runner) -> None:
    attempts: list[float] = []

    def act(scratch: Scratch) -> None:
        attempts.append(time.monotonic())
        scratch.work.note(len(attempts), 100)
        if attempts[-1] - attempts[0] < 2 * PATIENCE_S:
            be_away()

    run(runner, act)
    assert len(attempts) > 2


def test_patience_ends(runner: Runner) -> None:
    attempts: list[float] = []

    def act(_scratch: Scratch) -> None:
        attempts.append(time.monotonic())
        be_away()

    with pytest.raises(StillframeError) as left:
        run(runner, act)
    assert left.value.case is ErrorCase.LEFT_BEHIND
    assert "libvirt is away" in left.value.desc
    assert len(attempts) > 1
