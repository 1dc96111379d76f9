"""The console at awkward moments: left in the middle, hidden, asked too early, signed out, its machine gone."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, Route, expect

from browser.conftest import HIDE, OpenTab, Tab, holding
from stillframe.domain.errors import ErrorCase
from support.offline import domain_xml, file_disk, image, lot, offline
from support.service import Service, Vm

CREATE = "**/v1/compute/vsd/snapshot/create"
FOCUSED = "document.activeElement.textContent"


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Vm, Vm]]:
    """Both shut off, with two disks each; the first has two snapshots."""
    service = Service()
    try:
        lots = [lot(service, name) for name in ("db-one", "db-two")]
        disks = [[file_disk(image(one.directory / f"{disk}.qcow2", size="1M"), disk) for disk in ("vda", "vdb")] for one in lots]  # fmt: skip
        offline(service, *[("define", domain_xml(one, files)) for one, files in zip(lots, disks, strict=True)])
        service.start()
        one, two = (each.vm(service) for each in lots)
        one.create("base")
        one.create("next")
        yield one, two
    finally:
        service.destroy()


@pytest.fixture
def one(machines: tuple[Vm, Vm], tab: OpenTab) -> Tab:
    """Signed in, at the first machine."""
    opened = tab(machines[0].service)
    opened.sign_in()
    opened.open(machines[0])
    return opened


def press(page: Page, act: str) -> None:
    """By keys, as who cannot see where a mouse is."""
    page.get_by_role("button", name=act, exact=True).first.focus()
    page.keyboard.press("Enter")
    page.get_by_role("dialog").wait_for()


def test_what_fails_behind_a_dialog_that_was_left_is_said(one: Tab) -> None:
    page = one.page
    held: list[Route] = []
    page.route(CREATE, holding(held))
    press(page, "Take snapshot")
    page.get_by_role("dialog").get_by_label("Name").fill("base")
    with page.expect_request(CREATE):
        page.get_by_role("dialog").get_by_role("button", name="Take snapshot").click()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    held[0].continue_()
    expect(page.locator(".notice.error")).to_contain_text(ErrorCase.NAME_TAKEN.value.message)


def test_a_dialog_ends_with_its_page_and_with_the_session(machines: tuple[Vm, Vm], one: Tab) -> None:
    page = one.page
    press(page, "Take snapshot")
    page.evaluate(f"location.hash = '#/vm/{machines[1].uuid}'")
    expect(page.get_by_role("heading", name="db-two")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)
    press(page, "Take snapshot")
    page.evaluate(
        "fetch('/v1/stillframe/session/end', {method: 'POST', body: '{}',"
        " headers: {'X-Stillframe-Console': '1', 'Content-Type': 'application/json'}})"
    )
    expect(page.get_by_label("API key")).to_be_visible()
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_who_works_by_keys_stays_where_they_were(one: Tab) -> None:
    """What is drawn anew behind a dialog, or beside it, takes nobody's place away."""
    page = one.page
    page.get_by_role("treeitem", name="base, ").click()
    press(page, "Edit")
    page.get_by_role("dialog").get_by_label("Description").fill("the first")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.locator("aside.details dd").first).to_have_text("the first")
    assert page.evaluate(FOCUSED) == "Edit"
    press(page, "Take snapshot")
    page.get_by_role("dialog").get_by_label("Name").fill("by keys")
    page.keyboard.press("Enter")
    expect(page.get_by_role("treeitem", name="by keys, ")).to_be_visible()
    assert page.evaluate(FOCUSED) == "Take snapshot"


def test_who_is_refused_by_keys_stays_in_the_dialog(one: Tab) -> None:
    page = one.page
    press(page, "Take snapshot")
    page.get_by_role("dialog").get_by_label("Name").fill("base")
    page.get_by_role("dialog").get_by_role("button", name="Take snapshot").focus()
    page.keyboard.press("Enter")
    expect(page.locator("dialog .problem")).to_contain_text(ErrorCase.NAME_TAKEN.value.message)
    expect(page.get_by_role("dialog").get_by_role("button", name="Take snapshot")).to_be_focused()


def test_who_chooses_a_language_by_keys_stays_where_they_chose(one: Tab) -> None:
    page = one.page
    page.get_by_label("Language").focus()
    page.keyboard.press("ArrowDown")
    expect(page.get_by_role("heading", name="最近的操作")).to_be_visible()
    expect(page.get_by_label("语言")).to_be_focused()
    page.get_by_role("button", name="退出").click()
    page.locator("#key").fill("half of a k")
    page.get_by_label("语言").focus()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_label("Language")).to_be_focused()
    expect(page.get_by_label("API key")).to_have_value("half of a k")


def test_a_description_keeps_its_lines(machines: tuple[Vm, Vm], one: Tab) -> None:
    machines[0].create("a poem", description="first\nsecond")
    one.page.get_by_role("treeitem", name="a poem, ").click()
    shown = one.page.locator("aside.details dd").first
    assert shown.inner_text() == "first\nsecond"
    machines[0].delete("a poem")


