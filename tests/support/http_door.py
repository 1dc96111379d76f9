"""A stub of the use cases behind the real HTTP application, and clients that check every answer's outer form.

The door's own behaviour is what these tests are about: what the stub is asked, and how its outcomes are worded.
"""

from __future__ import annotations

import asyncio
import copy
import json
from dataclasses import asdict, replace
from functools import cache
from http import HTTPStatus
from typing import Any

import httpx
import jsonschema
from fastapi import FastAPI

from stillframe.adapters.metrics.prometheus import PrometheusMetrics
from stillframe.domain.access import Principal, Role
from stillframe.domain.compute import ComputeInfo, ComputeInspectInfo, DiskInfo, DiskVsdSource
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.domain.layout import lay_out
from stillframe.domain.quota import TenantLimits, Used
from stillframe.domain.snapshot import CaptureMode, DiskSnapshot, MemoryState, MemoryStatus, Snapshot, SnapshotCard
from stillframe.domain.tree import Node, SnapshotTree, build_tree
from stillframe.domain.vm import Action, PowerState, Vm
from stillframe.http.app import create_app
from stillframe.http.health import Monitor
from stillframe.operations.doctor import Report
from stillframe.operations.keys import KeyPage, NewKey
from stillframe.operations.links import LinkSigner
from stillframe.operations.log import LogPage
from stillframe.operations.overview import Consequences, MergeCost, Now, Overview
from stillframe.operations.quotas import TenantPage, TenantUse
from stillframe.operations.refusals import RefusedCall
from stillframe.operations.requests import Caller, Cluster, SnapshotPage, VmPage
from stillframe.operations.sessions import NewSession
from stillframe.operations.tasks import Task, TaskPage, TaskState
from stillframe.operations.use_cases import UseCases
from stillframe.ports.instruments import DatabaseFigures, Standing, TenantFigures
from stillframe.ports.keys import KeyRow
from stillframe.ports.log import LogLine
from stillframe.settings import Settings

CLUSTER = "650ea11b-b7fb-4269-8232-aa53865aab3b"
TENANT = "a5badacf-a25c-4171-9aff-b619fc2d300a"
VM = "b6b0e5b9-dacd-432b-9b83-c3e89799009d"
SNAPSHOT = "60fe79cb-0fc7-4d78-a0d7-64b9a87b47d2"
VOLUME = "3e8b046d-99a2-4a28-ba73-01c8af4d85e0"
DISK_SNAPSHOT = "25a949de-eaad-4f99-9bf8-b794578d8cfe"
MEMORY = "7f1f3bb8-6a24-4f3d-8d34-2d6c51d6a0f1"
OPERATION = "0c1a5d2e-4f6b-4a8c-9e0d-1b3f5a7c9e2b"
LINE = "5e3d1c9a-7b2f-4c60-9d8e-2f4a6b8c0d1e"
PNG = b"\x89PNG\r\n\x1a\n picture"
ADMIN_KEY = "the administrator's"
ADMIN = Principal("a0a0a0a0a0a0", Role.ADMINISTRATOR)
SIGNER = LinkSigner(b"secret", 1700000000)
CALLER = Caller(ADMIN, "192.0.2.7")
TOKEN = "7" * 64  # of a session of the administrator's
NOW = Now(SNAPSHOT, 1631166673, 1 << 16)
ENVELOPE = ["scode", "desc", "message", "message_cn", "stack", "data"]


def a_snapshot(**changes: Any) -> Snapshot:
    """The seed's example snapshot."""
    fields: dict[str, Any] = {
        "uuid": SNAPSHOT,
        "vm_uuid": VM,
        "seq": 1,
        "name": "origin",
        "description": "",
        "parent_uuid": None,
        "ctime": 1631166673,
        "tenant": "",
        "tenant_name": "",
        "namespace": "",
        "vm_detail": "",
        "definition_xml": "<domain><secret/></domain>",
        "definition_checksum": "blake3:0",
        "disks": (DiskSnapshot(DISK_SNAPSHOT, VOLUME, "layer", "sda"),),
    }
    return Snapshot(**{**fields, **changes})


