"""Told to stop in the middle of long work, the service ends soon, and goes on with it at the next start."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from stillframe.domain.errors import ErrorCase
from support.lab import make_vm, settle
from support.ledger import check_census, checksums, rows
from support.offline import write
from support.private_libvirtd import PrivateLibvirtd
from support.service import SNAPSHOT, eventually, running_service

pytestmark = pytest.mark.guest


def test_a_stop_does_not_wait_for_a_merge_of_hours() -> None:
    with (
        PrivateLibvirtd() as daemon,
        running_service(daemon.uri, merge_bytes_per_s="4096", shutdown_timeout_s="1") as service,
    ):
        vm = make_vm(daemon, service, "slow", disks=1, size="4M")
        for name, pattern in (("doomed", 1), ("tip", 2)):
            write(vm.disk_path(), pattern, length="2M")
            vm.create(name)
        exact = checksums(vm)["tip"]

        body = {"compute_uuid": vm.uuid, "name": "doomed"}
        clients = ThreadPoolExecutor(1)
        told = clients.submit(service.raw, "POST", f"{SNAPSHOT}/delete", json=body)
        query = "SELECT uuid FROM operations WHERE kind = 'delete' AND state = 'committed'"
        eventually(lambda: bool(rows(service, query)), "the merge is under way")
        assert service.terminate() == 0
        assert told.result()["scode"] == ErrorCase.STOPPING.code
        clients.shutdown()
        ((operation_uuid,),) = rows(service, query)  # it was cut off
        service.configure(merge_bytes_per_s="0")
        service.start()
        settle(service)
        assert vm.names() == ["tip"]
        assert checksums(vm) == {"tip": exact}
        check_census(service)
        (line,) = service.get(f"{SNAPSHOT}/log/list", compute_uuid=vm.uuid, call="delete")["list"]
        assert (line["operation_uuid"], line["scode"]) == (operation_uuid, ErrorCase.STOPPING.code)
