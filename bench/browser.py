"""The page in Chromium, measured from outside. Seconds since the page was asked for."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bench.peers.base import PeerError
from bench.rounds import Say

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession, Page, WebSocket

NAMES = (
    "chromium-headless-shell",
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
)
ARGUMENTS = ["--no-sandbox", "--disable-gpu"]
PATIENCE_MS = 120_000
MESSAGES, MANY_MESSAGES = 200, 1_000
LONG = (
    "A paragraph of some length, with **bold** and `code`, so that there is something to draw.\n\n"
    "- one\n- two\n\n```python\nfor i in range(10):\n    print(i)\n```\n\nAnd an end, number {}."
)
QUESTION = "Write a long story about a lighthouse keeper and everything that happens in a storm."
STREAM_SECONDS = 1.5  # of a reply's stream that are looked at
FIRST_UPDATES, UPDATES = 3, 40  # of a reply: those that pass, and those whose time is taken
EVENTS_OF_TAB = 3  # updates that tell that a tab streams
COSTS = ("ScriptDuration", "LayoutDuration", "RecalcStyleDuration")
DRAWN = "document.querySelector('.linly-log .empty')?.innerText.trim()"
SAYS = "document.querySelector('article.assistant .body')?.innerText.length"
FILLED = "!document.querySelector('.messages[aria-busy=true]')"


@dataclass(frozen=True)
class Opening:
    """Until the page can be used, with an empty cache: seconds, requests, bytes of scripts as they
    travel."""

    usable: float
    requests: int
    script_bytes: int


@dataclass(frozen=True)
class Opened:
    """What a visitor sees: until a long chat shows when it is opened by its link or from the side
    bar, and what comes while a reply streams at `tokens_per_second`."""

    long_chat: float
    switched: float
    updates_per_second: float
    bytes_an_update: float
    tokens_per_second: float


@dataclass
class Frames:
    """What a tab's WebSockets have received: the sizes of updates of replies."""

    sizes: list[int] = field(default_factory=list)

    @classmethod
    def of(cls, page: Page) -> Frames:
        """Count from now on; before the page is opened."""
        frames = cls()
        page.on("websocket", lambda socket: frames._follow(socket))
        return frames

    def _follow(self, socket: WebSocket) -> None:
        socket.on("framereceived", self._take)

    def _take(self, payload: str | bytes) -> None:
        text = payload if isinstance(payload, str) else payload.decode()
        if text.startswith(('{"live":', "[[")):
            self.sizes.append(len(text.encode()))


