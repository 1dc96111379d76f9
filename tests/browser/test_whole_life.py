"""A guest's whole life in the console: taken, watched, rolled back, branched, deleted; what fails is said."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from browser.conftest import OpenTab
from stillframe.domain.errors import ErrorCase
from support.damage import flipped_memory
from support.service import Service, Vm, eventually

BYTES_PER_S = 64 << 10  # a merge of a MiB is slow enough to be seen, and left, and found again


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    running = Service(merge_bytes_per_s=str(BYTES_PER_S))
    try:
        yield running.start()
    finally:
        running.destroy()


@pytest.fixture(scope="module")
def vm(service: Service) -> Vm:
    return service.guest("web-01", memory_mib=128, fill_mib=16, disks=2)


def take(page: Page, name: str, *, memory: bool, description: str = "") -> None:
    page.get_by_role("button", name="Take snapshot").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill(name)
    dialog.get_by_label("Description").fill(description)
    dialog.get_by_label("With running memory", exact=False).set_checked(memory)
    dialog.get_by_role("button", name="Take snapshot").click()
    expect(dialog).to_have_count(0)
    expect(card(page, name)).to_be_visible()


def card(page: Page, name: str):  # type: ignore[no-untyped-def]  # noqa: ANN201 -- Playwright's own
    return page.get_by_role("treeitem", name=re.compile(rf"^{re.escape(name)}, "))


def choose(page: Page, name: str) -> None:
    page.get_by_role("button", name="Show all").click()
    card(page, name).click()
    expect(page.locator("aside.details h2")).to_have_text(name)


def confirm(page: Page, act: str) -> str:
    """Ask for it beside the chosen snapshot, and confirm; returns what the dialog said."""
    page.locator("aside.details").get_by_role("button", name=act, exact=True).click()
    dialog = page.get_by_role("dialog")
    said = dialog.inner_text()
    dialog.get_by_role("button", name=act, exact=True).click()
    expect(dialog).to_have_count(0)
    return said


def test_the_whole_life_of_a_guest(vm: Vm, tab: OpenTab) -> None:
    one = tab(vm.service)
    page = one.sign_in()
    page.get_by_role("link", name="web-01").click()
    expect(page.get_by_role("heading", name="web-01")).to_be_visible()
    expect(page.locator("g.item.now .pulse")).to_have_count(1)

    take(page, "before the upgrade", memory=True, description="everything works")
    choose(page, "before the upgrade")
    details = page.locator("aside.details")
    expect(details.locator("dd", has_text=re.compile(r"MiB$")).first).to_be_visible(timeout=60_000)
    expect(details).to_contain_text("everything works")
    assert vm.await_memory("before the upgrade")["attr"]["status"] == "available"
    mark = len(vm.witness().lines())
    boot, _ = vm.witness().ticks()[-1]

    vm.await_ticks(20)
    take(page, "after the upgrade", memory=False)
    vm.await_ticks(5)

    # back into its memory: the witness goes on where it was, and what is thrown away is said before
    choose(page, "before the upgrade")
    said = confirm(page, "Roll back")
    assert re.search(r"\d+ (s|min).* of changes since “after the upgrade” are thrown away", said), said
    expect(page.get_by_text("Roll back “before the upgrade”: done")).to_be_visible(timeout=60_000)
    vm.await_ticks(20)
    resumed = vm.witness().resumption(mark)
    assert resumed.boot == boot, "the guest was not booted anew"
    assert vm.witness().torn() == []
    expect(page.locator("g.item.head")).to_have_attribute("aria-label", re.compile("^before the upgrade, "))

    # a branch of its own
    take(page, "another way", memory=False)
    take(page, "further on", memory=True)
    vm.await_memory("further on")
    assert vm.tree()["Children"]["before the upgrade"]["Children"] == ["after the upgrade", "another way"]
    expect(page.get_by_role("treeitem")).to_have_count(5)
    choose(page, "before the upgrade")
    one.picture("console-machine")


def test_long_work_is_seen_survives_a_reload_and_ends(vm: Vm, tab: OpenTab) -> None:
    """A delete in the middle of the tree, whose merge takes as long as this test looks at it."""
    vm.create("much", memory=False)
    vm.await_ticks(400)
    vm.create("more", memory=False)
    vm.create("most", memory=False)
    one = tab(vm.service)
    one.sign_in()
    page = one.open(vm)
    choose(page, "more")
    said = confirm(page, "Delete")
    assert "No other state of the machine changes." in said
    assert re.search(r"(KiB|MiB) of disk vda have to be merged", said), said
    before = _progress_of(page, "Delete “more”")
    page.reload()
    expect(card(page, "before the upgrade")).to_be_visible()
    assert _progress_of(page, "Delete “more”") >= before, "it is the same work, and it has gone on"
    assert "more" not in vm.names(), "the row goes first"
    ended = page.locator(".recent li", has_text="Delete “more”")
    expect(ended).to_have_count(0)
    expect(ended).to_contain_text("done", timeout=60_000)
    expect(page.get_by_role("region", name="Work in progress").get_by_role("progressbar")).to_have_count(0)
    expect(card(page, "more")).to_have_count(0)
    expect(card(page, "most")).to_be_visible()


def _progress_of(page: Page, act: str) -> float:
    """Of work that goes on and is seen, per cent."""
    bar = page.get_by_role("region", name="Work in progress").get_by_role("progressbar", name=act)
    expect(bar).to_be_visible()
    return float(bar.evaluate("bar => bar.value"))


def test_what_fails_is_said_in_the_services_own_words(vm: Vm, tab: OpenTab) -> None:
    one = tab(vm.service)
    one.sign_in()
    page = one.open(vm)
    # refused before anything is done: the dialog stays, with what was typed
    page.get_by_role("button", name="Take snapshot").first.click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_label("Name").fill("further on")
    dialog.get_by_label("With running memory", exact=False).set_checked(False)
    dialog.get_by_role("button", name="Take snapshot").click()
    expect(dialog.get_by_role("alert")).to_contain_text(ErrorCase.NAME_TAKEN.value.message)
    expect(dialog.get_by_label("Name")).to_have_value("further on")
    page.keyboard.press("Escape")
    # what cannot be deleted says why, and offers nothing
    choose(page, "before the upgrade")
    page.locator("aside.details").get_by_role("button", name="Delete", exact=True).click()
    expect(dialog).to_contain_text(ErrorCase.SNAPSHOT_HAS_CHILDREN.value.message)
    expect(dialog.get_by_role("button")).to_have_text(["Close"])
    page.keyboard.press("Escape")
    # a memory state that is damaged: the rollback fails, in words, and the guest goes on
    flipped_memory(vm, "further on")
    choose(page, "further on")
    confirm(page, "Roll back")
    failed = page.locator(".notice.error")
    expect(failed).to_contain_text(ErrorCase.MEMORY_DAMAGED.value.message, timeout=60_000)
    expect(failed).to_contain_text("further on")
    one.picture("console-error")
    vm.await_ticks(5)


def test_power_edit_and_single_disks(vm: Vm, tab: OpenTab) -> None:
    one = tab(vm.service)
    one.sign_in()
    page = one.open(vm)
    choose(page, "before the upgrade")
    page.locator("aside.details").get_by_role("button", name="Edit").click()
    page.get_by_role("dialog").get_by_label("Description").fill("<b>第一个</b>")
    page.get_by_role("dialog").get_by_role("button", name="Save").click()
    expect(page.locator("aside.details dd").first).to_have_text("<b>第一个</b>")
    page.locator("aside.details").get_by_role("button", name="Single disks", exact=False).click()
    dialog = page.get_by_role("dialog")
    expect(dialog).to_contain_text("Shut the machine off first.")
    expect(dialog.get_by_role("button", name="Roll back")).to_be_disabled()
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Power off").click()
    page.get_by_role("dialog").get_by_role("button", name="Power off").click()
    expect(page.locator(".title .state")).to_have_text("shut off")
    page.locator("aside.details").get_by_role("button", name="Single disks", exact=False).click()
    dialog.get_by_label("vdb").check()
    dialog.get_by_role("button", name="Roll back").click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("Single disks … “before the upgrade”: done")).to_be_visible()
    page.get_by_role("button", name="Start").click()
    expect(page.locator(".title .state")).to_have_text("running")
    vm.await_ticks(5)


def test_the_second_tenant_sees_nothing_and_a_reader_may_only_look(vm: Vm, tab: OpenTab) -> None:
    service = vm.service
    vm.create("of one")
    vm.post("/v1/stillframe/vm/assign", tenant="one")
    keys = {
        tenant: service.post("/v1/stillframe/key/create", role=role, tenant=tenant)["api_key"]
        for role, tenant in (("operator", "two"), ("reader", "one"))
    }
    other = tab(service)
    page = other.sign_in(keys["two"])
    expect(page.get_by_role("status").first).to_contain_text("There is no virtual machine yet.")
    page.goto(f"{service.url}/#/vm/{vm.uuid}")
    expect(page.locator(".notice.error").first).to_contain_text(ErrorCase.VM_UNKNOWN.value.message)
    assert "web-01" not in page.content()
    assert "of one" not in page.content()

    reader = tab(service)
    reader.sign_in(keys["one"])
    page = reader.open(vm)
    choose(page, "of one")
    for act in ("Take snapshot", "Roll back", "Delete", "Edit", "Power off"):
        expect(page.get_by_role("button", name=act)).to_have_count(0)
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_label("API key")).to_be_visible()
    page.goto(f"{service.url}/#/vm/{vm.uuid}")
    expect(page.get_by_label("API key")).to_be_visible()
    assert "of one" not in page.content()


def test_work_can_be_cancelled(service: Service, tab: OpenTab) -> None:
    """Of a guest whose memory QEMU captures the slower way: there is time for it."""
    slow = service.guest("slow-01", memory_mib=512, fill_mib=400, private_file_memory=True)
    one = tab(service)
    one.sign_in()
    page = one.open(slow)
    page.get_by_role("button", name="Take snapshot").first.click()
    page.get_by_role("dialog").get_by_label("Name").fill("not wanted")
    page.get_by_role("dialog").get_by_role("button", name="Take snapshot").click()
    # the dialog stands until the moment is fixed; what works behind it is seen once it is left
    page.keyboard.press("Escape")
    working = page.get_by_role("region", name="Work in progress")
    expect(working.get_by_role("progressbar")).to_be_visible()
    one.picture("console-progress")
    working.get_by_role("button", name="Cancel", exact=False).first.click()
    expect(page.locator(".recent li").first).to_contain_text("undone", timeout=60_000)
    # of the create, or of the saving behind it, whichever was under way when it came
    if "Saving memory" in page.locator(".recent li").first.inner_text():
        assert slow.get("not wanted")["attr"]["status"] == "failed"
    else:
        eventually(lambda: slow.names() == [], "the create was undone")
    slow.await_ticks(5)