def a_memory(**changes: Any) -> MemoryState:
    fields: dict[str, Any] = {
        "uuid": MEMORY,
        "location": f"file:///state/memory/{MEMORY}",
        "status": MemoryStatus.AVAILABLE,
        "mode": CaptureMode.BACKGROUND,
        "progress": 100,
        "size_bytes": 4096,
        "checksum": "blake3:abc",
    }
    return MemoryState(**{**fields, **changes})


def an_info() -> ComputeInspectInfo:
    source = DiskVsdSource(VOLUME, "root", 1 << 30, "pool", "local", 1, "SSD", "", "")
    return ComputeInspectInfo(
        tenant="default", tenant_name="默认", uuid=VM, name="测试", type="GUS", create_time=1, modify_time=2,
        state="running", ga_state="disconnected", action="noaction", os="linux", namespace="default", mem_size=1 << 28,
        mem_max=1 << 28, memory_huge_pages_enable=False, os_loader_path="BIOS", video=[], vnc_enable=True, vnc_port=5900,
        spice_port=-1, cpu_current="1", cpu_max_count=1, cpu_sockets=1, cpu_socket_cores=1, baseline="", interfaces=[],
        cdrom={}, floppy={}, disks=[DiskInfo("sda", "scsi", "none", "", "", True, disk_vsd_source=source)],
        device_order=["sda"], is_external_disk=False, has_passthrough_disk=False, cluster_uuid=CLUSTER,
        cluster_name="stillframe",
    )  # fmt: skip


def a_row() -> ComputeInfo:
    full = asdict(an_info())
    return ComputeInfo(**{name: full[name] for name in ComputeInfo.__dataclass_fields__})


class StubUseCases(UseCases):
    """Remembers what it was asked in ``asked``; ``outcomes`` by name of the call: a value, an exception or a function.

    Who looked is not among what a look was asked, but in ``viewers``. ``principals``: key -> who brings it. ``noted``: the
    refusals that the door noted.
    """

    def __init__(self) -> None:
        self.cluster = Cluster(CLUSTER, "stillframe")
        self.asked: list[tuple[Any, ...]] = []
        self.viewers: list[Principal] = []
        self.noted: list[RefusedCall] = []
        self.principals = {ADMIN_KEY: ADMIN}
        self.outcomes: dict[str, Any] = {
            "list_snapshots": SnapshotPage((a_snapshot(),), 1),
            "get_snapshot": a_snapshot(),
            "head_snapshot": a_snapshot(),
            "tree": a_tree(),
            "screenshot": PNG,
            "screenshot_by_link": (60, PNG),
            "link_signer": SIGNER,
            "create_key": NewKey(a_key(), "sfk_new"),
            "rotate_key": NewKey(a_key(), "sfk_new"),
            "list_keys": KeyPage((a_key(),), ""),
            "tenant_use": TenantPage(
                (TenantUse(TenantLimits(TENANT, space_bytes=1 << 30), Used(snapshots=3), True, 1 << 30, 7),), ""
            ),
            "create": a_snapshot(),
            "rollback": a_snapshot(),
            "rollback_volumes": lambda ref, entries, caller: entries,
            "list_vms": VmPage((a_row(),), 1),
            "inspect": an_info(),
            "create_guest": VM,
            "guest_console": "/run/console.log",
            "doctor": Report((), (), 1, deep=False),
            "repair": Report((), (), 1, deep=False),
            "list_log": LogPage((a_line(),), ""),
            "list_tasks": TaskPage((a_task(),), ""),
            "get_task": a_task(),
            "cancel_task": a_task(state=TaskState.CANCELLING, cancellable=False),
            "overview": an_overview(),
            "consequences": Consequences(NOW, "origin", None, (MergeCost("vda", 1 << 20),), 1 << 22),
            "power_state": "running",
            "open_session": NewSession(ADMIN, TOKEN, 1631166673),
        }

    def __getattribute__(self, name: str) -> Any:
        if name.startswith("_") or not callable(getattr(UseCases, name, None)):
            return object.__getattribute__(self, name)
        return lambda *args: self._outcome(name, args)

    def _outcome(self, name: str, args: tuple[Any, ...]) -> Any:
        if name == "authenticate":
            return self._authenticate(*args)
        if name == "resume_session":
            return self._authenticate({TOKEN: ADMIN_KEY}.get(args[0], ""))
        if name == "note_refusal":
            self.noted.append(args[0])
            return None
        if args and isinstance(args[-1], Principal):
            self.viewers.append(args[-1])
            args = args[:-1]
        if name != "link_signer":
            self.asked.append((name, *args))
        outcome = self.outcomes.get(name)
        if callable(outcome):
            return outcome(*args)
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def _authenticate(self, text: str) -> Principal:
        if text not in self.principals:
            raise refused(ErrorCase.NOT_AUTHENTICATED)
        return self.principals[text]


