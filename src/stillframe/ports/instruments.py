"""What is told to figures and traces, and what they show: the words between operations and who counts them.

Whoever is told must come back at once: no I/O, no lock that is held for long. Between a guest's stop and its resume nobody is
told anything; the pause is told when the guest runs again. Durations are seconds, sizes bytes.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True)
class Begun:
    """An operation as it begins, or is taken up again."""

    operation_uuid: str
    kind: str
    vm_uuid: str


class Instruments(Protocol):
    """Told of operations, by their uuids.

    What is said of one that has not begun, or has ended, is to be ignored: an outcome may be said twice.
    """

    def began(self, operation: Begun) -> None:
        """It holds its slot. Repeatable while it is under way."""
        ...

    def step_began(self, operation_uuid: str, step: str) -> None:
        """``step`` is its family (``Step.family``); an undo's is "undo: " and the step's."""
        ...

    def step_ended(self, operation_uuid: str, *, failed: bool) -> None:
        """``failed``: it raised. The step that began last is the one that ends."""
        ...

    def ended(self, operation_uuid: str, outcome: str) -> None:
        """``outcome``: done, refused, undone or left."""
        ...

    def guest_paused(self, operation_uuid: str, mode: str, pause_s: float) -> None:
        """A guest stood still for a snapshot with memory, by this way of capturing it, and runs again."""
        ...

    def memory_saved(self, size_bytes: int) -> None:
        """A memory state of this size on disk is finished."""
        ...

    def merged(self, size_bytes: int) -> None:
        """So much was copied from a layer into the one below."""
        ...


class RequestMeter(Protocol):
    """Told of requests."""

    def request_began(self) -> None: ...

    def request_ended(self, call: str, status: int, scode: int, wait_s: float) -> None:
        """``call`` is one of a bounded set of names. ``status`` 0: its client has left without an answer. ``wait_s``: until
        the answer began.
        """
        ...


@dataclass(frozen=True)
class TenantFigures:
    """What a tenant uses. ``memory_budget_bytes``: None is no limit."""

    tenant: str
    space_bytes: int
    space_budget_bytes: int
    memory_bytes: int
    memory_budget_bytes: int | None
    snapshots: int


@dataclass(frozen=True)
class DatabaseFigures:
    """What the database says. By kind: ``active`` hold a slot, ``left`` are unfinished. ``tenants`` uses most first."""

    active: Mapping[str, int]
    left: Mapping[str, int]
    tenants: tuple[TenantFigures, ...]


@dataclass(frozen=True)
class Standing:
    """How things stand, as far as it could be found out in time. ``database`` None: it gave no answer."""

    database: DatabaseFigures | None
    host_answers: bool


@dataclass(frozen=True)
class Pool:
    """Threads for one kind of calls: how many are at work, and how many calls wait for one."""

    busy: int
    waiting: int


@dataclass(frozen=True)
class Traffic:
    """What the server has to do with. ``connections`` None: nobody counts them."""

    connections: int | None = None
    pools: Mapping[str, Pool] = field(default_factory=dict)


class Unheard:
    """``Instruments`` and ``RequestMeter`` where nobody listens."""

    def began(self, operation: Begun) -> None: ...

    def step_began(self, operation_uuid: str, step: str) -> None: ...

    def step_ended(self, operation_uuid: str, *, failed: bool) -> None: ...

    def ended(self, operation_uuid: str, outcome: str) -> None: ...

    def guest_paused(self, operation_uuid: str, mode: str, pause_s: float) -> None: ...

    def memory_saved(self, size_bytes: int) -> None: ...

    def merged(self, size_bytes: int) -> None: ...

    def request_began(self) -> None: ...

    def request_ended(self, call: str, status: int, scode: int, wait_s: float) -> None: ...
