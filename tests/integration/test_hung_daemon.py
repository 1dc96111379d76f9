"""The connection and a libvirt daemon that hangs: it takes calls and answers none, and goes on later or never."""

from __future__ import annotations

import gc
import os
import time
import uuid
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from pathlib import Path
from subprocess import CompletedProcess, run
from typing import Any

import libvirt
import pytest

from stillframe.adapters.libvirt.connection import Connection
from stillframe.domain.errors import ErrorCase, StillframeError, Unknown
from stillframe.http.door import LOOKING_THREADS
from support.private_libvirtd import PrivateLibvirtd
from support.service import STILLFRAME, Service, eventually
from support.struck import Striker, StruckService

pytestmark = pytest.mark.guest

LIMIT_S = 1.0
# libvirt's client would close a connection after this time, had it been told to watch it
KEEPALIVE_S = 20.0


@pytest.fixture(scope="module")
def daemon() -> Iterator[PrivateLibvirtd]:
    with PrivateLibvirtd() as private:
        with closing(Connection(private.uri, call_timeout_s=60)) as first:
            first.open()
            make(first)  # the first definition takes long: libvirt tries what QEMU can do
        yield private


@pytest.fixture
def connection(daemon: PrivateLibvirtd) -> Iterator[Connection]:
    with closing(Connection(daemon.uri, call_timeout_s=LIMIT_S)) as opened:
        opened.open()
        yield opened


def definition(vm_uuid: str, title: str) -> str:
    return (
        f"<domain type='qemu'><name>vm-{vm_uuid}</name><uuid>{vm_uuid}</uuid><title>{title}</title>"
        "<memory>1024</memory><os><type arch='x86_64'>hvm</type></os></domain>"
    )


def define(connection: Connection, vm_uuid: str, title: str, *, looks_first: bool = False) -> None:
    """As a rollback does it (looked up first, then defined), or as its undo does."""

    def act(conn: Any) -> None:
        if looks_first:
            conn.lookupByUUIDString(vm_uuid).XMLDesc(0)
        conn.defineXML(definition(vm_uuid, title))

    connection.call("define", act, vm_uuid=vm_uuid)


def title_of(connection: Connection, vm_uuid: str) -> str:
    title = connection.domain_call(
        "look up", vm_uuid, lambda domain: domain.metadata(libvirt.VIR_DOMAIN_METADATA_TITLE, None)
    )
    return str(title)


def make(connection: Connection) -> str:
    vm_uuid = str(uuid.uuid4())
    connection.call("define", lambda conn: conn.defineXML(definition(vm_uuid, "first")))
    return vm_uuid


def patiently(connection: Connection, vm_uuid: str, title: str) -> None:
    """Until it succeeds, as an undo is made."""
    while True:
        try:
            define(connection, vm_uuid, title)
        except StillframeError as error:
            if error.case is not ErrorCase.HOST_UNREACHABLE:
                raise
            time.sleep(0.05)
        else:
            return


@pytest.mark.parametrize(
    ("hang_s", "looks_first"),
    [(4 * LIMIT_S, False), (4 * LIMIT_S, True), (KEEPALIVE_S + 5, False)],
    ids=["sent", "half sent", "longer than a keepalive"],
)
def test_what_nobody_waited_for_does_not_come_after_what_took_it_back(
    daemon: PrivateLibvirtd, connection: Connection, hang_s: float, looks_first: bool
) -> None:
    vm_uuid = make(connection)
    with ThreadPoolExecutor(1) as behind:
        with daemon.hung():
            begun = time.monotonic()
            with pytest.raises(Unknown) as told:
                define(connection, vm_uuid, "new", looks_first=looks_first)
            assert told.value.case is ErrorCase.HOST_UNREACHABLE
            undo = behind.submit(patiently, connection, vm_uuid, "taken back")
            time.sleep(hang_s - (time.monotonic() - begun))  # the hang is the thing itself
        undo.result(60)
    for _ in range(20):
        assert title_of(connection, vm_uuid) == "taken back"
        time.sleep(0.05)


