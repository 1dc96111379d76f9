"""The console where what it knew is no longer so: sessions, costs, clocks, and answers that do not come."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Page, Route, expect

from browser.conftest import HIDE, OpenTab, Tab, answered, asked_of, holding
from stillframe.domain.errors import ErrorCase
from support.offline import domain_xml, file_disk, image, lot, offline
from support.service import Service, Vm

OVERVIEW, CONSEQUENCES, ROLLBACK = "**/vm/overview?**", "**/snapshot/consequences?**", "**/vsd/snapshot/rollback"
DISKS = ("vda", "vdb", "vdc")
HOUR_S, DAY_S, MINUTE_MS = 3600, 86400, 60_000
OLD = re.compile(r"2\d min ago")  # twenty, and what the test itself takes


@pytest.fixture(scope="module")
def machine() -> Iterator[Vm]:
    """Shut off, with three disks; "base" and "next" are always there, and the current state descends from no other for long."""
    service = Service()
    try:
        one = lot(service, "db-one")
        disks = [file_disk(image(one.directory / f"{disk}.qcow2", size="1M"), disk) for disk in DISKS]
        offline(service, ("define", domain_xml(one, disks)))
        service.start()
        vm = one.vm(service)
        vm.create("base")
        vm.create("next")
        yield vm
    finally:
        service.destroy()


@pytest.fixture
def one(machine: Vm, tab: OpenTab) -> Tab:
    """Signed in, at the machine."""
    opened = tab(machine.service)
    opened.sign_in()
    opened.open(machine)
    return opened


def press(page: Page, name: str, act: str) -> None:
    """One of the buttons of a snapshot."""
    page.get_by_role("treeitem", name=f"{name}, ").click()
    page.locator("aside.details").get_by_role("button", name=act, exact=True).click()


def with_changes(one: Tab, vm: Vm, change: Callable[[Any], None]) -> None:
    """The machine's page, with something changed in the overview."""
    data = vm.service.get("/v1/stillframe/vm/overview", cluster_uuid="", compute_uuid=vm.uuid)
    change(data)
    one.page.route(OVERVIEW, lambda route: route.fulfill(json=envelope(data)))
    one.page.reload()
    one.page.locator("g.item.now").wait_for()


def envelope(data: Any) -> dict[str, Any]:
    return {"scode": 0, "desc": "", "message": "success", "message_cn": "成功", "stack": None, "data": data}


# --- who is signed in -------------------------------------------------------------------------------------------------


def test_a_session_that_ended_while_nobody_looked_is_noticed(one: Tab) -> None:
    page = one.page
    page.evaluate(HIDE % "true")
    page.evaluate(
        "fetch('/v1/stillframe/session/end', {method: 'POST', body: '{}',"
        " headers: {'X-Stillframe-Console': '1', 'Content-Type': 'application/json'}})"
    )
    page.evaluate(HIDE % "false")
    expect(page.get_by_label("API key")).to_be_visible()
    one.strange.clear()  # that it was refused is what the page had to see


def test_who_is_not_answered_is_not_taken_for_signed_out(one: Tab) -> None:
    page = one.page
    page.route("**/v1/stillframe/session", lambda route: route.abort())
    page.reload()
    expect(page.get_by_role("alert")).to_contain_text("The service does not answer.")
    expect(page.get_by_label("API key")).to_have_count(0)
    page.evaluate("location.hash = '#/activity'")
    expect(page.get_by_role("button", name="Try again")).to_be_visible()
    expect(page.get_by_label("API key")).to_have_count(0)
    page.unroute("**/v1/stillframe/session")
    page.get_by_role("button", name="Try again").click()
    expect(page.get_by_role("heading", name="Activity", level=1)).to_be_visible()


# --- what is asked before an act --------------------------------------------------------------------------------------


def test_who_has_left_the_page_is_asked_nothing(one: Tab) -> None:
    page = one.page
    held: list[Route] = []
    page.route(CONSEQUENCES, holding(held))
    with page.expect_request(CONSEQUENCES):
        press(page, "base", "Roll back")
    page.evaluate("location.hash = '#/'")
    page.locator("table.machines").wait_for()
    with page.expect_response(CONSEQUENCES):
        held[0].continue_()
    answered(page)
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_a_dialog_names_the_machine(one: Tab) -> None:
    for act in ("Roll back", "Single disks …", "Delete"):
        press(one.page, "base", act)
        expect(one.page.get_by_role("dialog").get_by_role("heading")).to_contain_text("db-one")
        one.page.keyboard.press("Escape")
        expect(one.page.get_by_role("dialog")).to_have_count(0)


