"""A real Chromium, controlled by Playwright."""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Locator, Page, expect, sync_playwright
from playwright.sync_api import Error as PlaywrightError

NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
# Without a sandbox, as root in a container has none, and without background requests.
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
REFUSED = re.compile("Failed to load resource: the server responded with a status of (4..|503)")
PATIENCE = int(os.environ.get("PATIENCE", 30_000))  # milliseconds


def executable() -> str:
    """Returns Chromium's path. Without it, tests fail in CI, else they skip."""
    found = next((path for path in map(shutil.which, NAMES) if path), None)
    if found is None and os.environ.get("CI"):
        pytest.fail("CI must run the browser tests, and there is no Chromium")
    if found is None:
        pytest.skip("there is no Chromium on this machine: apt-get install chromium")
    return found


@contextmanager
def chromium() -> Iterator[Browser]:
    """Runs a browser."""
    path = executable()
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


STATE = """(html) => JSON.stringify({
  focused: document.activeElement?.outerHTML.slice(0, 300),
  toasts: window.shownToasts,
  values: [...html.querySelectorAll('input:not([type=hidden]), textarea')]
    .map((box) => [box.ariaLabel ?? box.labels?.[0]?.innerText ?? box.name, box.value]),
  text: document.body.innerText.slice(0, 2000),
}, null, 1)"""


# Toasts disappear before a failed test is reported.
COLLECT_TOASTS = """
window.shownToasts = [];
new MutationObserver((changes) => changes.flatMap(({ addedNodes }) => [...addedNodes])
  .filter((node) => node.matches?.('.linly-toast'))
  .forEach((toast) => window.shownToasts.push(toast.textContent)),
).observe(document, { childList: true, subtree: true });
"""


def page_state(page: Page) -> str:
    """Returns what a page shows, for the report of a failed test."""
    try:
        state: str = page.locator("html").evaluate(STATE, timeout=2000)
    except PlaywrightError as error:
        return str(error)
    return state


class ChatPage:
    """The page in a browser; finds its controls by their labels."""

    def __init__(self, page: Page) -> None:
        page.set_default_timeout(PATIENCE)
        page.add_init_script(COLLECT_TOASTS)
        self.page = page
        self.complaints: list[str] = []
        page.on("pageerror", lambda error: self._note(str(error)))
        page.on("console", self._listen)
        self.message = page.get_by_role("textbox", name="Message", exact=True)
        self.send = page.get_by_role("button", name="Send", exact=True)
        self.stop = page.get_by_role("button", name="Stop", exact=True)
        self.regenerate = page.get_by_role("button", name="Regenerate")
        self.new_chat = page.get_by_role("button", name="New chat")
        self.log = page.get_by_role("log")
        self.sidebar = page.locator("#sidebar")

    def _listen(self, message: ConsoleMessage) -> None:
        # The browser logs each refused action, which the page itself reports.
        refused = REFUSED.match(message.text) and "/page/" in message.location["url"]
        if message.type == "error" and not refused:
            self._note(message.text)

    def open(self, url: str) -> ChatPage:
        self.page.goto(url)
        self.page.locator("#message textarea").wait_for()
        self.log.wait_for()  # the page's script has drawn it and is listening
        return self

    def _note(self, error: str) -> None:
        # A reload aborts Gradio's running requests, which log these errors.
        aborted = ("AbortError: signal is aborted", "Unexpected error Connection errored out.")
        if not error.startswith(aborted):
            self.complaints.append(error)

    def ask(self, text: str) -> None:
        self.message.fill(text)
        self.send.click()

    def choose(self, label: str, option: str) -> None:
        """Selects an option of a drop-down by the beginning of its text."""
        self.page.get_by_role("listbox", name=label).or_(
            self.page.get_by_role("combobox", name=label)
        ).or_(self.page.get_by_label(label)).first.click()
        self.page.get_by_role("option", name=option).first.click()

    def offered(self, label: str = "Adapter") -> list[str]:
        """Returns the options of a drop-down."""
        box = self.page.get_by_label(label, exact=True)
        options = self.page.get_by_role("option")
        box.click()
        expect(options.first).to_be_visible()
        shown = options.all_inner_texts()
        box.blur()
        expect(options).to_have_count(0)  # it fades out, and may be there as another is opened
        return [option.replace("✓", "").strip() for option in shown]

    def row(self, title: str) -> Locator:
        """Returns the button of a chat in the side bar."""
        return self.sidebar.get_by_role("listitem").get_by_role("button", name=title, exact=True)

    def tool(self, title: str, name: str) -> Locator:
        """Hovers over a chat's row, and returns one of the buttons that appear."""
        row = self.sidebar.get_by_role("listitem").filter(has_text=title)
        row.hover()
        return row.get_by_role("button", name=name, exact=True)

    def slide(self, label: str, value: str) -> None:
        """Types into the number beside a slider."""
        number = self.page.get_by_label(f"{label} as a number")
        number.fill(value)
        number.blur()

    def settings(self) -> None:
        """Opens the settings."""
        self.page.get_by_role("button", name="Settings").click()