def test_a_page_that_nobody_sees_holds_no_connection(machines: tuple[Vm, Vm], one: Tab) -> None:
    """A browser has six to a service, for all of its tabs: with a stream each, the seventh page would wait for ever."""
    for _ in range(6):
        more = one.context.new_page()
        more.goto(one.page.url)
        more.locator("g.item.now").wait_for()
        more.evaluate(HIDE % "true")
    last = one.context.new_page()
    last.goto(one.page.url)
    last.locator("g.item.now").wait_for()
    # what happened while nobody looked is seen by who looks again
    machines[0].create("unseen")
    more.evaluate(HIDE % "false")
    expect(more.get_by_role("treeitem", name="unseen, ")).to_be_visible()


def test_what_is_asked_before_the_tree_is_there_does_no_harm(machines: tuple[Vm, Vm], one: Tab) -> None:
    page = one.page
    held: list[Route] = []
    page.goto(f"{machines[0].service.url}/#/")
    page.get_by_role("link", name="db-one").wait_for()
    page.route("**/vm/overview?**", holding(held))
    with page.expect_request("**/vm/overview?**"):
        page.get_by_role("link", name="db-one").click()
    page.get_by_label("Find a snapshot").fill("ne")
    for name in ("Zoom in", "Show all"):
        page.get_by_role("button", name=name).click()
    for route in held:
        route.continue_()
    page.unroute("**/vm/overview?**")
    expect(page.locator("g.item.hit")).to_have_count(1)


def test_an_address_that_is_none_shows_a_page(machines: tuple[Vm, Vm], one: Tab) -> None:
    one.page.goto(f"{machines[0].service.url}/#/vm/%E0%A4%A")
    one.page.reload()
    expect(one.page.get_by_role("heading", name="Virtual machines")).to_be_visible()


def test_what_single_disks_lose_is_said_before(one: Tab) -> None:
    one.page.get_by_role("treeitem", name="base, ").click()
    press(one.page, "Single disks …")
    expect(one.page.get_by_role("dialog")).to_contain_text("since the last snapshot or rollback is thrown away")


def test_a_machine_that_is_no_longer_ours_is_not_shown(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    _, two = machines
    service = two.service
    key = service.post("/v1/stillframe/key/create", role="operator", tenant="default")["api_key"]
    opened = tab(service)
    opened.sign_in(key)
    page = opened.open(two)
    two.post("/v1/stillframe/vm/assign", tenant="another")
    expect(page.locator("p.problem")).to_contain_text(ErrorCase.VM_UNKNOWN.value.message)
    expect(page.get_by_role("treeitem")).to_have_count(0)
    expect(page.get_by_role("button", name="Take snapshot")).to_have_count(0)


def test_who_could_not_be_signed_out_is_not_told_so(machines: tuple[Vm, Vm], one: Tab) -> None:
    page = one.page
    page.route("**/session/end", lambda route: route.abort())
    page.get_by_role("button", name="Sign out").click()
    expect(page.locator(".notice.error")).to_be_visible()
    expect(page.get_by_role("button", name="Sign out")).to_be_visible()


def test_how_work_ended_is_told_of_what_is_no_longer_among_the_newest(machines: tuple[Vm, Vm], one: Tab) -> None:
    """A list that was read while it went on is made good by asking for it."""
    page, service = one.page, machines[0].service
    ended = service.get("/v1/compute/vsd/snapshot/task/list")["list"][-1]
    uuid = "11111111-1111-4111-8111-111111111111"

    def with_more(route: Route) -> None:
        answer = route.fetch().json()
        answer["data"]["list"].append({**ended, "uuid": uuid, "snapshot": "huge", "state": "finishing"})
        route.fulfill(json=answer)

    told = {"scode": 0, "message": "", "data": {**ended, "uuid": uuid, "snapshot": "huge", "state": "undone"}}
    page.route("**/task/list?**", with_more)
    page.route("**/task/get?**", lambda route: route.fulfill(json=told))
    page.goto(f"{service.url}/#/activity")
    expect(page.locator("li.task.undone")).to_contain_text("huge")


def test_the_step_under_way_is_named_in_the_readers_language(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    service = machines[0].service
    ended = service.get("/v1/compute/vsd/snapshot/task/list")["list"][-1]
    steps = {
        "11111111-1111-4111-8111-111111111111": "merge 12: commit",
        "22222222-2222-4222-8222-222222222222": "of another version",
    }
    tasks = [{**ended, "uuid": uuid, "state": "finishing", "step": step} for uuid, step in steps.items()]
    told = f"event: state\ndata: {json.dumps({'vm': None, 'tasks': tasks})}\n\n"
    opened = tab(service, language="zh")
    page = opened.page
    page.route("**/v1/stillframe/events?**", lambda route: route.fulfill(body=told, content_type="text/event-stream"))
    opened.sign_in()
    page.goto(f"{service.url}/#/activity")
    shown = page.locator("li.task:has(progress)")
    expect(shown.first).to_contain_text("收尾中 · 合并磁盘层")
    expect(shown.last).to_contain_text("收尾中 · of another version")
