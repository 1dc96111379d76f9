"""The two clients: every call of ``Calls``, blocking or awaited."""

from __future__ import annotations

from stillframe.client import acting, administering, looking
from stillframe.client.drivers import AsyncDriver, SyncDriver
from stillframe.client.flow import method


class Calls:
    """Each raises ``ClientError``; ``errors`` says which. A virtual machine or snapshot is given by name or uuid."""

    vms = method(looking.vms)
    vm_uuid = method(looking.vm_uuid)
    inspect = method(looking.inspect)
    start = method(looking.start)
    shutdown = method(looking.shutdown)
    shutoff = method(looking.shutoff)
    assign = method(looking.assign)

    snapshots = method(looking.snapshots)
    snapshot = method(looking.snapshot)
    tree = method(looking.tree)
    head = method(looking.head)
    overview = method(looking.overview)
    consequences = method(looking.consequences)
    create = method(acting.create)
    await_memory = method(acting.await_memory)
    modify = method(acting.modify)
    rollback = method(acting.rollback)
    rollback_disks = method(acting.rollback_disks)
    delete = method(acting.delete)

    tasks = method(acting.tasks)
    task = method(acting.task)
    cancel = method(acting.cancel)
    wait = method(acting.wait)

    log = method(administering.log)
    create_key = method(administering.create_key)
    keys = method(administering.keys)
    revoke_key = method(administering.revoke_key)
    rotate_key = method(administering.rotate_key)
    rotate_links = method(administering.rotate_links)
    set_tenant = method(administering.set_tenant)
    tenants = method(administering.tenants)
    create_guest = method(administering.create_guest)
    delete_guest = method(administering.delete_guest)
    guest_console = method(administering.guest_console)
    doctor = method(administering.doctor)
    repair = method(administering.repair)
    version = method(administering.version)


class Client(SyncDriver, Calls):
    """Blocks. Not for several threads at once."""


class AsyncClient(AsyncDriver, Calls):
    """For asyncio: every call is awaited. ``on_progress`` is a plain function here, too."""
