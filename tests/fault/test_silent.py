"""A libvirt daemon or a QEMU that is there and does not answer: stopped, as on storage that hangs."""

from __future__ import annotations

import os
import signal

import pytest

from stillframe.adapters.libvirt.connection import Connection
from stillframe.domain.errors import ErrorCase, StillframeError, Unknown
from support.ground import Ground, ask, settle
from support.ledger import check_census, head_checksums, rows
from support.offline import write
from support.private_libvirtd import PrivateLibvirtd
from support.service import eventually
from support.struck import At

pytestmark = pytest.mark.guest
REQUESTS_OF_ONE_CONNECTION = 5  # libvirtd's default


@pytest.fixture(scope="module")
def ground_settings() -> dict[str, str]:
    return {"call_timeout_s": "3", "host_patience_s": "60"}


def test_a_call_that_was_given_up_does_nothing_later(daemon: PrivateLibvirtd) -> None:
    """By then its caller has been told that there was no answer, and may have undone what it was part of."""
    connection = Connection(daemon.uri, call_timeout_s=1)
    connection.open()
    daemon.kill()
    daemon.start()
    acted: list[object] = []
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        with pytest.raises(Unknown, match="no answer"):
            connection.call("the one that is given up", acted.append)
    finally:
        os.kill(daemon.pid, signal.SIGCONT)
    eventually(lambda: answers(connection), "it is asked again")  # on the connection for which the other had waited
    assert acted == []
    connection.close()


def answers(connection: Connection) -> bool:
    try:
        connection.call("the next one", lambda conn: conn.getURI())
    except StillframeError:
        return False
    return True


def test_a_rollback_that_libvirt_does_not_answer_is_undone(ground: Ground) -> None:
    service, vm = ground.service, ground.vm("late", size="1M")
    vm.create("base")
    write(vm.disk_path(), 2, length="64k")
    before = (vm.disk_path(), head_checksums(vm))
    with service.held(At("rollback", "define", "before")) as hold:
        request = ask(vm, "rollback", name="base", domain_memory=False)
        hold.wait()
        ground.daemon.kill()
        ground.daemon.start()
        os.kill(ground.daemon.pid, signal.SIGSTOP)
    try:
        given_up = "SELECT 1 FROM operations WHERE kind = 'rollback' AND state = 'undoing'"
        eventually(lambda: bool(rows(service, given_up)), "it is given up", timeout_s=60)
    finally:
        os.kill(ground.daemon.pid, signal.SIGCONT)
    request.must_fail(ErrorCase.HOST_UNREACHABLE)
    settle(service)
    assert (vm.disk_path(), head_checksums(vm)) == before
    check_census(service)
    vm.rollback("base")


def test_machines_that_do_not_answer_keep_no_other_from_libvirt(ground: Ground) -> None:
    service = ground.service
    stuck = [ground.vm(f"stuck-{number}", size="1M") for number in range(REQUESTS_OF_ONE_CONNECTION)]
    well = ground.vm("well", size="1M")
    for vm in (*stuck, well):
        vm.start()
    pids = [ground.qemu_pid(vm) for vm in stuck]
    service.forget_moments()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        requests = [ask(vm, "create", name="new", domain_memory=False) for vm in stuck]
        eventually(
            lambda: service.moments().count(At("create", "", "claimed")) == len(stuck), "all of them are being planned"
        )
        for name in ("one", "two"):
            well.create(name)
        assert sorted(well.names()) == ["one", "two"]
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)
    for request in requests:
        request.answer()
    settle(service)
    check_census(service)
