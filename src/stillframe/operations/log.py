"""The operation log: one line for every mutating call, also for a refused one."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from stillframe.domain.errors import ErrorCase, StillframeError
from stillframe.operations.requests import Caller
from stillframe.operations.world import World
from stillframe.ports.metadata import LogLine

log = logging.getLogger(__name__)
_DESC_MAX_CHARS = 1000


@dataclass
class Attempt:
    """One mutating call; what becomes known on the way is filled in."""

    caller: Caller
    call: str
    vm_uuid: str = ""
    vm_name: str = ""
    tenant: str = ""
    snapshot: str = ""
    operation_uuid: str = ""

    def began(self, operation_uuid: str) -> None:
        """The call is this operation; it is in the journal."""
        self.operation_uuid = operation_uuid
        self.caller.hears(operation_uuid)


@contextmanager
def logged(world: World, attempt: Attempt) -> Iterator[Attempt]:
    """Write the line when the call ends, well or badly."""
    begun = time.monotonic()
    scode, desc = 0, ""
    try:
        yield attempt
    except StillframeError as error:
        scode, desc = error.case.code, error.desc
        raise
    except BaseException as error:
        scode, desc = ErrorCase.INTERNAL.code, type(error).__name__
        raise
    finally:
        _append(world, attempt, scode, desc, int((time.monotonic() - begun) * 1000))


def _append(world: World, attempt: Attempt, scode: int, desc: str, duration_ms: int) -> None:
    line = LogLine(
        at=int(world.now_s()),
        who=attempt.caller.who,
        address=attempt.caller.address,
        tenant=attempt.tenant,
        call=attempt.call,
        vm_uuid=attempt.vm_uuid,
        vm_name=attempt.vm_name,
        mark=attempt.caller.mark,
        snapshot=attempt.snapshot,
        scode=scode,
        desc=desc[:_DESC_MAX_CHARS],
        duration_ms=duration_ms,
        operation_uuid=attempt.operation_uuid,
    )
    try:
        with world.metadata.write() as tx:
            tx.log.append(line)
    except StillframeError:
        # the call's own outcome stands; the line goes to the service's log instead
        log.exception("the operation log could not be written: %s", line)