def a_key(**changes: Any) -> KeyRow:
    return replace(KeyRow("0123456789ab", Role.OPERATOR, TENANT, "测试", "00", "00", 1631166673, ""), **changes)


def a_line(**changes: Any) -> LogLine:
    """A create that went well."""
    fields: dict[str, Any] = {
        "uuid": LINE,
        "at": 1631166673,
        "who": "0123456789ab",
        "address": "192.0.2.7",
        "tenant": TENANT,
        "call": "create",
        "vm_uuid": VM,
        "vm_name": "测试",
        "mark": "GCD",
        "snapshot": "origin",
        "scode": 0,
        "desc": "",
        "duration_ms": 812,
        "operation_uuid": OPERATION,
    }
    return LogLine(**{**fields, **changes})


def a_task(**changes: Any) -> Task:
    """A memory save in the middle of its capture."""
    fields: dict[str, Any] = {
        "uuid": OPERATION,
        "kind": "save_memory",
        "compute_uuid": VM,
        "compute_name": "测试",
        "tenant": TENANT,
        "snapshot": "origin",
        "state": TaskState.RUNNING,
        "cancellable": True,
        "step": "await the capture",
        "steps_done": 0,
        "steps_total": 6,
        "progress": 40,
        "bytes_done": 1 << 30,
        "bytes_total": 2 << 30,
        "rate_bytes_s": 100 << 20,
        "time_left_s": 11,
        "started_at": 1631166673,
        "ended_at": None,
        "error": "",
        "scode": None,
    }
    return Task(**{**fields, **changes})


def an_overview() -> Overview:
    """A snapshot with memory, and what was written since."""
    vm = Vm(VM, "测试", PowerState.RUNNING, True, TENANT, "租户", "ns", 1 << 30, False, (), ())
    card = SnapshotCard(SNAPSHOT, 1, "origin", "", None, 1631166673, 1 << 20, "blake3:0", a_memory())
    layout = lay_out([Node(SNAPSHOT, "origin", None, 1)], SNAPSHOT)
    return Overview(vm, Action.NOACTION, NOW, (card,), layout)


def a_tree() -> SnapshotTree:
    return build_tree(VM, [Node(SNAPSHOT, "origin", None, 1)], SNAPSHOT)


def refused(case: ErrorCase, desc: str = "why") -> Refused:
    return Refused(case, desc)


class Watched:
    """The real figures; how things stand and whether the service is ready, as a test wants it."""

    def __init__(self) -> None:
        self.metrics = PrometheusMetrics("1.2.3")
        tenant = TenantFigures(TENANT, 1 << 20, 3 << 20, 5 << 20, 8 << 20, 7)
        self.standing = Standing(DatabaseFigures({"delete": 2}, {"rollback": 1}, (tenant,)), host_answers=True)
        self.not_ready = ""

    def monitor(self) -> Monitor:
        return Monitor(self.metrics, lambda: self.standing, self.metrics.render, lambda: self.not_ready)


