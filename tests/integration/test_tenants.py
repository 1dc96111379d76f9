"""Keys, tenants and budgets on a real service: what is another's does not exist, and nothing is ever overdrawn."""

from __future__ import annotations

import fcntl
import subprocess
import tempfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from integration.conftest import Take
from stillframe.domain.errors import ErrorCase
from support.offline import domain_xml, file_disk, image, lot, offline
from support.refusal import must_refuse_post
from support.service import SNAPSHOT, STILLFRAME, Service, Vm, free_port, running_service

MINE, THEIRS = "tenant-a", "tenant-b"


def key_for(service: Service, role: str, tenant: str = "") -> dict[str, str]:
    made = service.post("/v1/stillframe/key/create", role=role, tenant=tenant, description="test")
    return {"ApiKey": made["api_key"]}


def assign(vm: Vm, tenant: str) -> None:
    vm.post("/v1/stillframe/vm/assign", tenant=tenant)


def get(service: Service, call: str, headers: dict[str, str], **params: str) -> dict[str, Any]:
    answer: dict[str, Any] = service.raw("GET", call, params={"cluster_uuid": "", **params}, headers=headers)
    return answer


def post(service: Service, call: str, headers: dict[str, str], **body: Any) -> dict[str, Any]:
    answer: dict[str, Any] = service.raw("POST", call, json={"cluster_uuid": "", **body}, headers=headers)
    return answer


def without_place(answer: dict[str, Any], uuid: str) -> dict[str, Any]:
    """All that the answer says, with the uuid that was asked for taken out."""
    stack = [",".join(part for part in frame.split(",")) for frame in answer["stack"]]
    return {**answer, "desc": answer["desc"].replace(uuid, "…"), "stack": stack}


def test_what_is_anothers_cannot_be_told_from_what_does_not_exist(take: Take) -> None:
    vm, other = take("small"), take("small")
    service = vm.service
    assign(vm, MINE)
    assign(other, THEIRS)
    vm.create("mine")
    other.create("theirs")
    (task,) = service.get(f"{SNAPSHOT}/task/list", compute_uuid=other.uuid, limit="1")["list"]
    headers = key_for(service, "operator", MINE)
    nowhere = "00000000-1111-4222-8333-444444444444"
    asked: list[tuple[str, str, dict[str, Any]]] = [
        ("GET", f"{SNAPSHOT}/list", {}),
        ("GET", f"{SNAPSHOT}/tree", {}),
        ("GET", f"{SNAPSHOT}/head", {}),
        ("GET", f"{SNAPSHOT}/get", {"name": "theirs"}),
        ("GET", "/v1/compute/inspect", {}),
        ("POST", f"{SNAPSHOT}/create", {"name": "new"}),
        ("POST", f"{SNAPSHOT}/modify", {"name": "theirs", "description": "x"}),
        ("POST", f"{SNAPSHOT}/rollback", {"name": "theirs"}),
        ("POST", f"{SNAPSHOT}/delete", {"name": "theirs"}),
        ("POST", "/v1/compute/start", {}),
        ("POST", "/v1/compute/shutdown", {}),
        ("POST", "/v1/compute/shutoff", {}),
        (
            "POST",
            "/v1/compute/volume/snapshot/rollback",
            {"disk_snapshot_list": other.get("theirs")["disk_snapshot_list"]},
        ),
    ]
    for method, path, more in asked:
        told = []
        for uuid in (other.uuid, nowhere):
            ask = get if method == "GET" else post
            told.append(without_place(ask(service, path, headers, compute_uuid=uuid, **more), uuid))
        assert told[0] == told[1], path
        assert told[0]["scode"] == ErrorCase.VM_UNKNOWN.code, path
    for path in ("get", "cancel"):
        ask = get if path == "get" else post
        told = [
            without_place(ask(service, f"{SNAPSHOT}/task/{path}", headers, uuid=uuid), uuid)
            for uuid in (task["uuid"], nowhere)
        ]
        assert told[0] == told[1]
        assert told[0]["scode"] == ErrorCase.TASK_UNKNOWN.code
    assert other.names() == ["theirs"]
    assert get(service, f"{SNAPSHOT}/tree", headers, compute_uuid=vm.uuid)["scode"] == 0


