"""The isolation matrix: every call of the OpenAPI document x every parameter that names something x whose it is x who asks.

What must come out is computed by rule (isolation.py); a call or a parameter that the rules do not know fails.
"""

from __future__ import annotations

import json
import sqlite3
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, closing
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
from blake3 import blake3

from integration.isolation import ENTRIES, NOWHERE, PLAIN, UNKNOWN_KEY, A, B, Entry, Kind, Variant, expected
from stillframe.domain.access import Role
from stillframe.domain.errors import ErrorCase
from support.offline import domain_xml, file_disk, image, lot, offline
from support.service import SNAPSHOT, Service, Vm

TASK = f"{SNAPSHOT}/task"
LOG = f"{SNAPSHOT}/log/list"
PNG = b"\x89PNG\r\n\x1a\n of nobody"
# pages begin at the beginning, and another's machine is not A's, where nobody says otherwise
_LEFT_OUT = (Kind.TASK_AFTER, Kind.KEY_AFTER, Kind.LINE_AFTER, Kind.TENANT)
WHO: tuple[Role | None, ...] = (Role.ADMINISTRATOR, Role.OPERATOR, Role.READER, None)


@dataclass(frozen=True)
class Call:
    method: str
    path: str
    operation: dict[str, Any]

    @property
    def id(self) -> str:
        return str(self.operation["operationId"])


@dataclass(frozen=True)
class Belongings:
    """What one tenant has. Both have a tree base -> (shared, branch), and ``only``, which the other does not have."""

    vm: Vm
    task: str
    line: str
    pictured: str
    only: str


@dataclass
class Ground:
    service: Service
    a: Belongings
    b: Belongings
    clients: dict[Role | None, httpx.Client]
    cluster: str
    calls: list[Call]
    document: dict[str, Any]
    keys: tuple[str, str]  # of A's and of B's reader

    def spare_key(self) -> str:
        made = self.service.post("/v1/stillframe/key/create", role="reader", tenant=A)
        return str(made["key_id"])


@pytest.fixture(scope="module")
def ground() -> Iterator[Ground]:
    service = Service()
    try:
        lots = [lot(service, f"isolated-{name}") for name in "ab"]
        acts = [
            ("define", domain_xml(one, [file_disk(image(one.directory / "disk.qcow2", size="1M"), "vda")]))
            for one in lots
        ]
        offline(service, *acts)
        service.start()
        vms = [one.vm(service) for one in lots]
        a, b = (_furnish(service, vm, tenant) for vm, tenant in zip(vms, (A, B), strict=True))
        keys: dict[Role | None, str] = {None: ""}
        keys[Role.ADMINISTRATOR] = (service.state / "admin.key").read_text().strip()
        for role in (Role.OPERATOR, Role.READER):
            keys[role] = service.post("/v1/stillframe/key/create", role=role.value, tenant=A)["api_key"]
        document = service.http.get("/openapi.json").json()
        calls = [
            Call(method.upper(), path, operation)
            for path, methods in document["paths"].items()
            for method, operation in methods.items()
        ]
        cluster = service.get("/v1/stillframe/version")["cluster_uuid"]
        with ExitStack() as stack:
            clients = {
                role: stack.enter_context(
                    httpx.Client(base_url=service.url, timeout=120, headers={"ApiKey": key} if key else {})
                )
                for role, key in keys.items()
            }
            other = service.post("/v1/stillframe/key/create", role="reader", tenant=B)["api_key"]
            yield Ground(service, a, b, clients, cluster, calls, document, (keys[Role.READER], other))
    finally:
        service.destroy()


def _furnish(service: Service, vm: Vm, tenant: str) -> Belongings:
    vm.post("/v1/stillframe/vm/assign", tenant=tenant)
    only = f"only {tenant}"
    for name in ("base", "shared"):
        vm.create(name)
    vm.rollback("base")
    pictured = vm.create(only)
    # a picture as of a snapshot with memory, for which no guest has to run
    picture = service.state / "screenshots" / f"{pictured['uuid']}.png"
    picture.parent.mkdir(exist_ok=True)
    picture.write_bytes(PNG)
    with closing(sqlite3.connect(service.state / "stillframe.db")) as database, database:
        checksum = f"blake3:{blake3(PNG).hexdigest()}"
        database.execute("UPDATE snapshots SET screenshot_checksum = ? WHERE uuid = ?", (checksum, pictured["uuid"]))
    (task,) = service.get(f"{TASK}/list", compute_uuid=vm.uuid, limit="1")["list"]
    (line,) = service.get(LOG, compute_uuid=vm.uuid, limit="1")["list"]
    return Belongings(vm, task["uuid"], line["id"], pictured["uuid"], only)


def _inputs(ground: Ground, call: Call) -> set[str]:
    names = {parameter["name"] for parameter in call.operation.get("parameters", [])}
    if "requestBody" in call.operation:
        reference = call.operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        names |= set(ground.document["components"]["schemas"][reference.rsplit("/", 1)[1]].get("properties", {}))
    return names


def test_every_call_and_every_parameter_has_its_rule(ground: Ground) -> None:
    assert {call.id for call in ground.calls} == set(ENTRIES)
    for call in ground.calls:
        ruled = set(ENTRIES[call.id].names) | set(ENTRIES[call.id].more)
        strange = _inputs(ground, call) - ruled - PLAIN
        assert strange == set(), f"{call.id}: say in isolation.py what {strange} name"
        assert set(ENTRIES[call.id].names) <= _inputs(ground, call)