class DoorClient:
    """Calls the application in-process; each answer is checked against the envelope and the OpenAPI document."""

    def __init__(self, **settings: Any) -> None:
        self.stub = StubUseCases()
        self.settings = Settings(**settings)
        self.watched = Watched()
        self.app: FastAPI = create_app(self.stub, self.settings, self.watched.monitor())
        self.client_host = "192.0.2.7"
        self._schemas = answer_schemas()

    def request(self, method: str, url: str, *, key: str = ADMIN_KEY, **arguments: Any) -> httpx.Response:
        """One request, with this key unless it is empty; ``raise_app_exceptions`` stays on: nothing may escape the application."""
        more = arguments.pop("headers", None)

        async def send() -> httpx.Response:
            transport = httpx.ASGITransport(app=self.app, client=(self.client_host, 1234))
            async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:
                headers = httpx.Headers({"ApiKey": key} if key else {}).raw + httpx.Headers(more).raw
                return await client.request(method, url, headers=headers, **arguments)

        response = asyncio.run(send())
        assert len(response.headers["X-Request-Id"]) == 32
        is_envelope = not response.headers.get("content-type", "").startswith("text/plain")  # see http/health.py
        if method != "HEAD" and response.status_code != HTTPStatus.NOT_MODIFIED and is_envelope:
            self._schemas.check(method, response)
        return response

    def request_raw_headers(self, url: str, headers: list[tuple[bytes, bytes]]) -> httpx.Response:
        """A GET with exactly these headers, which may be given twice."""
        return self.request("GET", url, key="", headers=headers)

    def get(self, url: str, **params: Any) -> dict[str, Any]:
        """The envelope of a GET."""
        return as_envelope(self.request("GET", url, params=params))

    def post(self, url: str, body: Any) -> dict[str, Any]:
        """The envelope of a POST."""
        return as_envelope(self.request("POST", url, json=body))

    def post_raw(self, url: str, raw: bytes, content_type: str = "application/json") -> dict[str, Any]:
        headers = {"Content-Type": content_type} if content_type else {}
        return as_envelope(self.request("POST", url, content=raw, headers=headers))


def as_envelope(response: httpx.Response) -> dict[str, Any]:
    envelope: dict[str, Any] = json.loads(response.content.decode("utf-8"))
    assert list(envelope) == ENVELOPE
    return envelope


def must_fail(envelope: dict[str, Any], case: ErrorCase) -> str:
    """The envelope is this case's, with a way through the project's frames; returns its ``desc``."""
    assert envelope["scode"] == case.code, envelope
    assert (envelope["message"], envelope["message_cn"]) == (case.value.message, case.value.message_cn)
    assert envelope["data"] == {}
    assert envelope["stack"]
    desc: str = envelope["desc"]
    return desc


def identified(**more: Any) -> dict[str, Any]:
    """A POST body that names the VM."""
    return {"cluster_uuid": CLUSTER, "tenant": TENANT, "compute_uuid": VM, **more}


@cache
def answer_schemas() -> AnswerSchemas:
    return AnswerSchemas(create_app(StubUseCases(), Settings(), Watched().monitor()).openapi())


class AnswerSchemas:
    """The OpenAPI document's answer schemas, closed: an undocumented field is an error here."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = copy.deepcopy(document)
        for schema in self.document["components"]["schemas"].values():
            if schema.get("type") == "object" and "properties" in schema:
                schema.setdefault("additionalProperties", False)

    def check(self, method: str, response: httpx.Response) -> None:
        """The answer is what the document says of this call, or the general error where it knows no such call."""
        path = response.request.url.path
        if path == "/openapi.json" or (
            path == "/" or (path.startswith("/console/") and response.status_code == HTTPStatus.OK)
        ):
            return
        operation = self.document["paths"].get(path, {}).get(method.lower())
        if operation is None and path.startswith("/v1/compute/vsd/snapshot/screenshot/"):
            operation = self.document["paths"]["/v1/compute/vsd/snapshot/screenshot/{snapshot_uuid}.png"]["get"]
        if operation is None:
            schema: dict[str, Any] = {"$ref": "#/components/schemas/Failure_EmptyData_"}
        else:
            answers = operation["responses"]
            answer = answers.get(str(response.status_code), answers["default"])
            media_type = response.headers["content-type"].partition(";")[0]
            schema = answer["content"][media_type]["schema"]
            if media_type != "application/json":
                return
        jsonschema.Draft202012Validator({**schema, "components": self.document["components"]}).validate(response.json())