def test_what_a_rollback_loses_by_now_is_shown_before_it_is_done(machine: Vm, one: Tab) -> None:
    """Somebody else has gone on meanwhile."""
    page = one.page
    asked = asked_of(page, "/vsd/snapshot/rollback")
    press(page, "base", "Roll back")
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("since “next”")
    machine.create("meanwhile")
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog).to_contain_text("since “meanwhile”")
    expect(dialog.get_by_role("alert")).to_contain_text("no longer as it was")
    expect(dialog.get_by_role("button", name="Cancel")).to_be_focused()  # a key that is held down confirms nothing
    assert asked == []
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog).to_have_count(0)
    expect(page.locator("g.item.head text").first).to_have_text("base")
    assert len(asked) == 1
    machine.delete("meanwhile")
    machine.rollback("next")


def test_what_may_no_longer_be_deleted_is_not(machine: Vm, one: Tab) -> None:
    page = one.page
    asked = asked_of(page, "/vsd/snapshot/delete")
    press(page, "base", "Delete")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    machine.rollback("base")
    machine.create("beside")
    dialog.get_by_role("button", name="Delete").click()
    expect(dialog).to_contain_text(ErrorCase.SNAPSHOT_HAS_CHILDREN.value.message)
    expect(dialog.get_by_role("button", name="Delete")).to_be_hidden()
    assert asked == []
    machine.delete("beside")
    machine.rollback("next")


def test_what_became_of_each_disk_is_said(one: Tab) -> None:
    page, words = one.page, ErrorCase.STORAGE_FAILED.value
    failed = {"scode": words.code, "message": words.message, "message_cn": words.message_cn, "stack": [], "data": {}}
    results = [envelope({}), {**failed, "desc": "no space"}, {**failed, "desc": "torn cable"}]
    told = envelope({"success": 1, "fail": 2, "results": results})
    page.route("**/volume/snapshot/rollback", lambda route: route.fulfill(json=told))
    press(page, "base", "Single disks …")
    dialog = page.get_by_role("dialog")
    for disk in DISKS:
        dialog.get_by_label(disk).check()
    dialog.get_by_role("button", name="Roll back").click()
    alert = dialog.get_by_role("alert")
    expect(alert).to_contain_text("Rolled back: vda. Not rolled back: vdb, vdc.")
    expect(alert).to_contain_text(f"vdb: {words.message} (no space)")
    expect(alert).to_contain_text(f"vdc: {words.message} (torn cable)")
    # what is done is not done again by who tries again
    assert [dialog.get_by_label(disk).is_checked() for disk in DISKS] == [False, True, True]


# --- what is shown ----------------------------------------------------------------------------------------------------


def test_a_tree_that_was_not_answered_is_asked_for_again(machine: Vm, one: Tab) -> None:
    page = one.page
    page.route(OVERVIEW, lambda route: route.abort())
    machine.create("late")
    expect(page.locator(".notice.error")).to_have_count(1)
    expect(page.locator(".recent li", has_text="Snapshot “late”")).to_contain_text("done")
    page.unroute(OVERVIEW)
    expect(page.get_by_role("treeitem", name="late, ")).to_be_visible()
    expect(page.locator(".notice.error")).to_have_count(0)
    machine.delete("late")


def test_a_page_that_was_left_asks_for_nothing_more(machine: Vm, one: Tab) -> None:
    page = one.page
    held: list[Route] = []
    page.route(ROLLBACK, holding(held))
    press(page, "next", "Roll back")
    with page.expect_request(ROLLBACK):
        page.get_by_role("dialog").get_by_role("button", name="Roll back").click()
    page.evaluate("location.hash = '#/'")
    page.locator("table.machines").wait_for()
    asked = asked_of(page, "/vm/overview")
    held[0].continue_()
    # that it is done is told on whatever page, and the tree was asked for right behind it
    expect(page.locator(".notice", has_text="Roll back “next”: done")).to_be_visible()
    answered(page)
    assert asked == []
    assert machine.head()["name"] == "next"


def test_no_more_runs_are_wanted_unfolded_than_can_be(machine: Vm, one: Tab) -> None:
    def many(data: Any) -> None:
        (first, *_), (item, *_) = data["snapshots"], data["items"]
        uuids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(410)]
        data["snapshots"] += [{**first, "uuid": uuid} for uuid in uuids]
        data["items"] += [
            {**item, "key": key, "uuids": [key, other], "order": 10} for key, other in zip(uuids[::2], uuids[1::2], strict=True)
        ]  # fmt: skip

    page = one.page
    with_changes(one, machine, many)
    asked = asked_of(page, "/vm/overview")
    last = f"{408:08x}-0000-4000-8000-000000000000"
    with page.expect_response(lambda response: "/vm/overview" in response.url and last in response.url) as told:
        page.evaluate(
            "for (const run of document.querySelectorAll('g.item.folded')) run.dispatchEvent(new MouseEvent('click', {bubbles: true}))"
        )
    assert told.value.json()["scode"] == 0
    assert asked[-1].split("opened=")[1].count("-0000-4000-8000-") == 200


