"""The page's scripts without Gradio and without a model: a page that sets what they are to draw."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from http import HTTPStatus
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

from tests.web.browser import PATIENCE

HERE = Path(__file__).parent
STATIC = HERE.parents[2] / "web" / "ui" / "static"


class Handler(SimpleHTTPRequestHandler):
    """The harness, the scripts below `page/`, and a health that a test can switch off."""

    def __init__(self, *args: Any, site: Site, **keywords: Any) -> None:
        self.site = site
        super().__init__(*args, **keywords)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/health" and not self.site.healthy:
            self.close_connection = True  # no answer at all
        elif path == "/health":
            self.send_error(HTTPStatus.SERVICE_UNAVAILABLE)
        else:
            super().do_GET()

    def translate_path(self, path: str) -> str:
        inner = path.partition("?")[0].removeprefix("/page/")
        return str(HERE / "harness.html" if inner.startswith("/") else STATIC / inner)

    def log_message(self, *args: Any) -> None:
        """Nothing is logged."""


@dataclass
class Site:
    """Where the harness is, and whether its server counts as healthy."""

    url: str = ""
    healthy: bool = True


@contextmanager
def site() -> Iterator[Site]:
    served = Site()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, site=served)) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        served.url = f"http://127.0.0.1:{server.server_port}/"
        yield served
        server.shutdown()
        thread.join()


@dataclass
class Harness:
    """The open page."""

    page: Page
    site: Site
    complaints: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> Harness:
        self.page.set_default_timeout(PATIENCE)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.goto(self.site.url + query)
        return self.wait()

    def _listen(self, message: Any) -> None:
        # The browser itself remarks on a health that does not answer; that is tested, not wrong.
        if message.type in ("error", "warning") and "/health" not in message.location["url"]:
            self.complaints.append(message.text)

    def wait(self) -> Harness:
        self.page.wait_for_function("window.harness?.ready")
        return self

    def reload(self) -> Harness:
        self.page.reload()
        return self.wait()

    def set(self, component: str, value: Any) -> None:
        self.page.evaluate("([name, value]) => harness.set(name, value)", [component, value])

    def log(self, *messages: dict[str, Any], **more: Any) -> None:
        """Show these messages, and wait until they are drawn."""
        value = {"chat": "c1", "language": "en", "messages": messages, "comparison": None,
                 "empty": "Say something.", "suggestions": []}  # fmt: skip
        self.set("Log", value | more)
        self.frames()

    def live(self, beat: int = 1, **texts: str) -> None:
        """Say these texts live, by message."""
        replies = {key: {"text": text, "notice": ""} for key, text in texts.items()}
        self.set("Live", {"beat": beat, "replies": replies})
        self.frames()

    def frames(self) -> None:
        """Let what is due be drawn."""
        self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def idle(self) -> None:
        """Let everything be drawn that waits for an idle moment."""
        self.page.wait_for_function("document.querySelector('.messages').ariaBusy === 'false'")
        self.frames()

    def actions(self) -> list[dict[str, Any]]:
        """What has been asked of the server since the last call."""
        found: list[dict[str, Any]] = self.page.evaluate("harness.actions.splice(0)")
        return found

    def message(self, key: str) -> Locator:
        return self.page.locator(f'article[data-id="{key}"]')

    @property
    def box(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message", exact=True)


def message(key: str, role: str, text: str, **more: Any) -> dict[str, Any]:
    """A message as the log's value has it."""
    return {
        "id": key, "role": role, "text": text, "state": "done", "error": "", "notice": "",
        "branch": {"at": 1, "of": 1, "before": None, "after": None}, "facts": "",
        "provenance": [], "exact": False, "continues": False, "comparison": None,
    } | more  # fmt: skip


def asked(key: str, text: str, **more: Any) -> dict[str, Any]:
    return message(key, "user", text, **more)


def replied(key: str, text: str, **more: Any) -> dict[str, Any]:
    return message(key, "assistant", text, **more)


def sidebar(*chats: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A value of the side bar."""
    return {"language": "en", "chats": chats, "more": False, "current": None, "query": "",
            "deleted": None, "kept": True} | more  # fmt: skip