def test_lists_and_counts_are_ones_own(take: Take) -> None:
    vm, other = take("small"), take("small")
    service = vm.service
    assign(vm, "list-a")
    assign(other, "list-b")
    vm.create("mine")
    other.create("theirs")
    headers = key_for(service, "reader", "list-a")
    for tenant in ("", "list-a"):
        page = get(service, "/v1/compute/list", headers, tenant=tenant)["data"]
        assert [row["uuid"] for row in page["domains"]] == [vm.uuid]
        assert (page["total_count"], page["each_range_list_state"][0]["total_count"]) == (1, 1)
        tasks = get(service, f"{SNAPSHOT}/task/list", headers, tenant=tenant)["data"]["list"]
        assert {row["compute_uuid"] for row in tasks} == {vm.uuid}
        (use,) = get(service, "/v1/stillframe/tenant/usage", headers, tenant=tenant)["data"]["list"]
        assert (use["tenant"], use["snapshots"]) == ("list-a", 1)
    for path in ("/v1/compute/list", f"{SNAPSHOT}/task/list", "/v1/stillframe/tenant/usage"):
        data = get(service, path, headers, tenant="list-b")["data"]
        assert data.get("list", data.get("domains")) == []


def test_a_machine_that_moves_takes_everything_along(take: Take) -> None:
    vm = take("small")
    service = vm.service
    before, after = key_for(service, "operator", "from"), key_for(service, "operator", "to")
    assign(vm, "from")
    vm.create("s")
    assert get(service, f"{SNAPSHOT}/tree", before, compute_uuid=vm.uuid)["scode"] == 0
    assert get(service, f"{SNAPSHOT}/tree", after, compute_uuid=vm.uuid)["scode"] == ErrorCase.VM_UNKNOWN.code
    assign(vm, "to")
    assert get(service, f"{SNAPSHOT}/tree", before, compute_uuid=vm.uuid)["scode"] == ErrorCase.VM_UNKNOWN.code
    assert get(service, f"{SNAPSHOT}/tree", after, compute_uuid=vm.uuid)["scode"] == 0
    use = {row["tenant"]: row for row in service.get("/v1/stillframe/tenant/usage")["list"]}
    assert use["to"]["snapshots"] == 1
    assert "from" not in use
    assert vm.get("s")["tenant"] == vm.get("s")["tenant_name"] == "to", "whose it was is not the new one's to know"


def test_an_assignment_that_was_not_noted_is_noted_at_the_next_start(take: Take) -> None:
    """As of a service that was ended between libvirt and its own rows, or by hand."""
    vm = take("small")
    service = vm.service
    assign(vm, "noted")
    vm.create("s")
    service.stop()
    offline(service, ("assign", vm.uuid, "unnoted"))
    service.start()
    use = {row["tenant"]: row["snapshots"] for row in service.get("/v1/stillframe/tenant/usage")["list"]}
    assert use["unnoted"] == 1
    assert "noted" not in use


def test_usage_comes_in_pages(take: Take) -> None:
    service = take("small").service
    for name in ("page-c", "page-a", "page-b"):
        service.post("/v1/stillframe/tenant/set", tenant=name, max_snapshots=1)
    seen: list[str] = []
    after = "page-"
    for _ in range(2):
        page = service.get("/v1/stillframe/tenant/usage", after=after, limit="2")
        seen += [row["tenant"] for row in page["list"] if row["tenant"].startswith("page-")]
        after = page["next"] or after
    assert seen == ["page-a", "page-b", "page-c"]


def test_a_key_works_at_once_and_stops_at_once(service: Service) -> None:
    for _ in range(20):
        made = service.post("/v1/stillframe/key/create", role="reader", tenant="t")
        headers = {"ApiKey": made["api_key"]}
        assert get(service, "/v1/compute/list", headers)["scode"] == 0
        service.post("/v1/stillframe/key/revoke", key_id=made["key_id"])
        assert get(service, "/v1/compute/list", headers)["scode"] == ErrorCase.NOT_AUTHENTICATED.code


def test_keys_outlive_a_restart_and_the_first_one_stays(service: Service) -> None:
    headers = key_for(service, "reader", "t")
    first = (service.state / "admin.key").read_text()
    service.kill()
    service.start()
    assert get(service, "/v1/compute/list", headers)["scode"] == 0
    assert (service.state / "admin.key").read_text() == first
    assert (service.state / "admin.key").stat().st_mode & 0o777 == 0o600


