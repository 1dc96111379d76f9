"""What the client knows of the API is what the OpenAPI document says: every call, every field, with that type.

``fits`` compares types by their JSON schemas: the client must take whatever the document lets the service send, and a field
that it knows must be there. Each of its calls is made, too: its requests against the document's parameters and bodies.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import jsonschema
import pytest
from pydantic import BaseModel, Field

from stillframe.client import endpoints
from stillframe.client.clients import Calls
from stillframe.client.endpoints import Endpoint, Request
from stillframe.client.errors import NotStillframeError
from stillframe.client.flow import Await, Begin, Flow, Received, Send, Sleep, method
from stillframe.client.models import Record
from stillframe.operations.tasks import TaskState
from support.http_door import CLUSTER, OPERATION, SNAPSHOT, TENANT, VM, DoorClient, a_memory, a_snapshot, a_task

DOCUMENT: dict[str, Any] = DoorClient().request("GET", "/openapi.json").json()
ENDPOINTS = {name: one for name, one in vars(endpoints).items() if isinstance(one, Endpoint)}
METHODS = {name: one for name, one in vars(Calls).items() if isinstance(one, method)}
# of the document, and not for programs: pictures, and what the console's pages need of a browser
NOT_KNOWN = {"getScreenshot", "getTreePicture", "getEvents", "openSession", "endSession", "getSession"}


def operation(endpoint: Endpoint[Any] | Request) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][endpoint.path][endpoint.method.lower()]
    return found


def data_schemas(endpoint: Endpoint[Any]) -> list[dict[str, Any]]:
    """What ``data`` may be when ``scode`` is 0."""
    answer = operation(endpoint)["responses"]["200"]["content"]["application/json"]["schema"]
    outputs = [resolved(one, DOCUMENT) for one in alternatives(answer)]
    return [one["properties"]["data"] for one in outputs if one["properties"]["scode"].get("const") == 0]


def resolved(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    while "$ref" in schema:
        found: Any = root
        for part in schema["$ref"].removeprefix("#/").split("/"):
            found = found[part]
        schema = found
    return schema


def alternatives(schema: dict[str, Any]) -> list[dict[str, Any]]:
    return schema.get("anyOf") or schema.get("oneOf") or [schema]


def misfits(mine: dict[str, Any], theirs: dict[str, Any], root: dict[str, Any], where: str = "data") -> Iterator[str]:
    """Where the client's schema would not take what the document's allows, or knows what is not in it."""
    ours = [resolved(one, root) for one in alternatives(mine)]
    for one in (resolved(each, DOCUMENT) for each in alternatives(theirs)):
        if "type" not in one and not any("type" in each for each in ours):
            continue  # anything at all, on both sides
        same = [each for each in ours if each.get("type") == one.get("type")]
        if not same and any(not each for each in ours):
            continue  # the client takes anything
        if not same:
            yield f"{where}: {one.get('type')} is not taken"
        elif one.get("type") == "array":
            yield from misfits(same[0]["items"], one["items"], root, f"{where}[]")
        elif one.get("type") == "object" and "properties" in same[0]:
            yield from _misfits_of_object(same[0], one, root, where)
        elif one.get("type") == "object" and isinstance(same[0].get("additionalProperties"), dict):
            yield from misfits(same[0]["additionalProperties"], one["additionalProperties"], root, f"{where}{{}}")


def _misfits_of_object(mine: dict[str, Any], theirs: dict[str, Any], root: dict[str, Any], where: str) -> Iterator[str]:
    known = theirs.get("properties", {})
    for name, schema in mine["properties"].items():
        if name not in known:
            yield f"{where}.{name}: not in the document"
        else:
            yield from misfits(schema, known[name], root, f"{where}.{name}")
    for name in set(mine.get("required", [])) & set(known) - set(theirs.get("required", [])):
        yield f"{where}.{name}: may be absent"


def misfits_of(model: type[BaseModel], schemas: list[dict[str, Any]]) -> list[str]:
    mine = model.model_json_schema(by_alias=True)
    # one that answers nothing, or something or nothing, has an alternative without fields
    filled = [one for one in schemas if resolved(one, DOCUMENT).get("properties")] or schemas
    return [misfit for one in filled for misfit in misfits(mine, one, mine)]


@pytest.mark.parametrize("name", sorted(ENDPOINTS))
def test_every_call_and_field_that_it_knows_is_in_the_document(name: str) -> None:
    endpoint = ENDPOINTS[name]
    schemas = data_schemas(endpoint)
    assert schemas
    assert misfits_of(endpoint.data, schemas) == []


def test_it_knows_every_call_of_the_document() -> None:
    known = {operation(one)["operationId"] for one in ENDPOINTS.values()}
    told = {one["operationId"] for path in DOCUMENT["paths"].values() for one in path.values()}
    assert told - known == NOT_KNOWN


class _Renamed(Record):
    uuid: str
    title: str


class _Retyped(Record):
    uuid: int
    progress: int


class _NeverNull(Record):
    ended_at: int


class _WrongInside(Record):
    list: tuple[_Renamed, ...] = Field()


@pytest.mark.parametrize(
    ("endpoint", "wrong", "misfit"),
    [
        (endpoints.GET_TASK, _Renamed, "data.title: not in the document"),
        (endpoints.GET_TASK, _Retyped, "data.uuid: string is not taken"),
        (endpoints.GET_TASK, _NeverNull, "data.ended_at: null is not taken"),
        (endpoints.LIST_TASKS, _WrongInside, "data.list[].title: not in the document"),
    ],
)
def test_the_comparison_sees_a_wrong_model(endpoint: Endpoint[Any], wrong: type[Record], misfit: str) -> None:
    assert misfits_of(wrong, data_schemas(endpoint)) == [misfit]


class Recorder:
    """Carries flows out against the door, in place of the two drivers, and keeps their requests."""

    def __init__(self) -> None:
        self.door = DoorClient()
        self.requests: list[Request] = []

    def run(self, flow: Flow[Any]) -> Any:
        outcome: Any = None
        try:
            while True:
                outcome = self._perform(flow.send(outcome))
        except StopIteration as done:
            return done.value

    def _perform(self, step: Any) -> Any:
        match step:
            case Send(request) | Begin(request):
                self.requests.append(request)
                sent: dict[str, Any] = {"params": request.query} if request.body is None else {"json": request.body}
                return Received(self.door.request(request.method, request.path, **sent), None)
            case Await(begun, _):
                return begun
            case Sleep():
                return None


@pytest.fixture
def recorder() -> Recorder:
    return Recorder()


# how each call is made with everything that it takes
MADE: dict[str, Callable[..., Flow[Any]]] = {
    "vms": lambda m: m(name="测试", state="running", tenant=TENANT, fuzzy=False),
    "vm_uuid": lambda m: m("测试"),
    "inspect": lambda m: m(VM),
    "start": lambda m: m(VM),
    "shutdown": lambda m: m(VM),
    "shutoff": lambda m: m(VM),
    "assign": lambda m: m(VM, TENANT, tenant_name="研发", namespace="n"),
    "snapshots": lambda m: m(VM, name="o"),
    "snapshot": lambda m: m("测试", SNAPSHOT),
    "tree": lambda m: m(VM),
    "head": lambda m: m(VM),
    "overview": lambda m: m(VM, fold=True),
    "consequences": lambda m: m(VM, "origin"),
    "create": lambda m: m(VM, "n", description="d", memory=True, wait=True, on_progress=print, timeout_s=1),
    "await_memory": lambda m: m(VM, "origin", on_progress=print, timeout_s=1),
    "modify": lambda m: m(VM, "origin", "d"),
    "rollback": lambda m: m(VM, "origin", memory=True, on_progress=print),
    "rollback_disks": lambda m: m(VM, "origin", ["sda"]),
    "delete": lambda m: m(VM, "origin", on_progress=print),
    "tasks": lambda m: m(vm=VM, state="running", tenant=TENANT, since=1, until=2, limit=3),
    "task": lambda m: m(OPERATION),
    "cancel": lambda m: m(OPERATION),
    "wait": lambda m: m(OPERATION, on_progress=print, timeout_s=0),
    "log": lambda m: m(
        vm=VM, tenant=TENANT, key_id="0123456789ab", call="create", snapshot="s", operation_uuid=OPERATION, scode=0,
        failed=True, since=1, until=2, limit=3,
    ),
    "create_key": lambda m: m("operator", tenant=TENANT, description="d", expires_at=1700000000),
    "keys": lambda m: m(tenant=TENANT),
    "revoke_key": lambda m: m("0123456789ab"),
    "rotate_key": lambda m: m("0123456789ab", grace_s=5),
    "rotate_links": lambda m: m(),
    "set_tenant": lambda m: m(TENANT, memory_open=True, memory_bytes=1, space_bytes=2, max_snapshots=3),
    "tenants": lambda m: m(tenant=TENANT),
    "create_guest": lambda m: m("g", memory_mib=256, fill_mib=64, disks=2),
    "delete_guest": lambda m: m("g"),
    "guest_console": lambda m: m("g"),
    "doctor": lambda m: m(deep=True),
    "repair": lambda m: m(deep=True),
    "version": lambda m: m(),
}  # fmt: skip


def test_every_call_is_made_here() -> None:
    assert set(MADE) == set(METHODS)


@pytest.mark.parametrize("name", sorted(MADE))
def test_every_request_is_as_the_document_says(recorder: Recorder, name: str) -> None:
    if name == "wait":
        recorder.door.stub.outcomes["get_task"] = a_task(state=TaskState.DONE, ended_at=1631166700, progress=100)
    recorder.door.stub.outcomes["get_snapshot"] = a_snapshot(memory=a_memory())
    recorder.run(MADE[name](METHODS[name].flow))
    assert recorder.requests
    for request in recorder.requests:
        _check(request)


def _check(request: Request) -> None:
    told = operation(request)
    schemas = {one["name"]: one["schema"] for one in told.get("parameters", [])}
    required = {one["name"] for one in told.get("parameters", []) if one["required"]}
    assert set(request.query) <= set(schemas)
    assert required <= set(request.query)
    for parameter, text in request.query.items():
        value: object = int(text) if schemas[parameter].get("type") == "integer" else text
        _validate(value, schemas[parameter])
    if request.body is not None:
        _validate(request.body, told["requestBody"]["content"]["application/json"]["schema"])


def _validate(value: object, schema: dict[str, Any]) -> None:
    closed = copy.deepcopy(DOCUMENT["components"])
    for one in closed["schemas"].values():
        if one.get("type") == "object" and "properties" in one:
            one.setdefault("additionalProperties", False)
    jsonschema.Draft202012Validator({**schema, "components": closed}).validate(value)


def test_the_check_of_requests_sees_a_wrong_one() -> None:
    for wrong in (
        Request("GET", endpoints.GET_TASK.path, query={"uuid": OPERATION, "color": "red"}),
        Request("GET", endpoints.LIST_TASKS.path, query={"limit": "0"}),
        Request("GET", endpoints.GET_TASK.path),
        Request("POST", endpoints.CANCEL_TASK.path, body={"uuid": OPERATION, "now": True}),
        Request("POST", endpoints.CANCEL_TASK.path, body={"uuid": 5}),
    ):
        with pytest.raises((AssertionError, jsonschema.ValidationError)):
            _check(wrong)


def test_a_field_that_is_not_known_is_kept_and_one_that_is_missing_is_told(recorder: Recorder) -> None:
    data = recorder.run(METHODS["version"].flow()).as_json()
    assert data["cluster_uuid"] == CLUSTER
    newer = endpoints.VERSION.data.model_validate({**data, "colour": "red"})
    assert newer.as_json() == {**data, "colour": "red"}
    assert endpoints.VERSION.data.model_validate({**data, "colour": None}).version == data["version"]

    older: Flow[Any] = METHODS["version"].flow()
    assert isinstance(next(older), Send)
    response = recorder.door.request("GET", endpoints.GET_TASK.path, params={"uuid": OPERATION})
    with pytest.raises(NotStillframeError, match="version: Field required"):
        older.send(Received(response, None))
