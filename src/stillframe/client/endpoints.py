"""Every call of the API that the client knows: where it is, and what its data is read as.

``tests/unit/test_client_document.py`` holds this table and the models against the service's OpenAPI document.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from stillframe.client import models, overviews
from stillframe.client.models import Record

T = TypeVar("T", bound=Record)

_SNAPSHOT = "/v1/compute/vsd/snapshot"
_OWN = "/v1/stillframe"


@dataclass(frozen=True)
class Request:
    """One request, before anybody knows where it goes. ``query`` and ``body``: without what is None."""

    method: str
    path: str
    query: dict[str, str] = field(default_factory=dict)
    body: dict[str, Any] | None = None

    @property
    def changes(self) -> bool:
        """It changes something, and must not be sent twice."""
        return self.method != "GET"


@dataclass(frozen=True)
class Endpoint(Generic[T]):
    method: str
    path: str
    data: type[T]

    def request(self, fields: dict[str, Any]) -> Request:
        """``fields``: by the API's names; what is None is left out."""
        given = {name: value for name, value in fields.items() if value is not None}
        if self.method == "GET":
            return Request("GET", self.path, query={name: _query(value) for name, value in given.items()})
        return Request(self.method, self.path, body=given)


def _query(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


LIST_VMS = Endpoint("GET", "/v1/compute/list", models.VmList)
INSPECT_VM = Endpoint("GET", "/v1/compute/inspect", models.VmDetail)
START_VM = Endpoint("POST", "/v1/compute/start", models.Nothing)
SHUTDOWN_VM = Endpoint("POST", "/v1/compute/shutdown", models.Nothing)
SHUTOFF_VM = Endpoint("POST", "/v1/compute/shutoff", models.Nothing)
ASSIGN_VM = Endpoint("POST", f"{_OWN}/vm/assign", models.Nothing)

LIST_SNAPSHOTS = Endpoint("GET", f"{_SNAPSHOT}/list", models.SnapshotList)
GET_SNAPSHOT = Endpoint("GET", f"{_SNAPSHOT}/get", models.Snapshot)
GET_TREE = Endpoint("GET", f"{_SNAPSHOT}/tree", models.TreeData)
GET_HEAD = Endpoint("GET", f"{_SNAPSHOT}/head", models.Snapshot)  # or nothing
CREATE = Endpoint("POST", f"{_SNAPSHOT}/create", models.Nothing)
MODIFY = Endpoint("POST", f"{_SNAPSHOT}/modify", models.Nothing)
ROLLBACK = Endpoint("POST", f"{_SNAPSHOT}/rollback", models.Snapshot)
ROLLBACK_DISKS = Endpoint("POST", "/v1/compute/volume/snapshot/rollback", models.Batch)
DELETE = Endpoint("POST", f"{_SNAPSHOT}/delete", models.Nothing)

OVERVIEW = Endpoint("GET", f"{_OWN}/vm/overview", overviews.Overview)
CONSEQUENCES = Endpoint("GET", f"{_OWN}/snapshot/consequences", overviews.Consequences)

LIST_TASKS = Endpoint("GET", f"{_SNAPSHOT}/task/list", models.TaskPage)
GET_TASK = Endpoint("GET", f"{_SNAPSHOT}/task/get", models.Task)
CANCEL_TASK = Endpoint("POST", f"{_SNAPSHOT}/task/cancel", models.Task)
LIST_LOG = Endpoint("GET", f"{_SNAPSHOT}/log/list", models.LogPage)

CREATE_KEY = Endpoint("POST", f"{_OWN}/key/create", models.NewKey)
LIST_KEYS = Endpoint("GET", f"{_OWN}/key/list", models.KeyPage)
REVOKE_KEY = Endpoint("POST", f"{_OWN}/key/revoke", models.Nothing)
ROTATE_KEY = Endpoint("POST", f"{_OWN}/key/rotate", models.NewKey)
ROTATE_LINKS = Endpoint("POST", f"{_OWN}/link/rotate", models.Nothing)
SET_TENANT = Endpoint("POST", f"{_OWN}/tenant/set", models.Nothing)
TENANT_USAGE = Endpoint("GET", f"{_OWN}/tenant/usage", models.TenantPage)
CREATE_GUEST = Endpoint("POST", f"{_OWN}/guest/create", models.NewGuest)
DELETE_GUEST = Endpoint("POST", f"{_OWN}/guest/delete", models.Nothing)
GUEST_CONSOLE = Endpoint("GET", f"{_OWN}/guest/console", models.Console)
DOCTOR = Endpoint("GET", f"{_OWN}/doctor", models.DoctorReport)
REPAIR = Endpoint("POST", f"{_OWN}/doctor/repair", models.DoctorReport)
VERSION = Endpoint("GET", f"{_OWN}/version", models.Version)