def test_the_key_that_commands_use_is_replaced_where_they_find_it() -> None:
    with running_service() as service:
        kept = service.state / "admin.key"
        first = kept.read_text().strip()
        other = service.post("/v1/stillframe/key/create", role="administrator")
        service.cli("key", "rotate", other["key_id"])
        assert kept.read_text().strip() == first, "another key's end is none of its business"
        printed = service.cli("key", "rotate", first.split("_")[1]).strip()
        assert kept.read_text().strip() == printed != first
        assert kept.stat().st_mode & 0o777 == 0o600
        assert printed.split("_")[1] in service.cli("key", "list")


def test_a_link_opens_its_picture_without_a_key_and_nothing_else(take: Take) -> None:
    vm = take("one", boot=True)
    service = vm.service
    one = vm.create("one", memory=True)["screenshot_url"]
    two = vm.create("two", memory=True)["screenshot_url"]
    with httpx.Client(base_url=service.url) as stranger:
        link, other = urlsplit(one), urlsplit(two)
        assert stranger.get(f"{link.path}?{link.query}").headers["content-type"] == "image/png"
        for path in (
            f"{link.path}?{other.query}",
            link.path,
            f"{link.path}?{link.query[:-1]}",
            f"{link.path}?{link.query}0",
        ):
            refused = stranger.get(path)
            assert (refused.status_code, refused.json()["scode"]) == (403, ErrorCase.LINK_INVALID.code)
        for call in (f"{SNAPSHOT}/list?compute_uuid={vm.uuid}&cluster_uuid=", "/v1/compute/list?"):
            refused = stranger.get(f"{call}&{link.query}")
            assert refused.json()["scode"] == ErrorCase.NOT_AUTHENTICATED.code
        service.post("/v1/stillframe/link/rotate")
        assert stranger.get(f"{link.path}?{link.query}").status_code == 403
        fresh = urlsplit(vm.get("one")["screenshot_url"])
        assert stranger.get(f"{fresh.path}?{fresh.query}").status_code == 200
        stranger_key = key_for(service, "reader", "somebody else")
        unseen = stranger.get(fresh.path, headers=stranger_key)
        assert (unseen.status_code, unseen.json()["scode"]) == (404, ErrorCase.SNAPSHOT_UNKNOWN.code)


def test_the_number_of_snapshots_is_bounded(take: Take) -> None:
    vm = take("small")
    assign(vm, "few")
    vm.service.post("/v1/stillframe/tenant/set", tenant="few", max_snapshots=2)
    vm.create("1")
    vm.create("2")
    must_refuse_post(vm, ErrorCase.SNAPSHOTS_TOO_MANY, f"{SNAPSHOT}/create", name="3")
    vm.delete("1")
    vm.create("3")


def test_memory_space_is_each_tenants_own(take: Take) -> None:
    vm = take("one", boot=True)
    assign(vm, "closed")
    vm.service.post("/v1/stillframe/tenant/set", tenant="closed", memory_open=False)
    must_refuse_post(vm, ErrorCase.MEMORY_SPACE_CLOSED, f"{SNAPSHOT}/create", name="m", domain_memory=True)
    vm.service.post("/v1/stillframe/tenant/set", tenant="closed", memory_open=True, memory_bytes=1 << 20)
    must_refuse_post(vm, ErrorCase.QUOTA_EXHAUSTED, f"{SNAPSHOT}/create", name="m", domain_memory=True)
    vm.service.post("/v1/stillframe/tenant/set", tenant="closed", memory_open=True, memory_bytes=1 << 30)
    vm.create("m", memory=True)
    (use,) = vm.service.get("/v1/stillframe/tenant/usage", tenant="closed")["list"]
    assert use["memory_bytes"] == int(vm.get("m")["attr"]["memory_bytes"])
    vm.delete("m")
    (use,) = vm.service.get("/v1/stillframe/tenant/usage", tenant="closed")["list"]
    assert (use["memory_bytes"], use["snapshots"]) == (0, 0)


# --- a race for the last bytes --------------------------------------------------------------------------------------

RACERS, ROOM = 50, 10


@pytest.fixture
def racers() -> Iterator[tuple[Service, list[Vm]]]:
    """Fifty machines of one tenant, all with a disk that occupies the same."""
    service = Service(max_operations=str(RACERS), max_operations_per_tenant=str(RACERS))
    try:
        lots = [lot(service, f"racer-{number:02}") for number in range(RACERS)]
        acts = [
            ("define", domain_xml(one, [file_disk(image(one.directory / "disk.qcow2", size="1M"), "vda")]))
            for one in lots
        ]
        offline(service, *acts)
        service.start()
        yield service, [one.vm(service) for one in lots]
    finally:
        service.destroy()


