"""The OpenAPI document: every call, described with its envelope. (That the answers keep to it, each HTTP test checks.)"""

from __future__ import annotations

from typing import Any

import httpx
import jsonschema
import pytest

from stillframe.domain.errors import ErrorCase
from support.http_door import DoorClient, answer_schemas, must_fail, refused

CALLS = {
    "getVmOverview",
    "getConsequences",
    "getTreePicture",
    "openSession",
    "getSession",
    "endSession",
    "getEvents",
    "listSnapshots", "getSnapshot", "getSnapshotTree", "getHeadSnapshot", "createSnapshot", "modifySnapshot",
    "rollbackSnapshot", "rollbackVolumes", "deleteSnapshot", "getScreenshot", "listVms", "inspectVm", "startVm",
    "shutdownVm", "shutoffVm", "getVersion", "assignVm", "createGuest", "deleteGuest", "getGuestConsole",
    "getDoctor", "repairByDoctor",
    "listTasks", "getTask", "cancelTask",
    "listLog",
    "createKey", "listKeys", "revokeKey", "rotateKey", "rotateLinks",
    "setTenant", "getTenantUsage",
}  # fmt: skip


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    served: dict[str, Any] = DoorClient().request("GET", "/openapi.json").json()
    return served


def operations(document: dict[str, Any]) -> list[dict[str, Any]]:
    return [operation for path in document["paths"].values() for operation in path.values()]


def test_it_is_openapi_3_1_and_names_every_call(document: dict[str, Any]) -> None:
    assert document["openapi"].startswith("3.1")
    assert document["info"]["title"] == "Stillframe"
    assert {operation["operationId"] for operation in operations(document)} == CALLS


def test_every_call_may_answer_with_the_error_envelope(document: dict[str, Any]) -> None:
    failure = {"$ref": "#/components/schemas/Failure_EmptyData_"}
    for operation in operations(document):
        assert set(operation["responses"]) == {"200", "default"}
        assert operation["responses"]["default"]["content"]["application/json"]["schema"] == failure
        if operation["operationId"] != "getScreenshot":
            assert failure in operation["responses"]["200"]["content"]["application/json"]["schema"]["anyOf"]


def test_every_input_has_a_description(document: dict[str, Any]) -> None:
    schemas = document["components"]["schemas"]
    for operation in operations(document):
        assert operation["description"]
        for parameter in operation.get("parameters", []):
            assert parameter["in"] == "path" or parameter["description"]
        if "requestBody" in operation:
            reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
            fields = schemas[reference.rsplit("/", 1)[1]]["properties"]
            assert all(field.get("description") for field in fields.values()), operation["operationId"]


def test_every_call_that_changes_something_names_its_operations(document: dict[str, Any]) -> None:
    for path in document["paths"].values():
        for method, operation in path.items():
            for response in operation["responses"].values():
                assert ("X-Operation-Id" in response.get("headers", {})) == (method == "post"), operation["operationId"]


def test_every_schema_is_a_schema(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        jsonschema.Draft202012Validator.check_schema(schema)


def test_the_check_of_answers_sees_a_wrong_answer() -> None:
    door = DoorClient()
    door.stub.outcomes["head_snapshot"] = refused(ErrorCase.VM_UNKNOWN)
    where = {"cluster_uuid": "", "compute_uuid": "b6b0e5b9-dacd-432b-9b83-c3e89799009d"}
    response = door.request("GET", "/v1/compute/vsd/snapshot/head", params=where)
    must_fail(response.json(), ErrorCase.VM_UNKNOWN)
    for change in ({"data": {"more": 1}}, {"stack": None}, {"scode": 0}, {"extra": 1}):
        wrong = httpx.Response(200, json={**response.json(), **change}, request=response.request)
        with pytest.raises(jsonschema.ValidationError):
            answer_schemas().check("GET", wrong)
