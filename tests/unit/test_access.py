"""Who may do what, and what the door makes of it: every call declares what it needs."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter
from pydantic import ValidationError

from stillframe.domain.access import Need, Principal, Role
from stillframe.domain.errors import ErrorCase, Refused
from stillframe.http.links import SCREENSHOT_PATH
from stillframe.http.parsing import StrictRoute
from stillframe.listening import local_url, why_not_kept, why_not_listen, write_secret
from stillframe.settings import Settings
from support.http_door import TENANT, VM, DoorClient, as_envelope, identified, must_fail, refused

SNAPSHOTS = "/v1/compute/vsd/snapshot"
WHERE = {"cluster_uuid": "", "compute_uuid": VM}


@pytest.fixture
def door() -> DoorClient:
    client = DoorClient()
    client.stub.principals |= {
        "operator": Principal("0" * 12, Role.OPERATOR, TENANT),
        "reader": Principal("1" * 12, Role.READER, TENANT),
    }
    return client


@pytest.mark.parametrize(
    ("role", "may"),
    [(Role.ADMINISTRATOR, set(Need)), (Role.OPERATOR, {Need.LOOK, Need.ACT}), (Role.READER, {Need.LOOK})],
)
def test_what_a_role_may(role: Role, may: set[Need]) -> None:
    for need in Need:
        if need in may:
            Principal("k", role).check(need)
        else:
            with pytest.raises(Refused) as refusal:
                Principal("k", role).check(need)
            assert refusal.value.case is ErrorCase.NOT_ALLOWED


def test_a_tenant_sees_its_own_alone_and_an_administrator_everything() -> None:
    bound = Principal("k", Role.OPERATOR, "t1")
    assert (bound.sees("t1"), bound.sees("t2"), bound.sees(""), bound.bound) == (True, False, False, "t1")
    free = Principal("k", Role.ADMINISTRATOR)
    assert (free.sees("t1"), free.sees(""), free.bound) == (True, True, None)


def test_without_a_key_there_is_nothing_but_the_document_and_the_consoles_files(door: DoorClient) -> None:
    for method, path in (
        ("GET", "/v1/compute/list"),
        ("POST", f"{SNAPSHOTS}/create"),
        ("GET", "/console"),
        ("GET", "/v1/x"),
    ):
        must_fail(as_envelope(door.request(method, path, key="")), ErrorCase.NOT_AUTHENTICATED)
    assert door.request("GET", "/openapi.json", key="").status_code == 200
    assert door.stub.asked == []


@pytest.mark.parametrize("key", ["wrong", "x" * 300, "schlüssel", " "])
def test_a_wrong_key_is_refused(door: DoorClient, key: str) -> None:
    headers = [("ApiKey", key.encode("latin-1"))]
    must_fail(
        as_envelope(door.request("GET", "/v1/compute/list", key="", headers=dict(headers))), ErrorCase.NOT_AUTHENTICATED
    )
    assert door.stub.asked == []


def test_of_two_keys_none_counts(door: DoorClient) -> None:
    raw = [(b"ApiKey", b"reader"), (b"apikey", b"operator")]
    desc = must_fail(as_envelope(door.request_raw_headers("/v1/compute/list", raw)), ErrorCase.NOT_AUTHENTICATED)
    assert desc.startswith("2 ApiKey headers")


def test_a_key_is_judged_before_the_body_is_read(door: DoorClient) -> None:
    response = door.request("POST", f"{SNAPSHOTS}/create", key="", content=b"x" * (2 << 20))
    must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)


def test_a_key_that_stops_while_its_body_is_sent_is_refused(door: DoorClient) -> None:
    """Its beginning came while the key worked, and its end only after it was stopped."""

    class Stops(dict[str, Principal]):
        def __getitem__(self, text: str) -> Principal:
            return self.pop(text)

    door.stub.principals = Stops(operator=Principal("0" * 12, Role.OPERATOR, TENANT))
    response = door.request("POST", f"{SNAPSHOTS}/delete", key="operator", json=identified(name="a"))
    must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)
    assert door.stub.asked == []


def test_a_key_that_stops_before_the_end_of_an_empty_body_is_refused(door: DoorClient) -> None:
    """A call that only looks can be held back as well: by chunks of which the last and empty one does not come."""

    class Stops(dict[str, Principal]):
        def __getitem__(self, text: str) -> Principal:
            return self.pop(text)

    async def nothing() -> AsyncIterator[bytes]:
        for part in ():
            yield part

    door.stub.principals = Stops(reader=Principal("0" * 12, Role.READER, TENANT))
    response = door.request("GET", f"{SNAPSHOTS}/tree", key="reader", params=WHERE, content=nothing())
    assert response.request.headers["Transfer-Encoding"] == "chunked"
    must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)
    assert door.stub.viewers == []


def test_a_reader_may_look_and_change_nothing(door: DoorClient) -> None:
    looked = door.request("GET", f"{SNAPSHOTS}/tree", key="reader", params=WHERE)
    assert as_envelope(looked)["scode"] == 0
    door.stub.asked.clear()
    for body in (b"{}", b"not JSON", b""):
        response = door.request("POST", f"{SNAPSHOTS}/create", key="reader", content=body)
        desc = must_fail(as_envelope(response), ErrorCase.NOT_ALLOWED)
        assert "1" * 12 in desc
    assert door.stub.asked == []


def test_a_tenants_key_that_asks_too_often_is_told_when_to_come_back() -> None:
    client = DoorClient(requests_per_s=1)
    client.stub.principals["reader"] = Principal("1" * 12, Role.READER, TENANT)
    for _ in range(2):
        assert as_envelope(client.request("GET", "/v1/compute/list", key="reader"))["scode"] == 0
    response = client.request("POST", f"{SNAPSHOTS}/create", key="reader", content=b"x" * (2 << 20))
    must_fail(as_envelope(response), ErrorCase.RATE_LIMITED)
    assert response.headers["retry-after"] == "1"
    for _ in range(5):
        assert client.get("/v1/compute/list")["scode"] == 0, "an administrator is not held back"


def test_administration_is_no_tenants_business(door: DoorClient) -> None:
    for path in ("/v1/stillframe/doctor", "/v1/stillframe/key/list"):
        must_fail(as_envelope(door.request("GET", path, key="operator")), ErrorCase.NOT_ALLOWED)
    assert (
        as_envelope(door.request("POST", f"{SNAPSHOTS}/delete", key="operator", json=identified(name="a")))["scode"]
        == 0
    )
    assert door.stub.asked[0][-1].who == "0" * 12


def test_a_tenants_no_such_thing_takes_as_long_whatever_was_found_out(door: DoorClient) -> None:
    """Both leave at a full twentieth of a second: what differs before that is not seen."""
    door.stub.outcomes["tree"] = refused(ErrorCase.VM_UNKNOWN)
    for key in ("reader", "operator"):
        response = door.request("GET", f"{SNAPSHOTS}/tree", key=key, params=WHERE)
        must_fail(as_envelope(response), ErrorCase.VM_UNKNOWN)
        assert response.elapsed.total_seconds() >= 0.05
    assert len(door.stub.viewers) == 2


def test_a_picture_that_is_not_a_tenants_takes_as_long_as_one_that_is_not_there(door: DoorClient) -> None:
    door.stub.outcomes["screenshot"] = refused(ErrorCase.SNAPSHOT_UNKNOWN)
    response = door.request("GET", f"{SCREENSHOT_PATH}/{VM}.png", key="reader")
    must_fail(as_envelope(response), ErrorCase.SNAPSHOT_UNKNOWN)
    assert response.elapsed.total_seconds() >= 0.05


def test_a_call_that_declares_nothing_cannot_be_routed() -> None:
    router = APIRouter(route_class=StrictRoute)

    async def forgotten() -> None: ...

    with pytest.raises(LookupError, match="forgotten does not declare"):
        router.get("/v1/forgotten")(forgotten)


def test_every_call_of_the_document_is_behind_the_strict_route(door: DoorClient) -> None:
    """What is not could be called by anybody who has any key."""
    paths = door.app.openapi()["paths"]
    served = {(method, path) for path, methods in paths.items() for method in methods}
    strict = {
        (method.lower(), route.path)
        for route in _routes(door.app.router)
        if isinstance(route, StrictRoute)
        for method in route.methods
    }
    assert served == strict


def _routes(router: Any) -> list[Any]:
    found: list[Any] = []
    for route in router.routes:
        inner = getattr(route, "original_router", None)
        found += _routes(inner) if inner is not None else [route]
    return found


def test_keys_are_shown_once(door: DoorClient) -> None:
    made = door.post("/v1/stillframe/key/create", {"role": "operator", "tenant": TENANT})["data"]
    assert made["api_key"] == "sfk_new"
    listed = door.get("/v1/stillframe/key/list")["data"]["list"]
    assert all("api_key" not in row and "digest" not in row and "salt" not in row for row in listed)


@pytest.mark.parametrize(
    "body",
    [
        {"role": "root"},
        {"role": ""},
        {},
        {"role": "reader", "tenant": "x" * 300},
        {"role": "reader", "tenant": "a\nb"},
        {"role": "reader", "tenant": "t", "expires_at": 0},
        {"role": "reader", "tenant": "t", "expires_at": "soon"},
        {"role": "reader", "tenant": "t", "expires_at": 253_402_300_800},
    ],
)
def test_odd_keys_are_not_made(door: DoorClient, body: dict[str, Any]) -> None:
    assert door.post("/v1/stillframe/key/create", body)["scode"] in (21001, 21002)
    assert door.stub.asked == []


# --- where it may listen --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("listen", "may"),
    [
        ("127.0.0.1:8080", True), ("127.9.9.9:1", True), ("[::1]:8080", True), ("localhost:1", True),
        ("0.0.0.0:8080", False), ("[::]:8080", False), ("192.0.2.1:8080", False), ("host.example:8080", False),
    ],
)  # fmt: skip
def test_beyond_loopback_keys_need_tls_or_a_word(listen: str, may: bool) -> None:
    refusal = why_not_listen(Settings(listen=listen))
    assert (refusal == "") is may
    if not may:
        assert "--plain-http" in refusal
        assert "拒绝" in refusal
    assert why_not_listen(Settings(listen=listen, plain_http=True)) == ""


def test_a_certificate_without_its_key_is_refused(tmp_path: Path) -> None:
    assert "belong together" in why_not_listen(Settings(tls_certificate=tmp_path / "c.pem"))
    assert "belong together" in why_not_listen(Settings(tls_key=tmp_path / "k.pem"))
    missing = why_not_listen(Settings(tls_certificate=tmp_path / "c.pem", tls_key=tmp_path / "k.pem"))
    assert "No such file" in missing
    for name in ("c.pem", "k.pem"):
        (tmp_path / name).write_text("nonsense")
    assert "not a certificate" in why_not_listen(
        Settings(tls_certificate=tmp_path / "c.pem", tls_key=tmp_path / "k.pem")
    )


def test_how_commands_reach_a_service_that_listens_everywhere() -> None:
    everywhere = "0.0.0.0"  # noqa: S104 -- nothing is bound to it here
    assert local_url("https", everywhere, 1) == "https://127.0.0.1:1"
    assert local_url("http", "::", 1) == "http://[::1]:1"
    assert local_url("http", "::1", 1) == "http://[::1]:1"


def test_a_secret_is_its_owners_alone(tmp_path: Path) -> None:
    path = tmp_path / "admin.key"
    path.write_text("old")
    path.chmod(0o644)
    write_secret(path, "new")
    assert (path.read_text(), path.stat().st_mode & 0o777) == ("new\n", 0o600)
    assert [entry.name for entry in tmp_path.iterdir()] == ["admin.key"]


def test_a_secret_is_not_written_through_somebodys_link(tmp_path: Path) -> None:
    """A link that waits at the temporary name is removed, not followed."""
    target = tmp_path / "elsewhere"
    (tmp_path / "admin.new").symlink_to(target)
    write_secret(tmp_path / "admin.key", "new")
    assert not target.exists()


@pytest.mark.parametrize(
    ("mode", "refused"), [(0o700, False), (0o711, False), (0o755, False), (0o775, True), (0o777, True)]
)
def test_a_state_directory_that_others_may_write_into_is_refused(tmp_path: Path, mode: int, refused: bool) -> None:
    state = tmp_path / "state"
    state.mkdir()
    state.chmod(mode)
    refusal = why_not_kept(state)
    assert ("chmod go-w" in refusal) is refused


@pytest.mark.skipif(os.geteuid() != 0, reason="giving files to others needs root")
def test_a_state_directory_of_somebody_else_is_refused_and_keeps_its_key(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir(mode=0o711)
    os.chown(state, 65534, 65534)
    refusal = why_not_kept(state)
    assert "uid 65534" in refusal
    assert "拒绝" in refusal
    write_secret(state / "admin.key", "new")
    written = (state / "admin.key").stat()
    assert (written.st_uid, written.st_gid, written.st_mode & 0o777) == (65534, 65534, 0o600)


@pytest.mark.parametrize("listen", ["foo", ":8080", "127.0.0.1", "127.0.0.1:http", "127.0.0.1:70000", "[::1]"])
def test_what_is_no_address_is_a_wrong_setting(listen: str) -> None:
    with pytest.raises(ValidationError, match="expected an address and a port"):
        Settings(listen=listen)
