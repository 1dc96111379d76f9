"""A virtual machine whose QEMU stands still: its own tenant is told so, and nobody else feels or learns of it.

The QEMU is stopped by SIGSTOP: it takes what libvirt asks it and answers nothing. A guest that keeps its QEMU from its main
loop does the same.
"""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any

import libvirt
import pytest

from stillframe.adapters.libvirt.connection import Connection
from stillframe.adapters.libvirt.inventory import LibvirtInventory
from stillframe.domain.errors import ErrorCase, StillframeError
from support.lab import make_vm, virsh
from support.private_libvirtd import PrivateLibvirtd
from support.service import SNAPSHOT, Service, Vm, eventually

pytestmark = pytest.mark.guest

NOWHERE = "00000000-1111-4222-8333-444444444444"
INSPECT, LIST, TREE = "/v1/compute/inspect", "/v1/compute/list", f"{SNAPSHOT}/tree"
LOOKS = 40
LIMIT_S = 1.0
# max_workers of libvirtd.conf, with some to wait in front of them
WORKERS, MORE = 20, 10


@dataclass
class Bench:
    """``hung``'s QEMU can be stopped; it and ``own`` are tenant a's, ``other`` is tenant b's, and off like ``own``."""

    daemon: PrivateLibvirtd
    service: Service
    hung: Vm
    own: Vm
    other: Vm
    keys: dict[str, str]

    def get(self, who: str, path: str, vm_uuid: str = "") -> dict[str, Any]:
        params = {"cluster_uuid": "", **({"compute_uuid": vm_uuid} if vm_uuid else {})}
        answer: dict[str, Any] = self.service.raw("GET", path, params=params, headers={"ApiKey": self.keys[who]})
        return answer

    def post(self, who: str, path: str, vm_uuid: str, **body: Any) -> dict[str, Any]:
        json = {"cluster_uuid": "", "compute_uuid": vm_uuid, **body}
        answer: dict[str, Any] = self.service.raw("POST", path, json=json, headers={"ApiKey": self.keys[who]})
        return answer

    def listed(self, who: str) -> dict[str, str]:
        """Name -> state of what this key's list shows."""
        answer = self.get(who, LIST)
        assert answer["scode"] == 0, answer
        return {row["name"]: row["state"] for row in answer["data"]["domains"]}

    def hides_it_from_b(self) -> None:
        """The machine that hangs is answered to another tenant's key like one that there is not."""
        for path in (TREE, INSPECT):
            told = [self.get("b", path, uuid) for uuid in (self.hung.uuid, NOWHERE)]
            assert said(told[0], self.hung.uuid) == said(told[1], NOWHERE)
            assert told[0]["scode"] == ErrorCase.VM_UNKNOWN.code

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Inside, the QEMU stands still."""
        os.kill(self._qemu_pid(), signal.SIGSTOP)
        try:
            yield
        finally:
            self.go_on()

    def go_on(self) -> None:
        os.kill(self._qemu_pid(), signal.SIGCONT)

    def _qemu_pid(self) -> int:
        return int((self.daemon.directory / "run" / "qemu" / f"{self.hung.name}.pid").read_text())

    def owes_an_answer(self) -> None:
        """Return when libvirt waits for the QEMU."""

        def is_occupied() -> bool:
            return virsh(self.daemon, "domcontrol", self.hung.name).startswith("occupied")

        eventually(is_occupied, "libvirt waits for it")


def said(answer: dict[str, Any], vm_uuid: str) -> dict[str, Any]:
    return {**answer, "desc": answer["desc"].replace(vm_uuid, "…")}


@pytest.fixture(scope="module")
def bench() -> Iterator[Bench]:
    with PrivateLibvirtd() as daemon:
        service = Service(daemon.uri, call_timeout_s="60")
        try:
            hung, own, other = (make_vm(daemon, service, name, disks=1, size="1M") for name in ("hung", "own", "other"))
            service.start()
            for vm, tenant in ((hung, "a"), (own, "a"), (other, "b")):
                vm.post("/v1/stillframe/vm/assign", tenant=tenant)
            hung.start()
            keys = {"administrator": (service.state / "admin.key").read_text().strip()}
            for who, role, tenant in (("a", "operator", "a"), ("a's reader", "reader", "a"), ("b", "operator", "b")):
                made = service.post("/v1/stillframe/key/create", role=role, tenant=tenant, description="test")
                keys[who] = made["api_key"]
            yield Bench(daemon, service, hung, own, other, keys)
        finally:
            service.destroy()


def must_answer(answer: dict[str, Any]) -> None:
    assert answer["scode"] == 0, answer


def test_others_are_served_and_told_nothing_while_it_hangs(bench: Bench) -> None:
    with ThreadPoolExecutor(2 * LOOKS) as clients:
        with bench.stopped():
            pending: list[Future[dict[str, Any]]] = [
                clients.submit(bench.get, "a's reader", INSPECT, bench.hung.uuid) for _ in range(LOOKS)
            ]
            # what comes before libvirt waits for the QEMU may need no answer of it
            bench.owes_an_answer()
            pending += [
                clients.submit(bench.post, "a", f"{SNAPSHOT}/delete", bench.hung.uuid, name="none")
                for _ in range(LOOKS)
            ]
            for who, vm in (("b", bench.other), ("administrator", bench.other), ("a's reader", bench.own)):
                for path in (TREE, INSPECT):
                    must_answer(bench.get(who, path, vm.uuid))
            must_answer(bench.post("b", f"{SNAPSHOT}/create", bench.other.uuid, name="s"))
            must_answer(bench.post("a", f"{SNAPSHOT}/create", bench.own.uuid, name="s"))
            assert bench.listed("b") == {"other": "shutoff"}
            assert bench.listed("a") == {"hung": "running", "own": "shutoff"}
            assert set(bench.listed("administrator")) == {"hung", "own", "other"}
            bench.hides_it_from_b()
            assert not any(one.done() for one in pending), "all of that came first"
        answers = [one.result(120) for one in pending]
    assert {answer["scode"] for answer in answers[:LOOKS]} == {0}
    assert {answer["scode"] for answer in answers[LOOKS:]} <= {ErrorCase.SNAPSHOT_UNKNOWN.code, ErrorCase.VM_BUSY.code}


def test_an_assignment_counts_from_the_next_request_on_while_it_hangs(bench: Bench) -> None:
    """It is read each time. ``stillframe vm assign`` would wait for the machine; libvirt itself does not."""
    element = "<vm tenant='b' tenant_name='b' namespace=''/>"

    def give(element: str) -> None:
        with closing(libvirt.open(bench.daemon.uri)) as conn:
            conn.lookupByUUIDString(bench.hung.uuid).setMetadata(
                libvirt.VIR_DOMAIN_METADATA_ELEMENT, element, "stillframe", "https://stillframe.dev/xmlns/vm/1", 0
            )

    assert set(bench.listed("a")) == {"hung", "own"}
    give(element)
    try:
        with ThreadPoolExecutor(1) as clients, bench.stopped():
            pending = clients.submit(bench.get, "administrator", INSPECT, bench.hung.uuid)
            bench.owes_an_answer()
            assert bench.get("a", TREE, bench.hung.uuid)["scode"] == ErrorCase.VM_UNKNOWN.code
            assert bench.listed("a") == {"own": "shutoff"}
            assert bench.listed("b") == {"hung": "running", "other": "shutoff"}
            assert not pending.done()
    finally:
        give(element.replace("'b'", "'a'"))


def test_known_to_hang_it_is_refused_at_once(bench: Bench) -> None:
    """By what was asked before, and by what libvirt itself knows."""
    with opened(bench) as (connection, inventory):
        with bench.stopped():
            must_refuse(inventory, bench.hung.uuid, "no answer from libvirt within 1 s", call="inspect")
            for _ in range(20):
                must_refuse(inventory, bench.hung.uuid, "not asked, because libvirt has not answered yet: inspect")
            bench.owes_an_answer()
            with opened(bench) as (_, another):
                eventually(
                    lambda: "its QEMU has not answered libvirt for" in why_refused(another, bench.hung.uuid),
                    "libvirt says for how long it has",
                )
                assert another.tenant_of(bench.hung.uuid) == "a"
                (found,) = [vm for vm in another.list_vms(hurried=True) if vm.unreadable]
                assert (found.name, found.tenant, found.state.value) == ("hung", "a", "running")
            assert connection.call("count", lambda conn: conn.numOfDomains()) == 1, "others are asked"
        eventually(lambda: not why_refused(inventory, bench.hung.uuid), "it can be asked again")
        assert not any(vm.unreadable for vm in inventory.list_vms(hurried=True))


@contextmanager
def opened(bench: Bench) -> Iterator[tuple[Connection, LibvirtInventory]]:
    with closing(Connection(bench.daemon.uri, call_timeout_s=LIMIT_S)) as connection:
        connection.open()
        yield connection, LibvirtInventory(connection)


def why_refused(inventory: LibvirtInventory, vm_uuid: str, call: str = "find_vm") -> str:
    """The words; none when it was not. No other reason than that it hangs is one."""
    try:
        getattr(inventory, call)(vm_uuid)
    except StillframeError as error:
        if error.case is not ErrorCase.HYPERVISOR_FAILED:
            raise
        return error.desc
    return ""


def must_refuse(inventory: LibvirtInventory, vm_uuid: str, words: str, call: str = "find_vm") -> None:
    assert words in why_refused(inventory, vm_uuid, call)


# --- a service that does not wait for long: these come last -----------------------------------------------------------


@pytest.fixture(scope="module")
def hurried(bench: Bench) -> Bench:
    bench.service.stop()
    bench.service.configure(call_timeout_s=str(LIMIT_S))
    bench.service.start()
    return bench


def test_its_own_tenant_is_told_that_it_hangs(hurried: Bench) -> None:
    """And not that there is no such machine; by looks and by acts, before and after it is known."""
    with hurried.stopped():
        for _ in range(3):
            for who, path in (("a's reader", INSPECT), ("a", TREE)):
                answer = hurried.get(who, path, hurried.hung.uuid)
                assert answer["scode"] == ErrorCase.HYPERVISOR_FAILED.code, answer
            answer = hurried.post("a", f"{SNAPSHOT}/create", hurried.hung.uuid, name="never")
            assert answer["scode"] == ErrorCase.HYPERVISOR_FAILED.code, answer
            hurried.hides_it_from_b()
        must_answer(hurried.get("b", TREE, hurried.other.uuid))

    def is_well() -> bool:
        return hurried.get("a", TREE, hurried.hung.uuid)["scode"] == 0

    eventually(is_well, "it is well again")


def test_a_libvirt_that_is_full_of_calls_to_it_does_not_tell_either(hurried: Bench) -> None:
    """Somebody beside the service has taken all of the daemon's workers: nothing more is read, of any uuid."""
    with hurried.stopped():
        beside = [threading.Thread(target=ask_beside, args=(hurried,)) for _ in range(WORKERS + MORE)]
        for thread in beside:
            thread.start()
        try:
            hurried.owes_an_answer()
            full = ErrorCase.HYPERVISOR_FAILED.code
            eventually(lambda: bool(hurried.get("b", TREE, NOWHERE)["scode"] == full), "the workers are taken")
            told = {
                uuid: said(hurried.get("b", TREE, uuid), uuid)
                for uuid in (hurried.hung.uuid, hurried.own.uuid, NOWHERE)
            }
            assert told[hurried.hung.uuid] == told[hurried.own.uuid] == told[NOWHERE]
            assert told[NOWHERE]["scode"] == full
        finally:
            hurried.go_on()
            for thread in beside:
                thread.join(60)


def ask_beside(bench: Bench) -> None:
    with contextlib.suppress(libvirt.libvirtError), closing(libvirt.open(bench.daemon.uri)) as conn:
        conn.lookupByUUIDString(bench.hung.uuid).blockInfo("vda", 0)
