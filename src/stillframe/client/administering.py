"""What an administrator does: keys, tenants, doctor; the operation log; witness guests."""

from __future__ import annotations

from stillframe.client import endpoints, looking
from stillframe.client.asking import ask, pages
from stillframe.client.flow import Flow
from stillframe.client.models import (
    Console,
    DoctorReport,
    Key,
    KeyPage,
    LogLine,
    LogPage,
    NewGuest,
    NewKey,
    TenantPage,
    TenantUse,
    Version,
)


def version() -> Flow[Version]:
    """Of the service that answers."""
    return (yield from ask(endpoints.VERSION))


def doctor(*, deep: bool = False) -> Flow[DoctorReport]:
    """What does not agree; nothing is changed. ``deep``: memory files and the structure of layers are read as well."""
    return (yield from ask(endpoints.DOCTOR, deep=deep))


def repair(*, deep: bool = False) -> Flow[DoctorReport]:
    """Repair what has exactly one right answer; ``findings`` is what is left."""
    return (yield from ask(endpoints.REPAIR, deep=deep))


def log(
    *,
    vm: str = "",
    tenant: str = "",
    key_id: str = "",
    call: str = "",
    snapshot: str = "",
    operation_uuid: str = "",
    scode: int | None = None,
    failed: bool = False,
    since: int | None = None,
    until: int | None = None,
    limit: int | None = None,
) -> Flow[list[LogLine]]:
    """Who did or attempted what, newest first. ``since``, ``until``: ended then, Unix seconds."""
    uuid = (yield from looking.vm_uuid(vm)) if vm else ""

    def fetch(after: str, rows: int) -> Flow[LogPage]:
        return ask(
            endpoints.LIST_LOG,
            compute_uuid=uuid, tenant=tenant, key_id=key_id, call=call, snapshot=snapshot,
            operation_uuid=operation_uuid, scode=scode, failed=failed, since=since, until=until, after=after, limit=rows,
        )  # fmt: skip

    return (yield from pages(fetch, limit))


def create_key(role: str, *, tenant: str = "", description: str = "", expires_at: int | None = None) -> Flow[NewKey]:
    """A new key; its text is told this once."""
    return (
        yield from ask(endpoints.CREATE_KEY, role=role, tenant=tenant, description=description, expires_at=expires_at)
    )


def keys(*, tenant: str = "") -> Flow[list[Key]]:
    """Every key, newest first, also those that have stopped."""

    def fetch(after: str, rows: int) -> Flow[KeyPage]:
        return ask(endpoints.LIST_KEYS, tenant=tenant, after=after, limit=rows)

    return (yield from pages(fetch, None))


def revoke_key(key_id: str) -> Flow[None]:
    """Stop a key at once."""
    yield from ask(endpoints.REVOKE_KEY, key_id=key_id)


def rotate_key(key_id: str, *, grace_s: int = 0) -> Flow[NewKey]:
    """A key that takes an old one's place; the old one goes on for ``grace_s``."""
    return (yield from ask(endpoints.ROTATE_KEY, key_id=key_id, grace_s=grace_s))


def rotate_links() -> Flow[None]:
    """Stop every signed link."""
    yield from ask(endpoints.ROTATE_LINKS)


def set_tenant(
    tenant: str,
    *,
    memory_open: bool | None = None,
    memory_bytes: int | None = None,
    space_bytes: int | None = None,
    max_snapshots: int | None = None,
) -> Flow[None]:
    """Say what a tenant may use. Replaces all that was said before: what is None falls back to the default."""
    yield from ask(
        endpoints.SET_TENANT,
        tenant=tenant, memory_open=memory_open, memory_bytes=memory_bytes, space_bytes=space_bytes,
        max_snapshots=max_snapshots,
    )  # fmt: skip


def tenants(*, tenant: str = "") -> Flow[list[TenantUse]]:
    """What tenants use and may use, by name."""

    def fetch(after: str, rows: int) -> Flow[TenantPage]:
        return ask(endpoints.TENANT_USAGE, tenant=tenant, after=after, limit=rows)

    return (yield from pages(fetch, None))


def create_guest(
    name: str, *, memory_mib: int | None = None, fill_mib: int | None = None, disks: int | None = None
) -> Flow[NewGuest]:
    """Define and start a witness guest."""
    sizes = {"memory_mib": memory_mib, "fill_mib": fill_mib, "disks": disks}
    return (yield from ask(endpoints.CREATE_GUEST, name=name, **sizes))


def delete_guest(name: str) -> Flow[None]:
    """Remove a witness guest with its disks and snapshots."""
    yield from ask(endpoints.DELETE_GUEST, name=name)


def guest_console(name: str) -> Flow[Console]:
    """The file on the service's host that the guest's console is written to."""
    return (yield from ask(endpoints.GUEST_CONSOLE, name=name))
