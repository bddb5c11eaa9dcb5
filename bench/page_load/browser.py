"""The page in Chromium, measured from outside. Seconds count from the request for the page."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.common import PeerError, log

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page

PROGRAMS = (
    "chromium-headless-shell", "chromium", "chromium-browser", "google-chrome",
    "google-chrome-stable",
)  # fmt: skip
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
TIMEOUT_MS = 120_000
KB = 1_000
MESSAGES, MANY_MESSAGES = 200, 1_000
LONG = (
    "A paragraph of some length, with **bold** and `code`, so that there is something to draw.\n\n"
    "- one\n- two\n\n```python\nfor i in range(10):\n    print(i)\n```\n\nAnd an end, number {}."
)
QUESTION = "Write a long story about a lighthouse keeper and everything that happens in a storm."
STREAM_SECONDS = 1.5  # of a reply's stream that are measured
FIRST_UPDATES, UPDATES = 3, 40  # of a reply: those that are skipped, and those that are timed
UPDATES_OF_TAB = 3  # after which a tab counts as streaming
COSTS = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
# JavaScript conditions: the log is drawn; a reply has text; a chat has all of its messages.
LOG_DRAWN = "document.querySelector('.linly-log .empty')?.innerText.trim()"
REPLY_HAS_TEXT = "document.querySelector('article.assistant .body')?.innerText.length"
CHAT_COMPLETE = "!document.querySelector('.messages[aria-busy=true]')"


@dataclass
class ReplyUpdates:
    """The sizes of the updates of replies that a page's WebSockets have received."""

    sizes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, page: Page) -> ReplyUpdates:
        """Counts from now on; the page is not opened yet."""
        updates = cls()
        page.on("websocket", lambda socket: socket.on("framereceived", updates._receive))
        return updates

    def _receive(self, payload: str | bytes) -> None:
        text = payload if isinstance(payload, str) else payload.decode()
        if text.startswith(('{"live":', "[[")):
            self.sizes.append(len(text.encode()))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A new browser.

    Raises:
        PeerError: none is installed.
    """
    from playwright.sync_api import sync_playwright

    path = next((path for path in map(shutil.which, PROGRAMS) if path), None)
    if path is None:
        raise PeerError("there is no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def measure_opening(browser: Browser, address: str) -> dict[str, float]:
    """Until a question could be sent, because the box takes text and the log is drawn.

    Returns:
        `usable` in seconds, the number of `requests`, and `script_bytes` in kB as compressed. The
        cache was empty.
    """
    types: dict[str, str] = {}
    sizes: dict[str, float] = {}

    def on_response(event: dict[str, Any]) -> None:
        types[event["requestId"]] = event["response"]["mimeType"]

    def on_end(event: dict[str, Any]) -> None:
        sizes[event["requestId"]] = event["encodedDataLength"]

    with _new_page(browser) as (page, session):
        session.send("Network.enable")
        session.on("Network.responseReceived", on_response)
        session.on("Network.loadingFinished", on_end)
        began = time.perf_counter()
        _open(page, address)
        usable = time.perf_counter() - began
    scripts = [sizes.get(key, 0) for key, kind in types.items() if "javascript" in kind]
    log(f"usable after {usable:.2f} s, {len(types)} requests, {sum(scripts):.0f} bytes of scripts")
    return {"usable": usable, "requests": len(types), "script_bytes": round(sum(scripts) / KB, 1)}


def measure_visit(browser: Browser, address: str) -> dict[str, float]:
    """One visit of a browser without a history.

    Returns:
        Seconds until a long chat shows after its link (`long_chat`) or the side bar (`switched`)
        was used, and the updates while a reply streams at `tokens_per_second`.
    """
    with _new_page(browser) as (page, _):
        updates = ReplyUpdates.of(page)
        _open(page, address)
        figures = _measure_stream(page, updates)
        _import_chat(page, MESSAGES)
        chat_address = page.url
        switched = _measure_switch(page)
        began = time.perf_counter()
        page.goto(chat_address)
        _wait_for_message(page, MESSAGES)
        long_chat = time.perf_counter() - began
    log(f"200 messages after {long_chat:.2f} s, and {switched:.2f} s from the side bar")
    return {"long_chat": long_chat, "switched": switched, **figures}


def measure_update(browser: Browser, address: str, messages: int) -> float:
    """Seconds of the browser's main thread for each update of a reply, in a chat of so many
    messages."""
    with _new_page(browser) as (page, session):
        updates = ReplyUpdates.of(page)
        _open(page, address)
        if messages:
            _import_chat(page, messages)
            page.wait_for_function(CHAT_COMPLETE)
        session.send("Performance.enable")
        _ask(page)
        _wait_for_updates(page, updates, FIRST_UPDATES)
        seconds, count = _cpu_seconds(session), len(updates.sizes)
        _wait_for_updates(page, updates, count + UPDATES)
        seconds, count = _cpu_seconds(session) - seconds, len(updates.sizes) - count
        page.locator("#stop").click()
    return seconds / count


def count_streaming_tabs(browser: Browser, address: str, count: int) -> int:
    """How many of so many tabs of one browser stream a reply at the same time."""
    from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

    def streams(page: Page, updates: ReplyUpdates) -> bool:
        with suppress(PlaywrightTimeoutError, PeerError):
            page.wait_for_function(REPLY_HAS_TEXT)
            _wait_for_updates(page, updates, UPDATES_OF_TAB)
            return True
        return False

    with _new_page(browser) as (first, _):
        context = first.context
        context.set_default_timeout(TIMEOUT_MS)
        pages = [first, *(context.new_page() for _ in range(count - 1))]
        updates = [ReplyUpdates.of(page) for page in pages]
        began = time.perf_counter()
        for page in pages:
            _open(page, address)
        log(f"{count} tabs of one browser are open after {time.perf_counter() - began:.1f} s")
        for page in pages:
            _ask(page)
        good = sum(map(streams, pages, updates))
        log(f"{good} of {count} tabs of one browser stream")
    return good


@contextmanager
def _new_page(browser: Browser) -> Iterator[tuple[Page, CDPSession]]:
    """A page without cookies and cached files."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(TIMEOUT_MS)
    yield page, context.new_cdp_session(page)
    context.close()