def test_a_daemon_that_is_known_to_hang_costs_no_thread_and_no_time(
    daemon: PrivateLibvirtd, connection: Connection
) -> None:
    vms = [make(connection) for _ in range(3)]
    with daemon.hung():
        with pytest.raises(Unknown):
            title_of(connection, vms[0])
        threads, begun = thread_count(), time.monotonic()
        for _ in range(100):
            for vm_uuid in vms:
                with pytest.raises(StillframeError) as told:
                    title_of(connection, vm_uuid)
                assert told.value.case is ErrorCase.HOST_UNREACHABLE
        assert thread_count() <= threads
        assert time.monotonic() - begun < 300 * LIMIT_S / 10, "they were refused, not waited for"
    eventually(lambda: can_be_asked(connection, vms), "it answers again", timeout_s=LIMIT_S + 10)
    eventually(lambda: thread_count() < threads, "the threads of the hung calls have ended")


def can_be_asked(connection: Connection, vms: list[str]) -> bool:
    try:
        return [title_of(connection, vm_uuid) for vm_uuid in vms] == ["first"] * len(vms)
    except StillframeError:
        return False


def thread_count(process: int | str = "self") -> int:
    return len(list(Path(f"/proc/{process}/task").iterdir()))


def test_many_that_came_before_it_was_known_end_as_well(daemon: PrivateLibvirtd, connection: Connection) -> None:
    """More at once than libvirt takes from one client, and than any pool of ours had threads."""
    vms = [make(connection) for _ in range(60)]
    with ThreadPoolExecutor(len(vms)) as callers:
        with daemon.hung():
            for call in [callers.submit(title_of, connection, vm_uuid) for vm_uuid in vms]:
                error = call.exception(LIMIT_S + 30)
                assert isinstance(error, StillframeError)
                assert error.case is ErrorCase.HOST_UNREACHABLE
        eventually(lambda: can_be_asked(connection, vms), "all of them answer again")


def test_a_vm_whose_call_is_slow_is_not_taken_for_a_daemon_that_hangs(connection: Connection) -> None:
    """Others are asked meanwhile; the VM itself when the slow call has ended."""
    slow, other = make(connection), make(connection)
    ended: list[float] = []

    def act(_domain: Any) -> None:
        time.sleep(3 * LIMIT_S)
        ended.append(time.monotonic())

    with pytest.raises(Unknown) as told:
        connection.domain_call("be slow", slow, act)
    assert told.value.case is ErrorCase.HYPERVISOR_FAILED
    assert title_of(connection, other) == "first"
    with pytest.raises(Unknown) as second:
        title_of(connection, slow)
    assert "be slow" in second.value.desc
    assert not ended
    eventually(lambda: bool(ended), "it ends")
    assert title_of(connection, slow) == "first"


def test_closing_does_not_wait_for_it(daemon: PrivateLibvirtd) -> None:
    opened = Connection(daemon.uri, call_timeout_s=LIMIT_S)
    opened.open()
    with ThreadPoolExecutor(1) as behind, daemon.hung():
        behind.submit(opened.close).result(20)


def test_connecting_to_it_ends_in_time(daemon: PrivateLibvirtd) -> None:
    """Its socket takes the connection; the daemon is what does not answer."""
    with daemon.hung(), closing(Connection(daemon.uri, call_timeout_s=LIMIT_S)) as opened:
        with pytest.raises(StillframeError) as told:
            opened.open()
        assert told.value.case is ErrorCase.HOST_UNREACHABLE
    with closing(Connection(daemon.uri, call_timeout_s=20)) as again:
        again.open()