def test_what_could_not_be_measured_is_no_figure(machine: Vm, one: Tab) -> None:
    page = one.page

    def unmeasured(data: Any) -> None:
        data["now"]["changed_bytes"] = None

    with_changes(one, machine, unmeasured)
    expect(page.locator("g.item.now text").last).to_have_text("size not known")
    page.unroute(OVERVIEW)

    def lost(route: Route) -> None:
        answer = route.fetch().json()
        answer["data"]["rollback"]["changed_bytes"] = None
        route.fulfill(json=answer)

    page.route(CONSEQUENCES, lost)
    press(page, "base", "Roll back")
    expect(page.get_by_role("dialog")).to_contain_text("are thrown away (size not known)")


def test_what_descends_from_nothing_is_not_without_snapshots(machine: Vm, one: Tab) -> None:
    def rootless(data: Any) -> None:
        data["now"]["head"] = ""

    with_changes(one, machine, rootless)
    expect(one.page.locator("g.item.now text").last).to_contain_text("changed")


def test_a_name_is_cut_between_characters(machine: Vm, one: Tab) -> None:
    def named(data: Any) -> None:
        data["snapshots"][0]["name"] = "a" + "😀" * 30

    with_changes(one, machine, named)
    shown = one.page.evaluate("[...document.querySelectorAll('g.item text')].map((one) => one.textContent)")
    (cut,) = [text for text in shown if text.startswith("a😀")]
    assert cut == "a" + "😀" * (len(cut) - 2) + "…"


# --- clocks -----------------------------------------------------------------------------------------------------------


def test_what_is_shown_grows_old_by_itself(machine: Vm, tab: OpenTab) -> None:
    """Of a machine that does not run nothing is asked for it."""
    opened = tab(machine.service)
    opened.page.clock.install()
    page = opened.sign_in()
    opened.open(machine)
    begun = asked_of(page, "/vm/overview")
    with_changes(opened, machine, lambda _data: None)  # it has no Date: the clock that is put forward is the service's
    page.get_by_role("treeitem", name="base, ").click()
    expect(page.locator("aside.details time")).to_be_visible()
    settled(page, begun)
    asked = asked_of(page, "")
    page.clock.fast_forward(20 * 60 * 1000)
    expect(page.get_by_role("treeitem", name="base, ")).to_have_attribute("aria-label", OLD)
    expect(page.locator("g.item.head text").last).to_have_text(OLD)
    expect(page.locator("aside.details time")).to_have_text(OLD)
    expect(page.locator(".recent time").first).to_have_text(OLD)
    assert asked == []


def settled(page: Page, begun: list[str]) -> None:
    """The overview was asked for once for the page, and once because it was told for the first time what goes on."""
    for _ in range(200):
        if len(begun) >= 2:
            break
        page.wait_for_timeout(50)
    assert len(begun) >= 2
    answered(page)


def test_what_a_running_guest_writes_is_seen_within_a_minute_by_who_looks(machine: Vm, tab: OpenTab) -> None:
    data = machine.service.get("/v1/stillframe/vm/overview", cluster_uuid="", compute_uuid=machine.uuid)
    data["vm"]["state"], data["now"]["changed_bytes"] = "running", 1 << 20
    opened = tab(machine.service)
    page = opened.page
    page.clock.install()
    opened.sign_in()
    page.route(OVERVIEW, lambda route: route.fulfill(json=envelope(data)))
    asked = asked_of(page, "/vm/overview")
    opened.open(machine)
    settled(page, asked)
    data["now"]["changed_bytes"] = 5 << 20
    written = page.locator("g.item.now text").last
    page.evaluate(HIDE % "true")
    asked.clear()
    page.clock.fast_forward(MINUTE_MS)
    answered(page)
    assert asked == []
    page.evaluate(HIDE % "false")
    expect(written).to_have_text("1.0 MiB changed")
    page.clock.fast_forward(MINUTE_MS)
    expect(written).to_have_text("5.0 MiB changed")
    answered(page)
    assert len(asked) == 1


@pytest.mark.parametrize("ahead_s", [-DAY_S, DAY_S])
def test_time_is_the_services_not_the_browsers(machine: Vm, tab: OpenTab, ahead_s: int) -> None:
    five_hours_ago = int(time.time()) - 5 * HOUR_S - 60

    def older(data: Any) -> None:
        data["snapshots"][0]["ctime"] = five_hours_ago

    where = {"cluster_uuid": "", "compute_uuid": machine.uuid, "name": "base"}
    costs = machine.service.get("/v1/stillframe/snapshot/consequences", **where)
    costs["rollback"]["since"] = five_hours_ago
    opened = tab(machine.service)
    page = opened.page
    page.clock.install(time=time.time() + ahead_s)
    opened.sign_in()
    opened.open(machine)
    with_changes(opened, machine, older)
    # made-up answers have no Date: what is known is from one of the service's own
    expect(page.get_by_role("treeitem", name="base, 5 h ago")).to_be_visible()
    page.route(CONSEQUENCES, lambda route: route.fulfill(json=envelope(costs)))
    press(page, "base", "Roll back")
    expect(page.get_by_role("dialog").locator(".warn")).to_contain_text("5 h 1 min of changes since “next”")