def _open(page: Page, address: str) -> None:
    """Open the page and wait until it is usable."""
    page.goto(address)
    page.locator("#message textarea").fill("x")
    page.wait_for_function(LOG_DRAWN)
    page.locator("#message textarea").fill("")


def _ask(page: Page) -> None:
    page.locator("#message textarea").fill(QUESTION)
    page.locator("#message textarea").press("Enter")


def _wait_for_updates(page: Page, updates: ReplyUpdates, count: int) -> None:
    until = time.perf_counter() + TIMEOUT_MS / 1000
    while len(updates.sizes) < count:
        if time.perf_counter() > until:
            raise PeerError(f"a reply ended or stopped after {len(updates.sizes)} updates")
        page.wait_for_timeout(20)


def _cpu_seconds(session: CDPSession) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(sum(metric["value"] for metric in metrics if metric["name"] in COSTS))


def _measure_stream(page: Page, updates: ReplyUpdates) -> dict[str, float]:
    _ask(page)
    page.wait_for_function(REPLY_HAS_TEXT)
    updates.sizes.clear()
    began = time.perf_counter()
    page.wait_for_timeout(STREAM_SECONDS * 1000)
    seconds, sizes = time.perf_counter() - began, list(updates.sizes)
    page.locator("#send").wait_for()
    facts = page.locator("article.assistant .facts summary").last.inner_text()
    return {
        "updates_per_second": len(sizes) / seconds,
        "bytes_an_update": sum(sizes) / max(1, len(sizes)),
        "tokens_per_second": float(facts.split("·")[1].split()[0]),
    }


def _import_chat(page: Page, count: int) -> None:
    """Import a chat of so many messages, which is then shown."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": LONG.format(i)} for i in range(count)]
    content = json.dumps({"messages": messages}).encode()
    page.locator("#sidebar input[type=file]").set_input_files(
        {"name": "long.json", "mimeType": "application/json", "buffer": content}
    )
    _wait_for_message(page, count)


def _measure_switch(page: Page) -> float:
    """Seconds to come back from another chat by the side bar."""
    rows = page.locator("#sidebar li button.open")
    rows.filter(has_text=QUESTION[:20]).click()
    page.get_by_role("log").get_by_text(QUESTION[:20]).first.wait_for()
    began = time.perf_counter()
    rows.filter(has_text=LONG[:20]).click()
    _wait_for_message(page, MESSAGES)
    return time.perf_counter() - began


def _wait_for_message(page: Page, count: int) -> None:
    """Wait until the last one of `count` imported messages shows."""
    page.get_by_role("log").get_by_text(f"number {count - 1}.").wait_for()
