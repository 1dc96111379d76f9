"""``/healthz``, ``/readyz`` and ``/metrics``: who may ask, what they say, and that they keep to the door's rules."""

from __future__ import annotations

import pytest
from prometheus_client.parser import text_string_to_metric_families

from stillframe.domain.access import Principal, Role
from stillframe.domain.errors import ErrorCase
from stillframe.ports.instruments import Standing
from support.http_door import ADMIN_KEY, TENANT, VM, DoorClient, as_envelope, must_fail, refused
from support.http_server import RawConnection, serving


@pytest.fixture
def door() -> DoorClient:
    client = DoorClient()
    client.stub.principals["operator"] = Principal("0" * 12, Role.OPERATOR, TENANT)
    return client


def figures(door: DoorClient, **arguments: object) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    """Sample name -> labels -> value of a scrape."""
    response = door.request("GET", "/metrics", **arguments)
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(response.text):
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


# --- is it there ----------------------------------------------------------------------------------------------------


def test_health_needs_no_key_and_asks_nothing(door: DoorClient) -> None:
    response = door.request("GET", "/healthz", key="")
    assert (response.status_code, response.text) == (200, "ok\n")
    assert response.headers["cache-control"] == "no-store"
    assert door.stub.asked == []


@pytest.mark.parametrize("why", ["recovering", "database", "hypervisor"])
def test_readiness_is_a_status_and_a_word(door: DoorClient, why: str) -> None:
    assert (door.request("GET", "/readyz", key="").status_code, door.stub.asked) == (200, [])
    door.watched.not_ready = why
    response = door.request("GET", "/readyz", key="")
    assert (response.status_code, response.text) == (503, f"not ready: {why}\n")


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_head_is_the_same_without_the_body(door: DoorClient, path: str) -> None:
    got, head = (door.request(method, path) for method in ("GET", "HEAD"))
    assert (head.status_code, head.content) == (200, b"")
    for name in ("content-type", "cache-control", "x-content-type-options"):
        assert head.headers[name] == got.headers[name]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_they_keep_to_the_doors_bounds(door: DoorClient, path: str) -> None:
    """A body that is too large, a query that is, and another method end as everywhere."""
    must_fail(as_envelope(door.request("GET", path, content=b"x" * (2 << 20))), ErrorCase.BODY_TOO_LARGE)
    must_fail(as_envelope(door.request("GET", f"{path}?{'x' * 40_000}")), ErrorCase.URL_TOO_LONG)
    must_fail(as_envelope(door.request("POST", path)), ErrorCase.CALL_UNKNOWN)


def test_they_are_no_part_of_the_document(door: DoorClient) -> None:
    assert not {"/healthz", "/readyz", "/metrics"} & door.app.openapi()["paths"].keys()


# --- who may see the metrics -----------------------------------------------------------------------------------------


def test_metrics_are_an_administrators(door: DoorClient) -> None:
    assert "stillframe_build_info" in figures(door)
    assert "stillframe_build_info" in figures(door, key="", headers=bearer(ADMIN_KEY))
    assert "stillframe_build_info" in figures(door, key="", headers={"Authorization": f"bearer  {ADMIN_KEY}"})


@pytest.mark.parametrize(
    ("headers", "case", "status"),
    [
        ({}, ErrorCase.NOT_AUTHENTICATED, 401),
        (bearer("wrong"), ErrorCase.NOT_AUTHENTICATED, 401),
        ({"Authorization": f"Basic {ADMIN_KEY}"}, ErrorCase.NOT_AUTHENTICATED, 401),
        ({"ApiKey": ADMIN_KEY, **bearer(ADMIN_KEY)}, ErrorCase.NOT_AUTHENTICATED, 401),
        (bearer("operator"), ErrorCase.NOT_ALLOWED, 403),
        ({"ApiKey": "operator"}, ErrorCase.NOT_ALLOWED, 403),
    ],
)
def test_nobody_else_sees_them(door: DoorClient, headers: dict[str, str], case: ErrorCase, status: int) -> None:
    """With a true status: a scraper would read an envelope of status 200 as figures that it cannot parse."""
    response = door.request("GET", "/metrics", key="", headers=headers)
    assert response.status_code == status
    must_fail(as_envelope(response), case)
    assert TENANT not in response.text
    assert [one.case for one in door.stub.noted] == [case]


def test_a_bearer_is_no_key_for_any_other_call(door: DoorClient) -> None:
    for path in ("/v1/compute/list", "/metrics/", "/v1/stillframe/doctor"):
        response = door.request("GET", path, key="", headers=bearer(ADMIN_KEY))
        must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)


