"""Every call of the service as one blocking method; the HTTP door runs them in worker threads.

All raise ``StillframeError`` (domain/errors.py) and nothing else on purpose. ``caller`` goes to the operation log.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stillframe.domain import rules
from stillframe.domain.access import Principal
from stillframe.domain.errors import ErrorCase, Refused, StillframeError
from stillframe.domain.quota import TenantLimits
from stillframe.domain.snapshot import Snapshot
from stillframe.domain.vm import Vm
from stillframe.operations import (
    create,
    delete,
    forget,
    keys,
    links,
    quotas,
    rollback,
    rollback_volumes,
    sessions,
    tasks,
)
from stillframe.operations.disks import check_startable, place_disks
from stillframe.operations.doctor import Doctor, Report
from stillframe.operations.keys import KeyPage, KeySpec, NewKey
from stillframe.operations.log import Attempt, LogPage, LogQuery, begin_line, list_log, logged, write_begun_lines
from stillframe.operations.looking import Looking, nfc
from stillframe.operations.mending import Mender
from stillframe.operations.quotas import TenantPage
from stillframe.operations.recovery import Recovery
from stillframe.operations.refusals import Refusals, RefusedCall
from stillframe.operations.repair import Repairs
from stillframe.operations.requests import Caller, Cluster, DiskRef, GuestSpec, VmRef
from stillframe.operations.rows import About, ended_row
from stillframe.operations.runner import Claim, Runner
from stillframe.operations.sessions import NewSession
from stillframe.operations.tasks import Task, TaskPage, TaskQuery
from stillframe.operations.world import World
from stillframe.ports.metadata import OperationRow, Slot

_POWER = "power"


class UseCases(Looking):
    """One instance per service; safe from many threads."""

    def __init__(self, world: World, cluster: Cluster) -> None:
        super().__init__(world, cluster)
        self._runner = Runner(world)
        self.recovery = Recovery(self._runner)
        self.mender = Mender(self._runner, self.recovery)
        self._doctor = Doctor(world, cluster)
        self.refusals = Refusals(world)
        self._repairs = Repairs(self._runner, self.recovery, self._doctor, cluster)

    @property
    def is_working(self) -> bool:
        """Some operation is being driven at this moment; cut off, it is taken up at the next start."""
        return self._runner.is_working

    # --- the five that change snapshots ------------------------------------------------------------------------

    def create(self, ref: VmRef, name: str, description: str, domain_memory: bool, caller: Caller) -> Snapshot:
        """Returns as soon as the point in time is fixed and published; memory goes on being saved behind it."""
        with self._attempt(caller, "create", ref, name) as attempt:
            final_name = rules.normalise_name(name)
            rules.check_description(description)
            vm = self._vm(ref, caller.principal, attempt)
            with self._claim(vm, create.KIND, attempt) as claim:
                vm = self._vm(ref, caller.principal, attempt)
                plan = create.plan_create(
                    self.world,
                    self.cluster,
                    vm,
                    final_name,
                    description,
                    domain_memory=domain_memory,
                    operation_uuid=claim.row.uuid,
                )
                told = claim.run(create.OPERATION, plan, plan.demand)
            if told["saving"] is not None:
                row: OperationRow = told["saving"][0]
                self.recovery.continue_in_background(row)
            snapshot: Snapshot = told["snapshot"]
            return snapshot

    def modify(self, ref: VmRef, name: str, description: str, caller: Caller) -> None:
        with self._attempt(caller, "modify", ref, name) as attempt:
            rules.check_description(description)
            vm = self._vm(ref, caller.principal, attempt)
            row = ended_row(self.world, About(vm.uuid, vm.name, vm.tenant, name), "modify")
            with self.world.metadata.write() as tx:
                snapshot = rollback.check_known(tx.snapshots.by_name(vm.uuid, nfc(name)), vm, name)
                tx.snapshots.set_description(snapshot.uuid, description)
                tx.journal.open(row)
            attempt.began(row.uuid)

    def rollback(self, ref: VmRef, name: str, domain_memory: bool, caller: Caller) -> Snapshot:
        with self._attempt(caller, "rollback", ref, name) as attempt:
            vm = self._vm(ref, caller.principal, attempt)
            with self._claim(vm, rollback.KIND, attempt) as claim:
                vm = self._vm(ref, caller.principal, attempt)
                snapshot = self._snapshot(vm, name)
                plan = rollback.plan_rollback(self.world, self.cluster, vm, snapshot, domain_memory=domain_memory)
                told = claim.run(rollback.OPERATION, plan)
            if "refusal" in told:
                refusal: StillframeError = told["refusal"]
                raise refusal
            return snapshot

    def rollback_volumes(self, ref: VmRef, entries: list[DiskRef], caller: Caller) -> list[DiskRef | StillframeError]:
        """Each entry by itself, in order; a bad one fails alone, and so does a second one for the same volume.

        Raises:
            Refused: for what concerns them all: the VM unknown, or not shut off.
        """
        with self._attempt(caller, rollback_volumes.KIND, ref, "", only_refused=True) as attempt:
            vm = self._vm(ref, caller.principal, attempt)
            rollback_volumes.check_shut_off(vm)
        results: list[DiskRef | StillframeError] = []
        named: set[str] = set()
        for entry in entries:
            result = self._rollback_volume(ref, entry, entry.VolumeUuid in named, caller)
            results.append(result)
            if not isinstance(result, StillframeError):
                named.add(entry.VolumeUuid)
        return results

    def _rollback_volume(self, ref: VmRef, entry: DiskRef, repeated: bool, caller: Caller) -> DiskRef | StillframeError:
        try:
            with self._attempt(caller, rollback_volumes.KIND, ref, entry.SnapshotUuid) as attempt:
                vm = self._vm(ref, caller.principal, attempt)
                if repeated:
                    raise Refused(ErrorCase.VOLUME_REPEATED, f"volume {entry.VolumeUuid} of {vm.described}")
                with self._claim(vm, rollback_volumes.KIND, attempt) as claim:
                    vm = self._vm(ref, caller.principal, attempt)
                    plan = rollback_volumes.plan_volume(self.world, self.cluster, vm, entry)
                    claim.run(rollback_volumes.OPERATION, plan)
        except StillframeError as error:
            return error
        return entry

    def delete(self, ref: VmRef, name: str, caller: Caller) -> None:
        with self._attempt(caller, "delete", ref, name) as attempt:
            vm = self._vm(ref, caller.principal, attempt)
            with self._claim(vm, delete.KIND, attempt) as claim:
                vm = self._vm(ref, caller.principal, attempt)
                snapshot = self._snapshot(vm, name)
                claim.run(delete.OPERATION, delete.plan_delete(self.world, self.cluster, vm, snapshot))

    # --- power -------------------------------------------------------------------------------------------------

    def start(self, ref: VmRef, caller: Caller) -> None:
        with self._power(caller, "start", ref, settle=True) as vm:  # what is left may decide on which disks
            if vm.state.has_process:
                raise Refused(ErrorCase.VM_STARTED_ALREADY, f"{vm.described} is {vm.state.value}")
            self._check_on_heads(vm)
            check_startable(self.world, vm)
            self.world.power.start(vm.uuid)

    def shutdown(self, ref: VmRef, caller: Caller) -> None:
        with self._power(caller, "shutdown", ref) as vm:
            _check_running(vm)
            self.world.power.request_shutdown(vm.uuid)

    def shutoff(self, ref: VmRef, caller: Caller) -> None:
        with self._power(caller, "shutoff", ref) as vm:
            if not vm.state.has_process:
                raise Refused(ErrorCase.VM_NOT_RUNNING, f"{vm.described} is {vm.state.value}")
            self.world.power.ensure_off(vm.uuid)

    def _check_on_heads(self, vm: Vm) -> None:
        """A guest on a frozen layer would write into a snapshot.

        Raises:
            Refused: DISK_DRIFTED.
        """
        with self.world.metadata.read() as tx:
            volumes, layers = tx.layers.volumes(vm.uuid), tx.layers.layers(vm.uuid)
        place_disks(vm, self.cluster.uuid, volumes, layers)

    @contextmanager
    def _power(self, caller: Caller, call: str, ref: VmRef, *, settle: bool = False) -> Iterator[Vm]:
        """The VM, with its slot held for the moment: power calls wait for nothing and disturb nothing."""
        with self._attempt(caller, call, ref, "") as attempt:
            vm = self._vm(ref, caller.principal, attempt)
            with self._claim(vm, _POWER, attempt, settle=settle):
                with self.world.metadata.read() as tx:
                    snapshots = tx.snapshots.of_vm(vm.uuid)
                rules.check_nothing_saving(vm, snapshots)
                yield self._vm(ref, caller.principal, attempt)

    # --- Stillframe's own --------------------------------------------------------------------------------------

    def assign_vm(self, ref: VmRef, tenant: str, tenant_name: str, namespace: str, caller: Caller) -> None:
        with self._attempt(caller, "assign", ref, "") as attempt:
            vm = self._vm(ref, caller.principal, attempt)
            with self._claim(vm, "assign", attempt):  # what is left is the tenant's of now, to its end
                with self.world.metadata.read() as tx:
                    # what is being saved is reserved in the budget of the tenant that it is of now
                    rules.check_nothing_saving(vm, tx.snapshots.of_vm(vm.uuid))
                self.world.inventory.assign(vm.uuid, tenant, tenant_name, namespace)
                quotas.note_owner(self.world, self.world.inventory.get_vm(vm.uuid))

    def create_guest(self, spec: GuestSpec, caller: Caller) -> str:
        with logged(self.world, Attempt(caller, "guest create", vm_name=spec.name)) as attempt:
            attempt.vm_uuid = self.world.guests.create(spec)
            self._note_ended(attempt, "guest_create")
            return attempt.vm_uuid

    def delete_guest(self, name: str, caller: Caller) -> None:
        with logged(self.world, Attempt(caller, "guest delete", vm_name=name)) as attempt:
            vm = self.world.inventory.get_vm(self.world.guests.uuid_of(name))
            attempt.vm_uuid = vm.uuid
            with self._claim(vm, forget.KIND, attempt, settle=False) as claim:
                with self.world.metadata.read() as tx:
                    rules.check_nothing_saving(vm, tx.snapshots.of_vm(vm.uuid))
                claim.run(forget.OPERATION, forget.plan_forget(self.world, vm.uuid, name))
            self.recovery.forget_left(vm.uuid)

    def guest_console(self, name: str) -> str:
        return self.world.guests.console_path(name)

    def doctor(self, deep: bool) -> Report:
        return self._doctor.look(deep=deep)

    def repair(self, deep: bool, caller: Caller) -> Report:
        with logged(self.world, Attempt(caller, "doctor repair")) as attempt:
            return self._repairs.repair(deep=deep, began=lambda uuid: self._began(attempt, uuid))

    # --- keys ----------------------------------------------------------------------------------------------------

    def ensure_secrets(self, hand_over: Callable[[str], None]) -> None:
        """There is a secret for links, and an administrator's key that works: else one is made and handed over."""
        links.ensure_secret(self.world)
        keys.ensure_administrator(self.world, hand_over)

    def authenticate(self, text: str) -> Principal:
        return keys.authenticate(self.world, text)

    def open_session(self, key_text: str, address: str) -> NewSession:
        """What is refused is the door's to log: nobody is known then."""
        session = sessions.open_session(self.world, key_text)
        with logged(self.world, Attempt(Caller(session.principal, address), "session open")):
            return session

    def resume_session(self, token: str) -> Principal:
        return sessions.resume(self.world, token)

    def end_session(self, token: str, caller: Caller) -> None:
        with logged(self.world, Attempt(caller, "session end")):
            sessions.end(self.world, token)

    def create_key(self, spec: KeySpec, caller: Caller) -> NewKey:
        with logged(self.world, Attempt(caller, "key create", tenant=spec.tenant)) as attempt:
            new = keys.create_key(self.world, spec, caller.who)
            attempt.about = f"key {new.row.key_id}, {new.row.role.value}"
            return new

    def list_keys(self, tenant: str, after: str, limit: int) -> KeyPage:
        return keys.list_keys(self.world, tenant, after, limit)

    def revoke_key(self, key_id: str, caller: Caller) -> None:
        with logged(self.world, Attempt(caller, "key revoke", about=f"key {key_id}")) as attempt:
            attempt.tenant = keys.revoke_key(self.world, key_id).tenant

    def rotate_key(self, key_id: str, grace_s: int, caller: Caller) -> NewKey:
        with logged(self.world, Attempt(caller, "key rotate", about=f"key {key_id}")) as attempt:
            new = keys.rotate_key(self.world, key_id, grace_s, caller.who)
            attempt.tenant = new.row.tenant
            attempt.about = f"key {new.row.key_id} for key {key_id}"
            return new

    def rotate_links(self, caller: Caller) -> None:
        with logged(self.world, Attempt(caller, "links rotate")):
            links.draw_secret(self.world)

    # --- tenants -------------------------------------------------------------------------------------------------

    def set_tenant(self, limits: TenantLimits, caller: Caller) -> None:
        with logged(self.world, Attempt(caller, "tenant set", tenant=limits.tenant)), self.world.metadata.write() as tx:
            tx.quotas.set_limits(limits)

    def tenant_use(self, tenant: str, after: str, limit: int, viewer: Principal) -> TenantPage:
        """The tenant's, or with "" that of those that the viewer sees, by name, from behind ``after`` on."""
        if viewer.bound is not None and tenant not in ("", viewer.bound):
            return TenantPage((), "")
        return quotas.use_of(self.world, tenant or viewer.bound or "", after, limit)

    def measure(self) -> None:
        """Rows that do not say what their files occupy, or whose they are by now, get to know it."""
        quotas.measure_unmeasured(self.world)
        quotas.align_tenants(self.world)

    # --- the operation log ---------------------------------------------------------------------------------------

    def list_log(self, query: LogQuery, viewer: Principal) -> LogPage:
        self._check_cluster(query.cluster_uuid)
        return list_log(self.world, query, viewer)

    def write_begun_lines(self) -> None:
        """Calls that the service's end cut off get their lines. At the start, before any new one."""
        write_begun_lines(self.world)

    def note_refusal(self, refused: RefusedCall) -> None:
        """A call that was refused at the door has its line, or is counted in one."""
        self.refusals.note(refused)

    # --- tasks: the operations, as those who wait for them see them ---------------------------------------------

    def list_tasks(self, query: TaskQuery, viewer: Principal) -> TaskPage:
        self._check_cluster(query.cluster_uuid)
        return tasks.list_tasks(self.world, query, viewer)

    def get_task(self, cluster_uuid: str, task_uuid: str, viewer: Principal) -> Task:
        self._check_cluster(cluster_uuid)
        return tasks.get_task(self.world, task_uuid, viewer)

    def cancel_task(self, cluster_uuid: str, task_uuid: str, caller: Caller) -> Task:
        """Returns when the wish is noted; the undo goes on behind it."""
        with logged(self.world, Attempt(caller, "cancel")) as attempt:
            self._check_cluster(cluster_uuid)
            task = tasks.cancel_task(self._runner, task_uuid, caller.principal)
            attempt.vm_uuid, attempt.vm_name, attempt.tenant = task.compute_uuid, task.compute_name, task.tenant
            attempt.snapshot = task.snapshot
            attempt.began(task.uuid)
            return task

    # --- shared ------------------------------------------------------------------------------------------------

    def _note_ended(self, attempt: Attempt, kind: str) -> None:
        """What held no slot and has been done is in the journal like every other operation."""
        row = ended_row(self.world, About(attempt.vm_uuid, attempt.vm_name, attempt.tenant), kind)
        with self.world.metadata.write() as tx:
            tx.journal.open(row)
        attempt.began(row.uuid)

    @contextmanager
    def _attempt(
        self, caller: Caller, call: str, ref: VmRef, snapshot: str, *, only_refused: bool = False
    ) -> Iterator[Attempt]:
        attempt = Attempt(caller, call, vm_uuid=ref.compute_uuid, snapshot=snapshot)
        with logged(self.world, attempt, only_refused=only_refused):
            yield attempt

    def _began(self, attempt: Attempt, operation_uuid: str) -> None:
        """It is in the journal, and who asked for it in the log."""
        attempt.began(operation_uuid)
        begin_line(self.world, attempt)

    @contextmanager
    def _claim(self, vm: Vm, kind: str, attempt: Attempt, *, settle: bool = True) -> Iterator[Claim]:
        about = About(vm.uuid, vm.name, vm.tenant, attempt.snapshot)
        with self._runner.claim(about, Slot.EXCLUSIVE, kind) as claim:
            self._began(attempt, claim.row.uuid)
            if settle:
                self.recovery.settle(vm.uuid)
            yield claim


def _check_running(vm: Vm) -> None:
    if not vm.state.is_running:
        raise Refused(ErrorCase.VM_NOT_RUNNING, f"{vm.described} is {vm.state.value}")