def test_a_race_against_a_budget_lets_in_as_many_as_fit(racers: tuple[Service, list[Vm]]) -> None:
    service, vms = racers
    sizes = {Path(vm.disk_path()).stat().st_blocks * 512 for vm in vms}
    (each,) = sizes
    service.post("/v1/stillframe/tenant/set", tenant="default", space_bytes=each * ROOM + each // 2)

    def create(vm: Vm) -> int:
        return int(post(service, f"{SNAPSHOT}/create", {}, compute_uuid=vm.uuid, name="s")["scode"])

    with ThreadPoolExecutor(RACERS) as pool:
        told = list(pool.map(create, vms))
    assert told.count(0) == ROOM
    assert told.count(ErrorCase.QUOTA_EXHAUSTED.code) == RACERS - ROOM
    assert sum(vm.names() == ["s"] for vm in vms) == ROOM
    (use,) = service.get("/v1/stillframe/tenant/usage", tenant="default")["list"]
    assert (use["space_bytes"], use["snapshots"]) == (each * ROOM, ROOM)
    accepted = next(vm for vm in vms if vm.names() == ["s"])
    refused = next(vm for vm in vms if not vm.names())
    accepted.delete("s")
    refused.create("s")


def test_what_merges_is_measured_again(take: Take) -> None:
    vm = take("small")
    assign(vm, "merging")
    vm.create("1")
    vm.create("2")
    vm.create("3")
    vm.delete("2")
    on_disk = sum(
        path.stat().st_blocks * 512
        for path in {Path(vm.disk_path(target)) for target in ("vda", "vdb")}
        for path in [*path.parent.glob("*.qcow2"), *path.parent.parent.glob("disk-*.qcow2")]
        if path.name not in {Path(vm.disk_path(target)).name for target in ("vda", "vdb")}
    )
    (use,) = vm.service.get("/v1/stillframe/tenant/usage", tenant="merging")["list"]
    assert use["snapshots"] == 2
    assert use["space_bytes"] <= on_disk


# --- TLS ------------------------------------------------------------------------------------------------------------


def test_by_tls_the_command_line_trusts_the_very_certificate(tmp_path: Path) -> None:
    certificate, key = tmp_path / "c.pem", tmp_path / "k.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=vms.example", "-days", "2",
         "-keyout", str(key), "-out", str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    with running_service(tls_certificate=str(certificate), tls_key=str(key)) as service:
        listed = subprocess.run(
            [STILLFRAME, "vm", "list", "--state", str(service.state)], capture_output=True, text=True, check=False
        )
        assert (listed.returncode, listed.stderr) == (0, "")
        with httpx.Client() as plain, pytest.raises(httpx.HTTPError):
            plain.get(f"{service.url}/v1/compute/list")


def test_nobody_else_can_pass_for_the_service_or_keep_it_from_starting() -> None:
    with running_service() as service:
        lock, word = service.state / "lock", service.state / "service.json"
        assert lock.stat().st_mode & 0o777 == 0o600
        assert word.stat().st_mode & 0o777 == 0o644
        service.kill()
        # as anybody may who may read it
        with word.open("rb") as readable:
            fcntl.flock(readable, fcntl.LOCK_EX)
            with pytest.raises(AssertionError, match="was killed"):
                service.cli("key", "list")
            lock.chmod(0o644)  # as an older version left it
            service.start()
        assert "administrator" in service.cli("key", "list")
        assert lock.stat().st_mode & 0o777 == 0o600


def test_without_room_for_the_first_key_nothing_listens() -> None:
    with tempfile.TemporaryDirectory(prefix="sf-", dir="/tmp") as state:  # short: QEMU's sockets lie below it
        (Path(state) / "admin.key").mkdir()
        connect = f"qemu:///embed?root={state}/libvirt"
        started = subprocess.run(
            [STILLFRAME, "serve", "--listen", f"127.0.0.1:{free_port()}", "--state", state, "--connect", connect],
            capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert started.returncode == 1
        assert "cannot use" in started.stderr
        assert "Traceback" not in started.stderr
        assert not (Path(state) / "service.json").exists()