@pytest.mark.parametrize(
    ("peer", "headers", "may"),
    [
        ("127.0.0.1", {"Host": "127.0.0.1:8080"}, True),
        ("::1", {"Host": "[::1]:8080"}, True),
        ("127.0.0.1", {"Host": "localhost"}, True),
        ("192.0.2.7", {"Host": "127.0.0.1:8080"}, False),
        # a proxy on this machine hands on what others ask
        ("127.0.0.1", {"Host": "127.0.0.1", "X-Forwarded-For": "192.0.2.7"}, False),
        ("127.0.0.1", {"Host": "127.0.0.1", "Forwarded": "for=192.0.2.7"}, False),
        # a page from elsewhere, whose name was made to mean this machine
        ("127.0.0.1", {"Host": "rebound.example:8080"}, False),
        ("127.0.0.1", {"Host": "localhost.example"}, False),
    ],
)
def test_open_metrics_are_open_to_this_machine_alone(peer: str, headers: dict[str, str], may: bool) -> None:
    door = DoorClient(metrics_open=True)
    door.client_host = peer
    response = door.request("GET", "/metrics", key="", headers=headers)
    assert response.status_code == (200 if may else 401)
    door.request("GET", "/v1/compute/list", key="", headers=headers)
    assert door.stub.asked == [], "nothing else is open"


def test_closed_metrics_are_closed_to_this_machine_too(door: DoorClient) -> None:
    door.client_host = "127.0.0.1"
    assert door.request("GET", "/metrics", key="", headers={"Host": "127.0.0.1"}).status_code == 401


# --- what they say --------------------------------------------------------------------------------------------------


def test_how_things_stand(door: DoorClient) -> None:
    seen = figures(door)
    tenant = (("tenant", TENANT),)
    assert seen["stillframe_database_reachable"] == seen["stillframe_host_reachable"] == {(): 1}
    assert seen["stillframe_active_operations"] == {(("kind", "delete"),): 2}
    assert seen["stillframe_left_operations"] == {(("kind", "rollback"),): 1}
    assert seen["stillframe_tenant_space_used_bytes"] == {tenant: 1 << 20}
    assert seen["stillframe_tenant_space_budget_bytes"] == {tenant: 3 << 20}
    assert seen["stillframe_tenant_memory_used_bytes"] == {tenant: 5 << 20}
    assert seen["stillframe_tenant_memory_budget_bytes"] == {tenant: 8 << 20}
    assert seen["stillframe_tenant_snapshots"] == {tenant: 7}
    (build,) = seen["stillframe_build_info"]
    assert dict(build)["version"] == "1.2.3"


def test_what_is_not_known_is_absent_and_that_is_said(door: DoorClient) -> None:
    door.watched.standing = Standing(None, host_answers=False)
    seen = figures(door)
    assert seen["stillframe_database_reachable"] == seen["stillframe_host_reachable"] == {(): 0}
    assert "stillframe_tenant_snapshots" not in seen
    assert "stillframe_active_operations" not in seen
    assert "stillframe_http_active_requests" in seen, "the rest is there"


def test_requests_are_counted_by_call_class_and_code(door: DoorClient) -> None:
    door.stub.outcomes["tree"] = refused(ErrorCase.VM_UNKNOWN)
    where = {"cluster_uuid": "", "compute_uuid": VM}
    for path, key in (
        ("/v1/compute/list", ADMIN_KEY),
        ("/v1/compute/list", ""),
        ("/v1/compute/vsd/snapshot/tree", ADMIN_KEY),
        (f"/v1/compute/vsd/snapshot/screenshot/{VM}.png", ADMIN_KEY),
        ("/v1/nothing", ADMIN_KEY),
        ("/v1/nothing/else", ADMIN_KEY),
    ):
        door.request("GET", path, key=key, params=where)
    door.request("HEAD", "/v1/compute/list", params=where)
    seen = figures(door)
    requests = {
        (dict(labels)["call"], dict(labels)["code"]): n for labels, n in seen["stillframe_http_requests_total"].items()
    }
    assert requests == {
        ("listVms", "2xx"): 3, ("getSnapshotTree", "2xx"): 1, ("getScreenshot", "2xx"): 1, ("other", "2xx"): 2,
    }  # fmt: skip
    failures = {
        (dict(labels)["call"], int(dict(labels)["scode"])): n
        for labels, n in seen["stillframe_http_request_failures_total"].items()
    }
    assert failures == {
        ("listVms", ErrorCase.NOT_AUTHENTICATED.code): 1,
        ("getSnapshotTree", ErrorCase.VM_UNKNOWN.code): 1,
        ("other", ErrorCase.CALL_UNKNOWN.code): 2,
    }
    assert seen["stillframe_http_request_duration_seconds_count"][(("call", "listVms"),)] == 3
    assert seen["stillframe_http_active_requests"] == {(): 1}, "the scrape itself"


def test_connections_are_counted_by_the_server() -> None:
    door = DoorClient()
    assert "stillframe_http_open_connections" not in figures(door)
    with serving(door.app) as address, RawConnection(address), RawConnection(address) as asking:
        asking.say(b"GET /metrics HTTP/1.1\r\nHost: door\r\nAuthorization: Bearer " + ADMIN_KEY.encode() + b"\r\n\r\n")
        status, _, body = asking.hear()
        assert status == "HTTP/1.1 200 OK"
        assert "stillframe_http_open_connections 2.0" in body.decode().splitlines()
