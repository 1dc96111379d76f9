"""The tree as people see it, and what an act would cost, as frozen records: see ``models``."""

from __future__ import annotations

from stillframe.client.models import Record


class OverviewVm(Record):
    uuid: str
    name: str
    state: str
    action: str
    tenant: str
    disks: tuple[str, ...]


class OverviewMemory(Record):
    status: str
    progress: int  # per cent
    bytes: int
    reason: str


class OverviewSnapshot(Record):
    uuid: str
    name: str
    description: str
    ctime: int  # Unix seconds
    parent: str
    disk_bytes: int
    memory: OverviewMemory | None
    screenshot_url: str


class OverviewItem(Record):
    """What is drawn at one place; ``domain/layout.py`` says what the numbers mean."""

    key: str
    uuids: tuple[str, ...]
    parent: str
    depth: int
    lane: int
    order: int


class Now(Record):
    """The current state: what it descends from, since when (Unix seconds; 0: not known), and what was written since
    (None: it could not be measured).
    """

    head: str
    since: int
    changed_bytes: int | None


class Overview(Record):
    vm: OverviewVm
    now: Now
    snapshots: tuple[OverviewSnapshot, ...]
    items: tuple[OverviewItem, ...]
    lanes: int
    depth: int
    total_bytes: int


class RollbackConsequences(Now):
    stands_on: str


class Merge(Record):
    disk: str
    bytes: int


class DeleteConsequences(Record):
    allowed: bool
    message: str
    message_cn: str
    desc: str
    merges: tuple[Merge, ...]
    freed_bytes: int


class Consequences(Record):
    """What a rollback throws away, and what a deletion copies and frees."""

    rollback: RollbackConsequences
    delete: DeleteConsequences
