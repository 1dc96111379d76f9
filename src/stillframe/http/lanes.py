"""Fair shares of the threads: whoever asks much, or about what does not answer, waits in a queue of its own.

A thread that asks about a virtual machine that hangs is held until the call's limit is over. So no tenant gets more than a
part of the threads at a time, and no virtual machine more than a part of that: what comes on top waits without a thread, and
keeps nobody waiting but its own kind. An administrator's key is not one tenant: only its requests about one VM share a lane.

Lanes are told apart by who asks and by what was asked for, never by what there is: a full lane says nothing about others.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import anyio

from stillframe.domain.access import Principal
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.operations.requests import Caller, VmRef

# more than a key's burst at the default rate: who asks no faster than it may is not refused for it
WAITING_MAX = 256
_RETRY_AFTER_S = 1.0


@dataclass
class _Lane:
    limiter: anyio.CapacityLimiter
    inside: int = 0  # running or waiting


class Lanes:
    """Queues by key, each ``width`` wide. For the event loop alone. A lane that nobody is in takes no memory."""

    def __init__(self, width: int, *, waiting_max: int = WAITING_MAX) -> None:
        self._width = width
        self._waiting_max = waiting_max
        self._lanes: dict[Hashable, _Lane] = {}

    def __len__(self) -> int:
        """How many lanes have somebody in them."""
        return len(self._lanes)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return sum(lane.limiter.statistics().tasks_waiting for lane in self._lanes.values())

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Inside, it is one of at most ``width`` of this key; before, it waits for its turn, first come, first served.

        Raises:
            Refused: TOO_BUSY, with ``retry_after_s``: too many wait already.
        """
        lane = self._lanes.setdefault(key, _Lane(anyio.CapacityLimiter(self._width)))
        if lane.inside >= self._width + self._waiting_max:
            raise Refused(
                ErrorCase.TOO_BUSY, f"{self._waiting_max} such requests wait already", retry_after_s=_RETRY_AFTER_S
            )
        lane.inside += 1
        try:
            async with lane.limiter:
                yield
        finally:
            lane.inside -= 1
            if not lane.inside:
                del self._lanes[key]


class FairShare:
    """The lanes in front of one set of threads."""

    def __init__(self, *, of_tenant: int, of_vm: int) -> None:
        """How many threads one tenant, and one viewer's requests about one VM, may have at a time."""
        self._tenants = Lanes(of_tenant)
        self._vms = Lanes(of_vm)

    @property
    def waiting(self) -> int:
        """How many wait for their turn."""
        return self._vms.waiting + self._tenants.waiting

    @asynccontextmanager
    async def turn(self, arguments: tuple[object, ...]) -> AsyncIterator[None]:
        """The turn of a use case with these arguments: who asks, and about which VM, is read off them.

        The narrow lane comes first: who waits in it takes no place in the wide one.

        Raises:
            Refused: TOO_BUSY, see ``Lanes.turn``.
        """
        bound = next(_bounds(arguments), None)
        async with AsyncExitStack() as stack:
            for argument in arguments:
                if isinstance(argument, VmRef):
                    await stack.enter_async_context(self._vms.turn((bound, argument.compute_uuid)))
            if bound is not None:
                await stack.enter_async_context(self._tenants.turn(bound))
            yield


def _bounds(arguments: tuple[object, ...]) -> Iterator[str | None]:
    for argument in arguments:
        if isinstance(argument, Caller):
            yield argument.principal.bound
        elif isinstance(argument, Principal):
            yield argument.bound
