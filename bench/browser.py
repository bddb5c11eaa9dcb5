"""The page in Chromium, measured from outside. Seconds since the page was asked for."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.peers.base import PeerError
from bench.rounds import Say

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
MESSAGES = 200
LONG = (
    "A paragraph of some length, with **bold** and `code`, so that there is something to draw.\n\n"
    "- one\n- two\n\n```python\nfor i in range(10):\n    print(i)\n```\n\nAnd an end, number {}."
)
QUESTION = "Write a long story about a lighthouse keeper and everything that happens in a storm."
STREAM_SECONDS = 1.5  # of a reply's stream that are looked at


@dataclass(frozen=True)
class Opened:
    """What a visitor sees: until the page can be used, until a long chat shows when it is opened by
    its link or from the side bar, and what comes while a reply streams at `tokens_per_second`."""

    usable: float
    long_chat: float
    switched: float
    updates_per_second: float
    bytes_an_update: float
    tokens_per_second: float


def look(address: str, say: Say) -> Opened:
    """One visit with a browser of its own.

    Raises:
        PeerError: there is no browser here.
    """
    with _chromium() as browser:
        page = browser.new_page()
        page.set_default_timeout(60_000)
        usable = _usable(page, address)
        speed = _stream(page)
        _import_long_chat(page)
        address_of_it = page.url
        switched = _switch(page)
        began = time.perf_counter()
        page.goto(address_of_it)
        _last_shows(page)
        long_chat = time.perf_counter() - began
    opened = Opened(usable, long_chat, switched, *speed)
    say(f"browser: usable after {usable:.2f} s, 200 messages after {long_chat:.2f} s")
    return opened


@contextmanager
def _chromium() -> Iterator[Browser]:
    from playwright.sync_api import sync_playwright

    path = next((path for path in map(shutil.which, NAMES) if path), None)
    if path is None:
        raise PeerError("there is no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def _usable(page: Page, address: str) -> float:
    """Until a typed question could be sent: the box takes text, and the log has been drawn."""
    began = time.perf_counter()
    page.goto(address)
    page.locator("#message textarea").fill("x")
    page.get_by_role("log").wait_for()
    page.locator("#message textarea").fill("")
    return time.perf_counter() - began


def _stream(page: Page) -> tuple[float, float, float]:
    """Updates a second, bytes of each, tokens a second."""
    received: list[int] = []
    session = page.context.new_cdp_session(page)
    session.send("Network.enable")
    session.on("Network.dataReceived", lambda event: received.append(event["dataLength"]))
    page.locator("#message textarea").fill(QUESTION)
    page.locator("#message textarea").press("Enter")
    page.wait_for_function("document.querySelector('article.assistant .body')?.innerText.length")
    received.clear()
    began = time.perf_counter()
    page.wait_for_timeout(STREAM_SECONDS * 1000)
    seconds, sizes = time.perf_counter() - began, list(received)
    session.detach()
    page.locator("#send").wait_for()
    facts = page.locator("article.assistant .facts summary").last.inner_text()
    return len(sizes) / seconds, sum(sizes) / max(1, len(sizes)), _speed(facts)


def _speed(facts: str) -> float:
    return float(facts.split("·")[1].split()[0])


def _import_long_chat(page: Page) -> None:
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": LONG.format(i)} for i in range(MESSAGES)]
    content = json.dumps({"messages": messages}).encode()
    page.locator("#sidebar input[type=file]").set_input_files(
        {"name": "long.json", "mimeType": "application/json", "buffer": content}
    )
    _last_shows(page)


def _switch(page: Page) -> float:
    """To another chat and back by the side bar."""
    rows = page.locator("#sidebar li button.open")
    rows.filter(has_text=QUESTION[:20]).click()
    page.get_by_role("log").get_by_text(QUESTION[:20]).first.wait_for()
    began = time.perf_counter()
    rows.filter(has_text=LONG[:20]).click()
    _last_shows(page)
    return time.perf_counter() - began


def _last_shows(page: Page) -> None:
    page.get_by_role("log").get_by_text(f"number {MESSAGES - 1}.").wait_for()