def test_what_connected_after_it_was_closed_is_closed_at_once(daemon: PrivateLibvirtd) -> None:
    """Python's collector of garbage would close it later, in any thread, which would then wait for a daemon that hangs."""
    before = descriptor_count()
    gc.disable()
    try:
        with daemon.hung():
            opened = Connection(daemon.uri, call_timeout_s=LIMIT_S)
            with pytest.raises(StillframeError):
                opened.open()
            opened.close()
        eventually(lambda: descriptor_count() <= before, "its sockets are closed")
    finally:
        gc.enable()


def descriptor_count() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- the service -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def striker() -> Iterator[Striker]:
    forks = Striker()
    yield forks
    forks.close()


@contextmanager
def service_on(daemon: PrivateLibvirtd, striker: Striker, **settings: str) -> Iterator[StruckService]:
    """Not started yet."""
    service = StruckService(striker, daemon.uri, **settings)
    try:
        yield service
    finally:
        service.destroy()


def test_what_libvirt_is_not_needed_for_goes_on(daemon: PrivateLibvirtd, striker: Striker) -> None:
    """Also when everybody who looks at virtual machines waits for it."""
    with service_on(daemon, striker, call_timeout_s="60") as service:
        service.start()
        quiet = thread_count(service.pid)
        with ThreadPoolExecutor(3 * LOOKING_THREADS) as readers:
            with daemon.hung():
                waiting = [readers.submit(vm_list, service) for _ in range(2 * LOOKING_THREADS)]
                waiting += [readers.submit(console, service) for _ in range(LOOKING_THREADS)]
                eventually(
                    lambda: thread_count(service.pid) >= quiet + 3 * LOOKING_THREADS // 2,
                    "they wait for it",
                    timeout_s=120,
                )
                assert service.get("/v1/compute/vsd/snapshot/task/list")["list"] == []
                assert not any(reader.done() for reader in waiting)
            assert {reader.result(60) for reader in waiting} == {0, ErrorCase.VM_UNKNOWN.code}


def test_the_service_ends_when_it_is_told_to_and_says_at_its_start_why_it_does_not(
    daemon: PrivateLibvirtd, striker: Striker
) -> None:
    with service_on(daemon, striker, call_timeout_s="1") as service:
        service.start()
        with daemon.hung():
            assert vm_list(service) == ErrorCase.HOST_UNREACHABLE.code
            service.stop()
            started = serve(service, "--connect", daemon.uri)
            assert (started.returncode, HOST_GONE in started.stderr) == (1, True), started.stderr
        service.start()
        assert vm_list(service) == 0


def test_the_systems_daemon_is_not_passed_over_because_it_hangs(daemon: PrivateLibvirtd, striker: Striker) -> None:
    """An embedded driver beside it would not see its guests."""
    with service_on(daemon, striker) as service:
        with daemon.hung():
            started = serve(service, before=("nsenter", f"--mount=/proc/{daemon.pid}/ns/mnt"))
        assert (started.returncode, HOST_GONE in started.stderr) == (1, True), started.stderr
        assert not (service.state / "libvirt").exists()


HOST_GONE = ErrorCase.HOST_UNREACHABLE.value.message


def serve(service: Service, *more: str, before: tuple[str, ...] = ()) -> CompletedProcess[str]:
    """In the foreground, until it ends by itself."""
    command = [
        *before,
        STILLFRAME,
        "serve",
        "--listen",
        f"127.0.0.1:{service.port}",
        "--state",
        str(service.state),
        *more,
    ]
    environment = {**os.environ, "STILLFRAME_CALL_TIMEOUT_S": "1"}
    return run(command, capture_output=True, text=True, check=False, timeout=60, env=environment)


def vm_list(service: Service) -> int:
    return scode(service, "/v1/compute/list")


def console(service: Service) -> int:
    return scode(service, "/v1/stillframe/guest/console?name=nobody")


def scode(service: Service, path: str) -> int:
    answer: int = service.raw("GET", path)["scode"]
    return answer
