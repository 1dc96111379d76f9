"""The console in a real Chromium, on a real service with real guests. Nothing may be asked of anybody else, nor go wrong
on the page unseen: see ``Tab``.
"""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Request, Route, sync_playwright

from support.service import Service, Vm

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), "")
# where pictures for the documents go, when they are wanted (make pictures)
PICTURES = os.environ.get("STILLFRAME_PICTURES", "")
DESKTOP, PHONE = (1360, 860), (390, 844)
# whether anybody sees the page, as its scripts are told: "true" or "false"
HIDE = "Object.defineProperty(document, 'hidden', {value: %s, configurable: true}); document.dispatchEvent(new Event('visibilitychange'))"


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """Closed with its module: Playwright runs an event loop in this thread, beside which others' tests cannot have theirs."""
    if not CHROMIUM:
        # the one exemption: setup.sh can install none on Ubuntu, whose package is a snap; see there
        if os_id() == "ubuntu":
            pytest.skip("Ubuntu has no Chromium as a Debian package, and nobody has installed one")
        pytest.fail("no Chromium on this machine: make setup-browser")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield browser
        browser.close()


def os_id() -> str:
    return platform.freedesktop_os_release()["ID"]


class Tab:
    """A page of the console. ``strange``: what it asked of others, what its policy refused, what its scripts threw."""

    def __init__(self, service: Service, context: BrowserContext) -> None:
        self.service = service
        self.context = context
        self.strange: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(20_000)
        self.page.on("request", lambda request: self._asked(request.url))
        self.page.on("pageerror", lambda error: self.strange.append(f"error: {error}"))
        self.page.on("console", lambda said: self._said(said.type, said.text))

    def _asked(self, url: str) -> None:
        if urlsplit(url)[:2] != urlsplit(self.service.url)[:2]:
            self.strange.append(f"asked of another: {url}")

    def _said(self, kind: str, text: str) -> None:
        # that an answer was an error is no error of the page's
        if kind in ("error", "warning") and "Failed to load resource" not in text:
            self.strange.append(f"{kind}: {text}")

    def sign_in(self, key: str = "") -> Page:
        """With this key, else the administrator's."""
        self.page.goto(f"{self.service.url}/")
        self.page.get_by_label("API", exact=False).fill(key or (self.service.state / "admin.key").read_text().strip())
        self.page.keyboard.press("Enter")
        self.page.locator("table.machines").wait_for()
        return self.page

    def open(self, vm: Vm) -> Page:
        """The machine's page, its tree drawn."""
        self.page.goto(f"{self.service.url}/#/vm/{vm.uuid}")
        self.page.locator("g.item.now").wait_for()
        return self.page

    def picture(self, name: str, *, whole: bool = False) -> None:
        """For the documents, when they are wanted."""
        if PICTURES:
            self.page.evaluate("document.querySelectorAll('.notice:not(.error)').forEach((notice) => notice.remove())")
            self.page.evaluate("window.scrollTo(0, 0)")
            Path(PICTURES).mkdir(parents=True, exist_ok=True)
            self.page.screenshot(path=f"{PICTURES}/{name}.png", full_page=whole)


OpenTab = Callable[..., Tab]


@pytest.fixture
def tab(chromium: Browser) -> Iterator[OpenTab]:
    """Opens tabs of a service, each in a browser of its own; nothing strange may have happened in them."""
    tabs: list[Tab] = []
    with ExitStack() as stack:

        def open_tab(
            service: Service, *, size: tuple[int, int] = DESKTOP, theme: str = "light", language: str = "en"
        ) -> Tab:
            context = chromium.new_context(
                viewport={"width": size[0], "height": size[1]},
                color_scheme="dark" if theme == "dark" else "light",
                locale="zh-CN" if language == "zh" else "en-GB",
                has_touch=size == PHONE,
            )
            stack.callback(context.close)
            tabs.append(Tab(service, context))
            return tabs[-1]

        yield open_tab
        assert [line for one in tabs for line in one.strange] == []


def asked_of(page: Page, part: str) -> list[str]:
    """The addresses with this part that are asked from now on."""
    found: list[str] = []

    def note(request: Request) -> None:
        if part in request.url:
            found.append(request.url)

    page.on("request", note)
    return found


def holding(held: list[Route]) -> Callable[[Route], None]:
    """A route that keeps every request in ``held`` until somebody lets it go on."""

    def hold(route: Route) -> None:
        held.append(route)

    return hold


def answered(page: Page) -> None:
    """Whatever was answered before has been taken in: another question has been asked and answered since."""
    page.evaluate("fetch('/healthz').then((answer) => answer.text())")