@contextmanager
def chromium() -> Iterator[Browser]:
    """A browser of its own.

    Raises:
        PeerError: there is none on this machine.
    """
    from playwright.sync_api import sync_playwright

    path = next((path for path in map(shutil.which, NAMES) if path), None)
    if path is None:
        raise PeerError("there is no Chromium on this machine: apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=ARGUMENTS)
        yield browser
        browser.close()


def measure_opening(browser: Browser, address: str) -> Opening:
    """Until a typed question could be sent: the box takes text, and the log has been drawn."""
    with _new_page(browser) as (page, session):
        kinds: dict[str, str] = {}
        sizes: dict[str, float] = {}
        session.send("Network.enable")
        session.on("Network.responseReceived", lambda event: kinds.update(_kind(event)))
        session.on("Network.loadingFinished", lambda event: sizes.update(_size(event)))
        began = time.perf_counter()
        page.goto(address)
        _wait_until_usable(page)
        usable = time.perf_counter() - began
        scripts = [sizes.get(key, 0) for key, kind in kinds.items() if "javascript" in kind]
        return Opening(usable, len(kinds), round(sum(scripts)))


def look(browser: Browser, address: str, say: Say) -> Opened:
    """One visit of a browser without a history."""
    with _new_page(browser) as (page, _):
        frames = Frames.of(page)
        page.goto(address)
        _wait_until_usable(page)
        speed = _stream(page, frames)
        _import_chat(page, MESSAGES)
        address_of_it = page.url
        switched = _switch(page)
        began = time.perf_counter()
        page.goto(address_of_it)
        _last_shows(page, MESSAGES)
        long_chat = time.perf_counter() - began
    say(f"200 messages after {long_chat:.2f} s, and {switched:.2f} s from the side bar")
    return Opened(long_chat, switched, *speed)


def measure_update(browser: Browser, address: str, messages: int) -> float:
    """Seconds of the browser's main thread for each update of a reply, in a chat of so many
    messages."""
    with _new_page(browser) as (page, session):
        frames = Frames.of(page)
        page.goto(address)
        _wait_until_usable(page)
        if messages:
            _import_chat(page, messages)
            page.wait_for_function(FILLED)
        session.send("Performance.enable")
        _ask(page)
        _wait_for_updates(page, frames, FIRST_UPDATES)
        seconds, count = _spent(session), len(frames.sizes)
        _wait_for_updates(page, frames, count + UPDATES)
        seconds, count = _spent(session) - seconds, len(frames.sizes) - count
        page.locator("#stop").click()
    return seconds / count


def streaming_tabs(browser: Browser, address: str, count: int, say: Say) -> int:
    """How many of so many tabs of one browser are open and stream a reply at the same time."""
    with _new_page(browser) as (first, _):
        context = first.context
        context.set_default_timeout(PATIENCE_MS)
        pages = [first, *(context.new_page() for _ in range(count - 1))]
        frames = [Frames.of(page) for page in pages]
        began = time.perf_counter()
        for page in pages:
            page.goto(address)
            _wait_until_usable(page)
        say(f"{count} tabs of one browser are open after {time.perf_counter() - began:.1f} s")
        for page in pages:
            _ask(page)
        good = sum(map(_streams, pages, frames))
        say(f"{good} of {count} tabs of one browser stream")
    return good


@contextmanager
def _new_page(browser: Browser) -> Iterator[tuple[Page, CDPSession]]:
    """A page of a browser without cookies and files."""
    context = browser.new_context()
    page = context.new_page()
    page.set_default_timeout(PATIENCE_MS)
    yield page, context.new_cdp_session(page)
    context.close()


def _wait_until_usable(page: Page) -> None:
    page.locator("#message textarea").fill("x")
    page.wait_for_function(DRAWN)
    page.locator("#message textarea").fill("")


def _kind(event: dict[str, Any]) -> dict[str, str]:
    return {event["requestId"]: event["response"]["mimeType"]}


def _size(event: dict[str, Any]) -> dict[str, float]:
    return {event["requestId"]: event["encodedDataLength"]}


def _ask(page: Page) -> None:
    page.locator("#message textarea").fill(QUESTION)
    page.locator("#message textarea").press("Enter")


def _streams(page: Page, frames: Frames) -> bool:
    from playwright.sync_api import TimeoutError as PlaywrightTimeoutError

    try:
        page.wait_for_function(SAYS)
        _wait_for_updates(page, frames, EVENTS_OF_TAB)
    except (PlaywrightTimeoutError, PeerError):
        return False
    return True


def _wait_for_updates(page: Page, frames: Frames, count: int) -> None:
    until = time.perf_counter() + PATIENCE_MS / 1000
    while len(frames.sizes) < count:
        if time.perf_counter() > until:
            raise PeerError(f"a reply ended or stopped after {len(frames.sizes)} updates")
        page.wait_for_timeout(20)


def _spent(session: CDPSession) -> float:
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(sum(one["value"] for one in metrics if one["name"] in COSTS))


def _stream(page: Page, frames: Frames) -> tuple[float, float, float]:
    """Updates a second, bytes of each, tokens a second."""
    _ask(page)
    page.wait_for_function(SAYS)
    frames.sizes.clear()
    began = time.perf_counter()
    page.wait_for_timeout(STREAM_SECONDS * 1000)
    seconds, sizes = time.perf_counter() - began, list(frames.sizes)
    page.locator("#send").wait_for()
    facts = page.locator("article.assistant .facts summary").last.inner_text()
    return len(sizes) / seconds, sum(sizes) / max(1, len(sizes)), _speed(facts)


def _speed(facts: str) -> float:
    return float(facts.split("·")[1].split()[0])


def _import_chat(page: Page, count: int) -> None:
    """Import a chat of so many messages, which then shows."""
    roles = ("user", "assistant")
    messages = [{"role": roles[i % 2], "content": LONG.format(i)} for i in range(count)]
    content = json.dumps({"messages": messages}).encode()
    page.locator("#sidebar input[type=file]").set_input_files(
        {"name": "long.json", "mimeType": "application/json", "buffer": content}
    )
    _last_shows(page, count)


def _switch(page: Page) -> float:
    """To another chat and back by the side bar."""
    rows = page.locator("#sidebar li button.open")
    rows.filter(has_text=QUESTION[:20]).click()
    page.get_by_role("log").get_by_text(QUESTION[:20]).first.wait_for()
    began = time.perf_counter()
    rows.filter(has_text=LONG[:20]).click()
    _last_shows(page, MESSAGES)
    return time.perf_counter() - began


def _last_shows(page: Page, count: int) -> None:
    page.get_by_role("log").get_by_text(f"number {count - 1}.").wait_for()
