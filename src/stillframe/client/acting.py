"""Taking, rolling back, editing and deleting snapshots, and waiting for what goes on behind a call."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from stillframe.client import endpoints, looking
from stillframe.client.asking import PATIENCE_S, Answer, answer_of, ask, exchange, pages, read, throttled_s
from stillframe.client.endpoints import Request
from stillframe.client.errors import ApiError, ClientError, MemoryNotSavedError, NotFoundError, StillGoingOnError
from stillframe.client.flow import Await, Begin, Flow, Received, Sleep
from stillframe.client.models import SAVING, Batch, DiskSnapshot, Record, Snapshot, Task, TaskPage

POLL_S = 0.5
SAVE_MEMORY = "save_memory"
_NEWEST = 20  # more than can be under way on one virtual machine

OnProgress = Callable[[Task], None]
T = TypeVar("T", bound=Record)


def create(
    vm: str,
    name: str,
    *,
    description: str = "",
    memory: bool = False,
    wait: bool = False,
    on_progress: OnProgress | None = None,
    timeout_s: float | None = None,
) -> Flow[Snapshot]:
    """Take a snapshot, with ``memory`` of the running memory too.

    Returns when the moment is fixed and the guest runs on, with ``wait`` when the memory is saved as well: until then the
    snapshot cannot be rolled back to. ``on_progress`` is called with the task now and then; ``timeout_s`` bounds the wait
    for memory alone.

    Raises:
        MemoryNotSavedError: the snapshot is there, of the disks alone.
        StillGoingOnError: ``timeout_s`` is over; memory is being saved on.
    """
    where = yield from looking.located(vm)
    request = endpoints.CREATE.request({**where, "name": name, "description": description, "domain_memory": memory})
    yield from _watched(request, where["compute_uuid"], ("create", name), on_progress)
    if not (memory and wait):
        return (yield from looking.snapshot(where["compute_uuid"], name))
    return (yield from await_memory(where["compute_uuid"], name, on_progress=on_progress, timeout_s=timeout_s))


def await_memory(
    vm: str, name: str, *, on_progress: OnProgress | None = None, timeout_s: float | None = None
) -> Flow[Snapshot]:
    """The snapshot, when its memory is saved; at once when it has none.

    Raises:
        MemoryNotSavedError: it could not be, or somebody has cancelled it.
        StillGoingOnError: ``timeout_s`` is over.
    """
    uuid = yield from looking.vm_uuid(vm)
    give_up_at = _deadline(timeout_s)
    seen: Task | None = None
    while True:
        taken = yield from looking.snapshot(uuid, name)
        if taken.memory_status not in SAVING:
            break
        seen = (yield from _under_way(uuid, (SAVE_MEMORY, taken.name))) or seen
        if seen is not None:
            if on_progress is not None:
                on_progress(seen)
            if time.monotonic() >= give_up_at:
                raise StillGoingOnError(seen)
        yield Sleep(POLL_S)
    if seen is not None and on_progress is not None:
        yield from _tell_end(seen, on_progress)
    if taken.memory_status == "failed":
        raise MemoryNotSavedError(taken.name, (taken.attr or {}).get("reason", ""))
    return taken


def modify(vm: str, snapshot: str, description: str) -> Flow[None]:
    """Change a snapshot's description; "" clears it."""
    where = yield from looking.named(vm, snapshot)
    yield from ask(endpoints.MODIFY, **where, description=description)


def rollback(vm: str, snapshot: str, *, memory: bool = False, on_progress: OnProgress | None = None) -> Flow[Snapshot]:
    """Bring disks and configuration back, with ``memory`` also the running memory; without it the machine ends shut off.

    No snapshot is lost. What changed since the last one is.
    """
    where = yield from looking.named(vm, snapshot)
    request = endpoints.ROLLBACK.request({**where, "domain_memory": memory})
    answer = yield from _watched(request, where["compute_uuid"], ("rollback", where["name"]), on_progress)
    return read(endpoints.ROLLBACK, answer)


def delete(vm: str, snapshot: str, *, on_progress: OnProgress | None = None) -> Flow[None]:
    """Delete a snapshot that has at most one child; its data is merged with what stands on it."""
    where = yield from looking.named(vm, snapshot)
    request = endpoints.DELETE.request(where)
    yield from _watched(request, where["compute_uuid"], ("delete", where["name"]), on_progress)


