"""The console for everybody: both themes, both languages, phones, keyboards, screen readers, and trees of any size."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from contextlib import closing
from importlib.resources import files

import pytest
from playwright.sync_api import Page, Route, expect

from browser.conftest import PHONE, OpenTab
from stillframe.adapters.metadata.database import open_metadata
from stillframe.domain.snapshot import Snapshot
from support.http_door import a_snapshot
from support.offline import domain_xml, file_disk, image, lot, offline
from support.service import Service, Vm

MANY = 1000
NOBODY = "00000000-0000-4000-8000-00000000dead"
_AXE = (files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


@pytest.fixture(scope="module")
def machines() -> Iterator[tuple[Vm, Vm]]:
    """One with a few snapshots, one with a thousand in its database; both shut off."""
    service = Service()
    try:
        lots = [lot(service, name) for name in ("db-small", "db-large")]
        acts = [
            ("define", domain_xml(one, [file_disk(image(one.directory / f"{disk}.qcow2", size="1M"), disk) for disk in ("vda", "vdb")]))
            for one in lots
        ]  # fmt: skip
        offline(service, *acts)
        service.start()
        small, large = (one.vm(service) for one in lots)
        for name in ("base", "左", "next"):
            small.create(name, description=f"what {name} holds")
        small.rollback("base")
        small.create("other branch")
        with closing(open_metadata(f"sqlite:///{service.state}/stillframe.db")) as metadata, metadata.write() as tx:
            for snapshot in _grown(large.uuid):
                tx.snapshots.insert(snapshot)
        yield small, large
    finally:
        service.destroy()


def _grown(vm_uuid: str) -> Iterator[Snapshot]:
    """A thousand, as they come about: long straight runs, and a branch off an older one now and then."""
    uuids = [f"{number:08x}-0000-4000-8000-000000000000" for number in range(MANY)]
    for number, uuid in enumerate(uuids):
        above = number - 1 if number % 25 else number - 17 if number else -1
        yield a_snapshot(
            uuid=uuid, vm_uuid=vm_uuid, name=f"nightly {number:04}", parent_uuid=uuids[above] if above >= 0 else None,
            ctime=1_700_000_000 + number * 86400 // 2, disks=(), tenant="default",
        )  # fmt: skip


def faults(page: Page) -> list[str]:
    """What axe-core finds serious or worse."""
    # the page's own policy lets no script in but its own: the tool is put in from outside of it
    page.evaluate(_AXE + ";0")
    found = json.loads(page.evaluate("async () => JSON.stringify(await axe.run({resultTypes: ['violations']}))"))
    return [
        f"{violation['id']} ({violation['impact']}): {node['html'][:200]} {node.get('failureSummary', '')}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
        for node in violation["nodes"][:3]
    ]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_serious_fault_of_accessibility(machines: tuple[Vm, Vm], tab: OpenTab, theme: str, language: str) -> None:
    small, _ = machines
    one = tab(small.service, theme=theme, language=language)
    found: dict[str, list[str]] = {}
    one.page.goto(f"{small.service.url}/")
    one.page.locator("#key").wait_for()
    found["sign in"] = faults(one.page)
    page = one.sign_in()
    assert page.locator("html").get_attribute("lang") == ("zh-CN" if language == "zh" else "en")
    one.picture(f"console-list-{theme}-{language}")
    found["list"] = faults(page)
    one.open(small)
    page.locator("g.item").nth(1).click()
    page.locator("aside.details dl").wait_for()
    found["machine"] = faults(page)
    one.picture(f"console-machine-{theme}-{language}")
    beside = ("roll back", "single disks", "edit", "delete")
    for dialog in ("take", *beside):
        scope = page.locator(".title .row") if dialog == "take" else page.locator("aside.details .row")
        scope.get_by_role("button").nth(0 if dialog == "take" else beside.index(dialog)).click()
        page.locator("dialog[open]").wait_for()
        assert page.locator("dialog fieldset input").count() == (2 if dialog == "single disks" else 0)
        found[dialog] = faults(page)
        page.keyboard.press("Escape")
        page.locator("dialog").wait_for(state="detached")
    # refused: said in the dialog; failed behind a dialog that was left, or by itself: said in a notice
    page.locator(".title .row").get_by_role("button").first.click()
    page.locator("dialog #name").fill("base")
    page.locator("dialog button[type=submit]").click()
    page.locator("dialog .problem strong").wait_for()
    found["refused"] = faults(page)
    page.keyboard.press("Escape")
    page.goto(f"{small.service.url}/#/vm/{NOBODY}")
    page.locator(".notice.error").wait_for()
    found["error notice"] = faults(page)
    page.goto(f"{small.service.url}/#/activity")
    page.locator(".tasks .task").first.wait_for()
    found["activity"] = faults(page)
    assert {name: lines for name, lines in found.items() if lines} == {}


def test_the_check_of_accessibility_sees_a_fault(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    page = tab(machines[0].service).sign_in()
    page.evaluate("document.querySelector('select').removeAttribute('aria-label')")
    assert any("select-name" in line for line in faults(page))


def test_on_a_phone_nothing_is_wider_than_the_screen(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    small, large = machines
    one = tab(small.service, size=PHONE)
    page = one.sign_in()
    overflow = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
    assert page.evaluate(overflow) <= 0
    one.picture("console-list-phone")
    for vm in (small, large):
        one.open(vm)
        page.get_by_label("Find a snapshot").fill("base" if vm is small else "nightly 0500")
        expect(page.locator("aside.details dl")).to_be_visible()
        assert page.evaluate(overflow) <= 0
    one.open(small)
    one.picture("console-machine-phone", whole=True)


def test_everything_can_be_done_by_keys(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    small, _ = machines
    one = tab(small.service)
    page = one.sign_in()
    page.get_by_role("link", name="db-small").focus()
    page.keyboard.press("Enter")
    page.locator("g.item.now").wait_for()
    page.get_by_role("button", name="Show all").focus()
    page.keyboard.press("Tab")
    focused = "document.activeElement.getAttribute('aria-label')"
    assert page.evaluate(focused).startswith("Current state")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused).startswith("other branch, ")
    page.keyboard.press("ArrowLeft")
    assert page.evaluate(focused).startswith("base, ")
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    expect(page.locator("aside.details h2")).to_have_text("左")
    expect(page.locator("g.item[aria-selected=true]")).to_have_count(1)
    page.keyboard.press("Home")
    page.keyboard.press("End")
    assert page.evaluate(focused).startswith("Current state")
    scale = "document.querySelector('svg.tree > g').getAttribute('transform').split('scale(')[1]"
    before = page.evaluate(scale)
    page.keyboard.press("+")
    assert float(page.evaluate(scale).rstrip(")")) > float(before.rstrip(")"))
    page.keyboard.press("0")
    assert page.evaluate(scale) == before
    page.get_by_role("button", name="Edit").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("dialog").get_by_label("Description")).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)


def test_what_throws_something_away_can_be_done_by_keys_alone(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    """With Tab, arrows, Space and Enter, from where the focus is; after each act it is still somewhere on the page."""
    small, _ = machines
    small.create("one more")
    one = tab(small.service)
    one.sign_in()
    page = one.open(small)
    _reach(page, "Current state")
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Enter")
    expect(page.locator("aside.details h2")).to_have_text("one more")

    _act_by_keys(page, "Single disks …", "Roll back", choose=("vdb",))
    expect(page.get_by_text("Single disks … “one more”: done")).to_be_visible()
    _act_by_keys(page, "Roll back", "Roll back")
    expect(page.get_by_text("Roll back “one more”: done")).to_be_visible()
    expect(page.locator("g.item.head")).to_have_attribute("aria-label", re.compile("^one more, "))
    _act_by_keys(page, "Delete", "Delete")
    expect(page.get_by_text("Delete “one more”: done")).to_be_visible()
    expect(page.get_by_role("treeitem", name="one more")).to_have_count(0)
    assert "one more" not in small.names()
    assert page.evaluate("document.activeElement !== document.body"), "who cannot see is not sent back to the top"


def _act_by_keys(page: Page, act: str, confirm: str, *, choose: tuple[str, ...] = ()) -> None:
    _reach(page, act)
    page.keyboard.press("Enter")
    dialog = page.get_by_role("dialog")
    dialog.wait_for()
    for name in choose:
        _reach(page, name)
        page.keyboard.press("Space")
    _reach(page, confirm)
    page.keyboard.press("Enter")
    expect(dialog).to_have_count(0)


def _reach(page: Page, name: str) -> None:
    """With Tab; ``name``: how what is focused begins to be called."""
    called = "(document.activeElement.ariaLabel ?? document.activeElement.labels?.[0]?.innerText ?? document.activeElement.innerText)"
    passed = []
    for _ in range(60):
        page.keyboard.press("Tab")
        passed.append(page.evaluate(called).strip())
        # of what is called alike and only begins so, the whole
        if passed[-1] == name or passed[-1].startswith(f"{name}, "):
            return
    raise AssertionError(f"no Tab leads to {name!r}: {passed}")


def test_a_thousand_snapshots_are_folded_found_opened_and_walked(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    _, large = machines
    one = tab(large.service)
    one.sign_in()
    page = one.open(large)
    expect(page.locator(".title + p")).to_contain_text("1000 snapshots")
    folded = page.get_by_role("treeitem").count()
    assert folded < MANY / 4, "long runs are folded by themselves"
    page.get_by_role("button", name="Show all").click()
    one.picture("console-thousand")
    # what is found inside a folded run is unfolded and shown
    page.get_by_label("Find a snapshot").fill("nightly 0512")
    expect(page.locator("aside.details h2")).to_have_text("nightly 0512")
    expect(page.locator("g.item.hit")).to_have_count(1)
    assert page.get_by_role("treeitem").count() > folded
    page.get_by_label("Find a snapshot").fill("nightly 00")
    expect(page.get_by_text("1 of 100")).to_be_visible()
    page.keyboard.press("Enter")
    expect(page.get_by_text("2 of 100")).to_be_visible()
    page.get_by_label("Fold long runs").uncheck()
    expect(page.get_by_role("treeitem")).to_have_count(MANY + 1)
    # and it can still be moved: a wheel, a drag, a zoom
    transform = "document.querySelector('svg.tree > g').getAttribute('transform')"
    seen = {page.evaluate(transform)}
    box = page.locator(".frame").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 200, box["y"] + 150)
    page.mouse.wheel(0, 120)
    page.wait_for_function(f"{transform} !== {json.dumps(seen.pop())}")
    before = page.evaluate(transform)
    page.mouse.down()
    page.mouse.move(box["x"] + 120, box["y"] + 60, steps=4)
    page.mouse.up()
    page.wait_for_function(f"{transform} !== {json.dumps(before)}")
    one.picture("console-thousand-unfolded")


def test_what_is_found_in_a_folded_run_is_shown_when_it_is_unfolded_and_not_before(
    machines: tuple[Vm, Vm], tab: OpenTab
) -> None:
    """Another answer, asked for before, may come first."""
    _, large = machines
    one = tab(large.service)
    one.sign_in()
    page = one.open(large)
    folded = page.get_by_role("treeitem").count()
    held: list[Route] = []
    page.route("**/v1/stillframe/vm/overview?*", lambda route: held.append(route))  # noqa: PLW0108 -- Playwright counts its arguments
    page.locator("g.item.folded").first.dispatch_event("click")
    _await_held(page, held, 1)
    page.get_by_label("Find a snapshot").fill("nightly 0512")
    held[0].continue_()
    _await_held(page, held, 2)
    assert page.get_by_role("treeitem").count() > folded
    expect(page.locator("aside.details h2")).to_have_text("Details")
    held[1].continue_()
    expect(page.locator("aside.details h2")).to_have_text("nightly 0512")
    expect(page.get_by_role("treeitem", name="nightly 0512")).to_be_in_viewport()


def _await_held(page: Page, held: list[Route], count: int) -> None:
    for _ in range(200):
        if len(held) >= count:
            return
        page.wait_for_timeout(50)
    raise AssertionError(f"{len(held)} requests came, not {count}")


def test_the_language_and_the_theme_are_kept(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    one = tab(machines[0].service)
    page = one.sign_in()
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("heading", level=1)).to_have_text("虚拟机")
    page.get_by_label("主题").select_option("dark")
    page.reload()
    expect(page.get_by_role("heading", level=1)).to_have_text("虚拟机")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(16, 20, 26)"


def test_what_is_searched_for_stays_in_another_language_and_on_the_way_back(
    machines: tuple[Vm, Vm], tab: OpenTab
) -> None:
    small, large = machines
    page = tab(small.service).sign_in()
    page.get_by_label("Search").fill(large.name)
    page.get_by_label("State").select_option("shutoff")
    expect(page.locator("tbody tr")).to_have_count(1)
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("heading", level=1)).to_have_text("虚拟机")
    expect(page.get_by_label("搜索")).to_have_value(large.name)
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(page.locator("select").filter(has=page.locator("option[value=shutoff]"))).to_have_value("shutoff")
    page.get_by_role("link", name=large.name).click()
    expect(page.get_by_role("heading", level=1)).to_have_text(large.name)
    page.go_back()
    expect(page.get_by_label("搜索")).to_have_value(large.name)
    expect(page.locator("tbody tr")).to_have_count(1)


def test_another_language_leaves_the_tree_as_it_is(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    _, large = machines
    one = tab(large.service)
    one.sign_in()
    page = one.open(large)
    page.get_by_label("Find a snapshot").fill("nightly 0512")
    expect(page.locator("aside.details h2")).to_have_text("nightly 0512")
    shown = page.get_by_role("treeitem").count()
    page.get_by_label("Language").select_option("zh")
    expect(page.get_by_role("heading", name="最近的操作")).to_be_visible()
    expect(page.locator("aside.details h2")).to_have_text("nightly 0512")
    expect(page.locator("g.item[aria-selected=true]")).to_have_attribute("aria-label", re.compile("^nightly 0512, "))
    expect(page.get_by_role("treeitem")).to_have_count(shown)
    # another page is another matter
    page.goto(f"{large.service.url}/#/")
    page.get_by_role("link", name="db-large").click()
    expect(page.locator("aside.details h2")).to_have_text("详情")


def test_a_service_that_is_away_is_said_and_found_again(machines: tuple[Vm, Vm], tab: OpenTab) -> None:
    small, _ = machines
    one = tab(small.service)
    one.sign_in()
    page = one.open(small)
    small.service.stop()
    expect(page.get_by_text("No connection; trying again.")).to_be_visible()
    one.strange.clear()  # that there was nobody to talk to is no fault of the page's
    small.service.start()
    expect(page.get_by_text("No connection; trying again.")).to_have_count(0, timeout=30_000)
    one.strange.clear()
    page.get_by_role("button", name="Take snapshot").click()
    page.get_by_role("dialog").get_by_label("Name").fill("after the pause")
    page.get_by_role("dialog").get_by_role("button", name="Take snapshot").click()
    expect(page.get_by_role("treeitem", name="after the pause")).to_be_visible()