def _value(ground: Ground, kind: Kind, variant: Variant) -> str:  # noqa: C901 -- one case for each kind, no more
    if variant is Variant.EMPTY:
        return ""
    mine = ground.a if variant is not Variant.OTHER else ground.b
    unknown, malformed = variant is Variant.UNKNOWN, variant is Variant.MALFORMED
    match kind:
        case Kind.CLUSTER:
            return "not-a-uuid" if malformed else NOWHERE if unknown else ground.cluster
        case Kind.TENANT | Kind.TENANT_FILTER | Kind.TENANT_LABEL | Kind.TENANT_NAME:
            return "a\nb" if malformed else "nobody" if unknown else A if mine is ground.a else B
        case Kind.SNAPSHOT:
            name = "shared" if variant is Variant.OWN else mine.only
            return "a/b" if malformed else "no such" if unknown else "base" if variant is Variant.OWN else name
        case Kind.KEY | Kind.KEY_FILTER | Kind.KEY_AFTER:
            return "../admin" if malformed else UNKNOWN_KEY if unknown else ground.spare_key()
        case Kind.GUEST | Kind.NEW_GUEST:
            return "../up" if malformed else "no-such-guest"
        case Kind.API_KEY:
            return (
                "no key" if malformed else f"sfk_{UNKNOWN_KEY}_{'0' * 64}" if unknown else ground.keys[mine is ground.b]
            )
        case Kind.VM | Kind.VM_OR_NONE | Kind.VM_FILTER | Kind.UUID_TEXT_FILTER:
            found = mine.vm.uuid
        case Kind.SCREENSHOT:
            found = mine.pictured
        case Kind.LINE_AFTER:
            found = mine.line
        case _:
            found = mine.task
    return "not-a-uuid" if malformed else NOWHERE if unknown else found


def _request(ground: Ground, call: Call, entry: Entry, parameter: str, variant: Variant) -> dict[str, Any]:
    told = {
        name: _value(ground, kind, variant if name == parameter else Variant.OWN)
        for name, kind in entry.names.items()
        if name == parameter or kind not in _LEFT_OUT
    }
    return {**told, **entry.more}


def _ask(ground: Ground, call: Call, role: Role | None, told: dict[str, Any]) -> httpx.Response:
    path = call.path.format(**told)
    client = ground.clients[role]
    client.cookies.clear()  # who signed in is another asker
    if call.method == "GET":
        return client.get(path, params={name: value for name, value in told.items() if f"{{{name}}}" not in call.path})
    return client.post(path, json=told)


def _check_shows_nothing_of_b(ground: Ground, call: Call, response: httpx.Response, told: dict[str, Any]) -> None:
    """Neither names nor numbers of what is B's, beyond what was asked with."""
    if call.id == "getScreenshot":
        return
    asked, shown = json.dumps(told), response.text
    assert ground.b.vm.name not in shown, (call.id, told, shown)
    if call.id == "listLog" and response.json()["scode"] == 0:
        # what A's keys were refused is in A's lines as they named it
        shown = json.dumps([line for line in response.json()["data"]["list"] if line["scode"] == 0])
    secrets = [ground.b.vm.uuid, ground.b.task, ground.b.line, ground.b.pictured]
    if call.id not in ("listTasks", "getTask", "getEvents"):
        # there stands what A itself has asked for on its own machine
        secrets.append(ground.b.only)
    for secret in secrets:
        assert secret in asked or secret not in shown, (call.id, told, response.text)


def _put_back(ground: Ground, call: Call) -> None:
    for mine, tenant in ((ground.a, A), (ground.b, B)):
        if call.id == "startVm" and mine.vm.state() != "shutoff":
            mine.vm.shutoff()
        if call.id == "assignVm":
            mine.vm.post("/v1/stillframe/vm/assign", tenant=tenant)


def test_the_matrix(ground: Ground) -> None:
    cells, wrong = Counter[str](), []
    for call in ground.calls:
        entry = ENTRIES[call.id]
        variants = [(name, variant) for name in entry.names for variant in Variant] or [("", Variant.OWN)]
        for role in WHO:
            for parameter, variant in variants:
                if parameter and f"{{{parameter}}}" in call.path and variant is Variant.EMPTY:
                    continue  # another path
                told = _request(ground, call, entry, parameter, variant)
                response = _ask(ground, call, role, told)
                case = expected(call.id, role, parameter, variant)
                is_envelope = response.headers["content-type"] == "application/json"
                scode = response.json()["scode"] if is_envelope else 0
                cells[role.value if role else "without a key"] += 1
                if scode != (case.code if case else 0):
                    wrong.append((call.id, role, parameter, variant, case, response.text[:300]))
                if role is not Role.ADMINISTRATOR:
                    _check_shows_nothing_of_b(ground, call, response, told)
                if scode == 0:
                    _put_back(ground, call)
    sys.stdout.write(f"isolation matrix: {sum(cells.values())} cells of {len(ground.calls)} calls: {dict(cells)}\n")
    assert wrong == [], "\n".join(map(str, wrong))
    for mine in (ground.a, ground.b):
        assert sorted(mine.vm.names()) == sorted(["base", "shared", mine.only]), "and nothing has changed"


def test_the_rule_sees_a_hole() -> None:
    """The expectation differs wherever isolation matters: a service without it could not pass."""
    for role in (Role.OPERATOR, Role.READER):
        for parameter, case in (("compute_uuid", ErrorCase.VM_UNKNOWN), ("name", ErrorCase.SNAPSHOT_UNKNOWN)):
            assert expected("getSnapshot", role, parameter, Variant.OTHER) is case
        assert expected("getTask", role, "uuid", Variant.OTHER) is ErrorCase.TASK_UNKNOWN
    assert expected("getTask", Role.ADMINISTRATOR, "uuid", Variant.OTHER) is None