def rollback_disks(vm: str, snapshot: str, disks: Sequence[str]) -> Flow[Batch]:
    """Bring single disks (``vda``, or their volumes' uuids) of a shut-off machine back, each with its own outcome.

    Raises:
        NotFoundError: the snapshot has no such disk; nothing was done.
    """
    where = yield from looking.located(vm)
    taken = yield from looking.snapshot(where["compute_uuid"], snapshot)
    entries = [disk_of(taken, disk).as_json() for disk in disks]
    return (yield from ask(endpoints.ROLLBACK_DISKS, **where, disk_snapshot_list=entries))


def disk_of(taken: Snapshot, disk: str) -> DiskSnapshot:
    """Raises: NotFoundError: the snapshot has no such disk."""
    for one in taken.disk_snapshot_list:
        if disk in (one.disk, one.volume_uuid):
            return one
    there = ", ".join(one.disk for one in taken.disk_snapshot_list)
    raise NotFoundError(
        f'stillframe: the snapshot "{taken.name}" has no disk "{disk}"; it has {there}',
        f"stillframe：快照“{taken.name}”没有磁盘“{disk}”；它有 {there}",
    )


def tasks(
    *,
    vm: str = "",
    state: str = "",
    tenant: str = "",
    since: int | None = None,
    until: int | None = None,
    limit: int | None = None,
) -> Flow[list[Task]]:
    """Operations, newest first. ``since``, ``until``: begun then, Unix seconds. ``limit``: the most; None: all."""
    uuid = (yield from looking.vm_uuid(vm)) if vm else ""

    def fetch(after: str, rows: int) -> Flow[TaskPage]:
        return ask(
            endpoints.LIST_TASKS,
            compute_uuid=uuid, state=state, tenant=tenant, since=since, until=until, after=after, limit=rows,
        )  # fmt: skip

    return (yield from pages(fetch, limit))


def task(uuid: str) -> Flow[Task]:
    """One operation: ``X-Operation-Id`` of the call that began it."""
    return (yield from ask(endpoints.GET_TASK, uuid=uuid))


def cancel(uuid: str) -> Flow[Task]:
    """Let an operation be undone that has not passed its point of no return; returns at once."""
    return (yield from ask(endpoints.CANCEL_TASK, uuid=uuid))


def wait(uuid: str, *, on_progress: OnProgress | None = None, timeout_s: float | None = None) -> Flow[Task]:
    """The task when it has ended: ``done``, ``refused``, ``undone``, or ``left``, which the service tries again.

    Raises:
        StillGoingOnError: ``timeout_s`` is over; the task goes on.
    """
    give_up_at = _deadline(timeout_s)
    while True:
        now = yield from task(uuid)
        if on_progress is not None:
            on_progress(now)
        if now.has_ended:
            return now
        if time.monotonic() >= give_up_at:
            raise StillGoingOnError(now)
        yield Sleep(POLL_S)


def _deadline(timeout_s: float | None) -> float:
    return float("inf") if timeout_s is None else time.monotonic() + timeout_s


def _under_way(vm: str, what: tuple[str, str]) -> Flow[Task | None]:
    """The newest task of this kind on this snapshot that has not ended."""
    rows = yield from tasks(vm=vm, limit=_NEWEST)
    return next((row for row in rows if (row.kind, row.snapshot) == what and not row.has_ended), None)


def _watched(request: Request, vm: str, what: tuple[str, str], on_progress: OnProgress | None) -> Flow[Answer]:
    """``exchange`` of a call that changes something, telling meanwhile how far it is.

    Which task it is the call says only when it ends: until then it is the one that does this to this snapshot.
    """
    if on_progress is None:
        return (yield from exchange(request))
    patience_s = PATIENCE_S
    seen: Task | None = None
    while True:
        begun = yield Begin(request)
        while True:
            received: Received | None = yield Await(begun, POLL_S)
            if received is not None:
                break
            seen = (yield from _tell(vm, what, on_progress)) or seen
        try:
            answer = answer_of(received)
            if seen is not None:
                yield from _tell_end(seen, on_progress)
            return answer
        except ApiError as error:
            pause_s = throttled_s(error, patience_s)
            if pause_s is None:
                raise
            patience_s -= pause_s
            yield Sleep(pause_s)


def _tell(vm: str, what: tuple[str, str], on_progress: OnProgress) -> Flow[Task | None]:
    try:
        now = yield from _under_way(vm, what)
    except ClientError:
        return None  # the call itself says what is wrong, if it is
    if now is not None:
        on_progress(now)
    return now


def _tell_end(seen: Task, on_progress: OnProgress) -> Flow[None]:
    """The last of what was told is how it ended."""
    try:
        on_progress((yield from task(seen.uuid)))
    except ClientError:
        return  # what was asked for is done, and that is known
