"""Signing in, the console's files, and what it is told while work goes on."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import anyio
import httpx
import pytest

from stillframe.domain.access import Principal, Role
from stillframe.domain.errors import ErrorCase
from stillframe.http.events import STREAMS_MAX_PER_KEY
from stillframe.http.pages import FILES, POLICY
from stillframe.operations.recovery import OPERATIONS
from stillframe.operations.tasks import TaskPage, TaskQuery, TaskState
from support.http_door import (
    ADMIN,
    ADMIN_KEY,
    TENANT,
    TOKEN,
    VM,
    DoorClient,
    a_task,
    as_envelope,
    identified,
    must_fail,
    refused,
)  # fmt: skip

SESSION = "/v1/stillframe/session"
EVENTS = "/v1/stillframe/events"
DELETE = "/v1/compute/vsd/snapshot/delete"
COOKIE = {"Cookie": f"other=1; stillframe_session={TOKEN}"}
OWN = {"X-Stillframe-Console": "1"}
_STATIC = files("stillframe.console") / "static"
_STEPS = re.compile(r"steps: \{([^{}]*)\}")
_STEP_NAME = re.compile(r'"?(\w[\w *:]*)"?: "([^"]+)"')


@pytest.fixture
def door() -> DoorClient:
    return DoorClient()


# --- signing in -------------------------------------------------------------------------------------------------------


def test_a_key_becomes_a_cookie_that_no_script_and_no_other_site_can_use(door: DoorClient) -> None:
    response = door.request("POST", f"{SESSION}/open", key="", json={"api_key": ADMIN_KEY})
    assert as_envelope(response)["data"] == {"key_id": ADMIN.key_id, "role": "administrator", "tenant": ""}
    cookie = response.headers["set-cookie"]
    assert cookie.startswith(f"stillframe_session={TOKEN}; ")
    assert {"HttpOnly", "SameSite=strict", "Path=/", "Max-Age=43200"} <= set(cookie.split("; "))
    assert "Secure" not in cookie
    assert door.stub.asked == [("open_session", ADMIN_KEY, "192.0.2.7")]


def test_where_the_service_is_reached_by_tls_the_cookie_goes_no_other_way() -> None:
    response = DoorClient(public_url="https://vms.example").request(
        "POST", f"{SESSION}/open", key="", json={"api_key": ADMIN_KEY}
    )
    assert "Secure" in response.headers["set-cookie"].split("; ")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "TRACE"])
def test_signing_in_has_one_method(door: DoorClient, method: str) -> None:
    response = door.request(method, f"{SESSION}/open", key="")
    must_fail(as_envelope(response), ErrorCase.CALL_UNKNOWN)
    assert response.headers["allow"] == "POST"


def test_who_signs_in_too_often_is_held_back() -> None:
    door = DoorClient(requests_per_s=1)
    door.stub.principals["reader"] = Principal("1" * 12, Role.READER, TENANT)
    codes = [
        as_envelope(door.request("POST", f"{SESSION}/open", key="", json={"api_key": "reader"}))["scode"]
        for _ in range(3)
    ]
    assert codes == [0, 0, ErrorCase.RATE_LIMITED.code]
    assert [asked[0] for asked in door.stub.asked] == ["open_session"] * 2


def test_a_wrong_key_is_refused_and_noted(door: DoorClient) -> None:
    response = door.request("POST", f"{SESSION}/open", key="", json={"api_key": "sfk_wrong"})
    must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)
    assert "set-cookie" not in response.headers
    assert [(noted.call, noted.principal) for noted in door.stub.noted] == [("session open", None)]
    assert "sfk_wrong" not in str(door.stub.noted)


def test_a_session_stands_for_its_key(door: DoorClient) -> None:
    assert as_envelope(door.request("GET", SESSION, key="", headers=COOKIE))["data"]["key_id"] == ADMIN.key_id
    response = door.request("POST", DELETE, key="", headers={**COOKIE, **OWN}, json=identified(name="a"))
    assert as_envelope(response)["scode"] == 0
    assert door.stub.asked[-1][-1].principal == ADMIN


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {**OWN, "Sec-Fetch-Site": "cross-site"},
        {**OWN, "Sec-Fetch-Site": "same-site"},
    ],
)
def test_what_another_page_makes_a_browser_send_changes_nothing(door: DoorClient, headers: dict[str, str]) -> None:
    response = door.request("POST", DELETE, key="", headers={**COOKIE, **headers}, json=identified(name="a"))
    must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)
    assert door.stub.asked == []


def test_another_site_reads_nothing_by_a_session(door: DoorClient) -> None:
    headers = {**COOKIE, "Sec-Fetch-Site": "cross-site"}
    must_fail(
        as_envelope(door.request("GET", "/v1/compute/list", key="", headers=headers)), ErrorCase.NOT_AUTHENTICATED
    )
    own = {**COOKIE, "Sec-Fetch-Site": "same-origin"}
    response = door.request("GET", "/v1/compute/list", key="", headers=own)
    assert as_envelope(response)["scode"] == 0
    assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("cookie", ["stillframe_session=", f"stillframe_session={'8' * 64}", f"x{TOKEN}", "=;;"])
def test_a_session_that_is_none_is_refused(door: DoorClient, cookie: str) -> None:
    response = door.request("GET", "/v1/compute/list", key="", headers={"Cookie": cookie})
    must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)


def test_a_header_counts_more_than_a_cookie(door: DoorClient) -> None:
    response = door.request("GET", SESSION, key="wrong", headers=COOKIE)
    must_fail(as_envelope(response), ErrorCase.NOT_AUTHENTICATED)


def test_signing_out_ends_the_session_and_the_cookie(door: DoorClient) -> None:
    response = door.request("POST", f"{SESSION}/end", key="", headers={**COOKIE, **OWN}, json={})
    assert as_envelope(response)["scode"] == 0
    assert 'stillframe_session=""' in response.headers["set-cookie"]
    assert door.stub.asked[0][:2] == ("end_session", TOKEN)
    door.stub.asked.clear()
    assert door.post(f"{SESSION}/end", {})["scode"] == 0
    assert door.stub.asked == [], "a key has no session"


# --- the files --------------------------------------------------------------------------------------------------------


def test_the_console_needs_no_key_and_loads_nothing_from_elsewhere(door: DoorClient) -> None:
    for path in ("/", *(f"/console/{name}" for name in FILES)):
        response = door.request("GET", path, key="", headers={"Cookie": "stillframe_session=stale"})
        assert (response.status_code, response.headers["content-security-policy"]) == (200, POLICY), path
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.content
        for elsewhere in ("http://", "https://", "//cdn", "innerHTML", "eval("):
            found = response.text.replace("http://www.w3.org/", "")
            assert elsewhere not in found, (path, elsewhere)
        again = door.request("GET", path, key="", headers={"If-None-Match": response.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert door.stub.asked == []


@pytest.mark.parametrize("name", ["nothing.js", "..%2fpicture.py", "%2e%2e/picture.py", "index.html.bak", ""])
def test_what_is_not_the_consoles_is_not_there(door: DoorClient, name: str) -> None:
    must_fail(as_envelope(door.request("GET", f"/console/{name}", key="")), ErrorCase.CALL_UNKNOWN)


# --- events -----------------------------------------------------------------------------------------------------------


def told(text: str) -> list[tuple[str, Any]]:
    found = []
    for block in text.strip().split("\n\n"):
        name, data = block.split("\n")
        found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


def test_how_it_is_now(door: DoorClient) -> None:
    response = door.request("GET", EVENTS, params={"compute_uuid": VM, "wait_s": "0"})
    assert response.headers["content-type"].startswith("text/event-stream")
    (name, state), end = told(response.text)
    assert (name, state["vm"], end) == ("state", {"state": "running"}, ("end", {}))
    assert state["tasks"][0]["progress"] == 40


def test_without_a_machine_it_is_the_tasks_alone(door: DoorClient) -> None:
    (_, state), _ = told(door.request("GET", EVENTS, params={"wait_s": "0"}).text)
    assert state["vm"] is None
    assert [asked[0] for asked in door.stub.asked] == ["check_usable", "list_tasks"] or "list_tasks" in str(
        door.stub.asked
    )


def test_what_goes_on_for_long_is_told_however_much_has_begun_since(door: DoorClient) -> None:
    newest, long = a_task(uuid=VM, state=TaskState.DONE), a_task()

    def list_tasks(query: TaskQuery) -> TaskPage:
        return TaskPage((long,), "") if query.under_way else TaskPage((newest,), VM)

    door.stub.outcomes["list_tasks"] = list_tasks
    (_, state), _ = told(door.request("GET", EVENTS, params={"wait_s": "0"}).text)
    assert [task["uuid"] for task in state["tasks"]] == [newest.uuid, long.uuid]


def test_what_is_wrong_with_the_question_is_an_envelope(door: DoorClient) -> None:
    door.stub.outcomes["power_state"] = refused(ErrorCase.VM_UNKNOWN)
    must_fail(as_envelope(door.request("GET", EVENTS, params={"compute_uuid": VM})), ErrorCase.VM_UNKNOWN)
    must_fail(as_envelope(door.request("GET", EVENTS, params={"wait_s": "-1"})), ErrorCase.PARAMETER_MALFORMED)
    door.stub.noted.clear()
    browser = door.request("GET", EVENTS, params={"compute_uuid": VM}, headers={"Accept": "text/event-stream"})
    ((name, envelope),) = told(browser.text)
    assert (name, envelope["scode"]) == ("end", ErrorCase.VM_UNKNOWN.code)


def test_changes_are_told_once_and_the_end_of_a_key_ends_the_stream(door: DoorClient) -> None:
    looks = iter([40, 40, 70])

    def list_tasks(_query: Any) -> TaskPage:
        progress = next(looks)
        if progress == 70:
            door.stub.principals.clear()
        return TaskPage((a_task(progress=progress),), "")

    door.stub.outcomes["list_tasks"] = list_tasks
    first, second, (name, envelope) = told(door.request("GET", EVENTS, key="", headers=COOKIE).text)
    assert [one[1]["tasks"][0]["progress"] for one in (first, second)] == [40, 70]
    assert (name, envelope["scode"]) == ("end", ErrorCase.NOT_AUTHENTICATED.code)


def test_streams_are_counted_and_end_when_the_service_stops(door: DoorClient) -> None:
    """As many of one key as may be, one on top, and one of another key."""
    door.stub.principals["reader"] = Principal("1" * 12, Role.READER, TENANT)

    async def crowd() -> tuple[list[str], str]:
        transport = httpx.ASGITransport(app=door.app)
        async with httpx.AsyncClient(transport=transport, base_url="http://door") as client:

            async def ask(key: str) -> None:
                answers.append((await client.get(EVENTS, headers={"ApiKey": key})).text)
                one_has_ended.set()

            answers: list[str] = []
            one_has_ended = anyio.Event()
            async with anyio.create_task_group() as group:
                for _ in range(STREAMS_MAX_PER_KEY + 1):
                    group.start_soon(ask, ADMIN_KEY)
                group.start_soon(ask, "reader")
                with anyio.fail_after(20):
                    await one_has_ended.wait()
                    browser = await client.get(EVENTS, headers={"ApiKey": ADMIN_KEY, "Accept": "text/event-stream"})
                door.app.state.streams.stop()
            return answers, browser.text

    answers, browser = anyio.run(crowd)
    assert json.loads(answers[0])["scode"] == ErrorCase.TOO_BUSY.code
    assert [told(text)[-1][0] for text in answers[1:]] == ["end"] * (STREAMS_MAX_PER_KEY + 1)
    # an envelope it could not read, and would say that there is no connection
    ((name, envelope),) = told(browser)
    assert (name, envelope["scode"]) == ("end", ErrorCase.TOO_BUSY.code)
    assert as_envelope(door.request("GET", EVENTS, params={"wait_s": "0"}, key="x"))["scode"] != 0


def test_every_word_of_the_console_is_said_in_both_languages_and_somewhere() -> None:
    """By its name as a string: ``t("name")``, also where that is chosen between two."""
    scripts = {name: (_STATIC / name).read_text("utf-8") for name in FILES if name.endswith(".js")}
    english, rest = scripts["words.js"].split("const ZH = {")
    chinese, code = rest.split("const DICTIONARIES")
    words = _words_in(english)
    assert words == _words_in(chinese)
    assert len(words) > 100
    used = "".join([code, *(text for name, text in scripts.items() if name != "words.js")])
    assert [word for word in sorted(words) if f'"{word}"' not in used] == []


def test_every_step_of_every_operation_has_a_name_in_both_languages() -> None:
    """By its family, as ``stepName`` asks for it; and none of a step that there is not."""
    english, chinese = (_STATIC / "words.js").read_text("utf-8").split("const ZH = {")
    families = {family for operation in OPERATIONS.values() for family in operation.families}
    names = [dict(_STEP_NAME.findall(_STEPS.findall(dictionary)[0])) for dictionary in (english, chinese)]
    assert [set(one) for one in names] == [families, families]
    assert [family for family, name in names[1].items() if name.isascii()] == []


def _words_in(dictionary: str) -> set[str]:
    """The names of the words, those of one and of many included, without those of groups."""
    return set(re.findall(r"(\w+): \[?\"", re.sub(r"\w+: \{[^{}]*\}", "", dictionary.rsplit("= {", maxsplit=1)[-1])))
