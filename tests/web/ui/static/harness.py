"""A page with the product's scripts, but with a fake server and without Gradio."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from playwright.sync_api import Locator, Page

from model.config.settings import CHECKOUT
from tests.web.browser import PATIENCE
from web.ui.custom_components import script_texts

HERE = Path(__file__).parent
STATIC = CHECKOUT / "web" / "ui" / "static"
ACTIONS = "page/actions/"


class Handler(SimpleHTTPRequestHandler):
    """Serves the harness, and the scripts below `page/`."""

    def translate_path(self, path: str) -> str:
        name = path.partition("?")[0].removeprefix("/")
        if name.startswith("page/"):
            return str(STATIC / name.removeprefix("page/"))
        return str(HERE / (name if name == "harness.js" else "harness.html"))

    def do_GET(self) -> None:
        if self.path != "/texts.json":
            return super().do_GET()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(script_texts()).encode())
        return None

    def log_message(self, *args: Any) -> None:
        """Nothing is logged."""


@dataclass
class Site:
    """The address of the harness."""

    url: str = ""


@contextmanager
def site() -> Iterator[Site]:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Site(f"http://127.0.0.1:{server.server_port}/")
        server.shutdown()
        thread.join()


@dataclass
class Harness:
    """The open page, with the fake server and controls of `harness.js`."""

    page: Page
    site: Site
    fake_clock: bool = False
    complaints: list[str] = field(default_factory=list)

    def open(self, query: str = "") -> Harness:
        """Opens the page; a fake clock stands still from then on, until a test advances it."""
        self.page.set_default_timeout(PATIENCE)
        if self.fake_clock:
            self.page.clock.install()
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._listen)
        self.page.goto(self.site.url + query)
        self.wait()
        if self.fake_clock:
            self.page.clock.pause_at(self.page.evaluate("Date.now() + 1000") / 1000)
        return self

    def _listen(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(message.text)

    def wait(self) -> Harness:
        self.page.wait_for_function("window.harness?.ready")
        return self

    def reload(self) -> Harness:
        self.page.reload()
        return self.wait()

    # What the server sends.

    def event(self, **events: Any) -> None:
        """Sends one message of the stream, and waits until it is drawn."""
        self.page.evaluate("(events) => harness.event(events)", events)
        self.frames()

    def log(self, *messages: dict[str, Any], **more: Any) -> None:
        """Shows these messages, and waits until they are drawn."""
        value = {"chat": "c1", "language": "en", "messages": messages, "comparison": None,
                 "empty": "Say something.", "suggestions": []}  # fmt: skip
        self.page.evaluate("(value) => harness.log(value)", value | more)
        self.frames()

    def sidebar(self, *chats: dict[str, Any], **more: Any) -> None:
        """Shows these chats in the side bar."""
        value = {"language": "en", "chats": chats, "more": False, "current": None, "query": "",
                 "deleted": None, "persistent": True}  # fmt: skip
        self.page.evaluate("(value) => harness.sidebar(value)", value | more)

    def live(self, notice: str = "", **texts: str) -> None:
        """Streams replies: their texts so far, by message."""
        replies = {key: {"text": text, "notice": notice} for key, text in texts.items()}
        self.page.evaluate("(replies) => harness.live(replies)", replies)
        self.frames()

    # Connections.

    def server(self, **values: Any) -> None:
        """Sets how the server responds: `way`, `version` and `head` of `harness.js`."""
        self.page.evaluate("(values) => { Object.assign(harness.server, values); }", values)

    def drop(self, code: int = 1006, reason: str = "") -> None:
        """Closes the connection."""
        self.page.evaluate("([code, reason]) => harness.socket.end(code, reason)", [code, reason])

    def connections(self) -> list[str]:
        """Returns the queries of all connections, in order."""
        found: list[str] = self.page.evaluate(
            "harness.sockets.map(({ url }) => url.replace('ws://' + location.host + '/', ''))"
        )
        return found

    # Posts and their responses.

    def answer(self, path: str, **values: Any) -> None:
        """Plans the response to the next post to this path: an action's result, or with `status`
        an error; `delayed` until `release`; none if it `fails`; with `text` and `headers` a file.
        """
        script = "([path, values]) => { (harness.server.answers[path] ??= []).push(values); }"
        self.page.evaluate(script, [f"page/{path}", values])

    def refuse(self, path: str, message: str, status: int = 400) -> None:
        self.answer(path, status=status, error={"code": "refused", "message": message})

    def release(self) -> None:
        """Sends the response that has been delayed for longest."""
        self.page.evaluate("harness.delayed.shift()()")

    def posts(self) -> list[dict[str, Any]]:
        """Returns the posts since the last call: path, query, headers and body of each."""
        found: list[dict[str, Any]] = self.page.evaluate("harness.posts.splice(0)")
        return found

    def wait_for_posts(self, count: int = 1) -> list[dict[str, Any]]:
        self.page.wait_for_function("(count) => harness.posts.length >= count", arg=count)
        return self.posts()

    def actions(self, form: bool = False) -> list[dict[str, Any]]:
        """Returns the actions among the posts since the last call; their forms only with `form`."""
        actions = [
            {"kind": post["path"].removeprefix(ACTIONS), **json.loads(post["body"])}
            for post in self.posts()
            if post["path"].startswith(ACTIONS)
        ]
        omitted = () if form else ("form",)
        return [{k: v for k, v in action.items() if k not in omitted} for action in actions]

    # Actions of the visitor.

    def control(self, kind: str, **values: Any) -> None:
        """Triggers an event of one of Gradio's controls, which have these values."""
        self.page.evaluate("(values) => { Object.assign(harness.values, values); }", values)
        self.page.evaluate("(kind) => harness.control(kind)", kind)

    def frames(self) -> None:
        """Waits until scheduled frames are drawn."""
        if self.fake_clock:
            self.page.clock.run_for(50)
            return
        self.page.evaluate(
            "new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))"
        )

    def idle(self) -> None:
        """Waits until everything is drawn that waits for an idle moment."""
        self.page.wait_for_function("document.querySelector('.messages').ariaBusy === 'false'")
        self.frames()

    def message(self, key: str) -> Locator:
        return self.page.locator(f'article[data-id="{key}"]')

    @property
    def box(self) -> Locator:
        return self.page.get_by_role("textbox", name="Message", exact=True)


def message(key: str, role: str, text: str | None, **more: Any) -> dict[str, Any]:
    """Returns a message of the log's value."""
    return {
        "id": key, "role": role, "text": text, "state": "done", "error": "", "notice": "",
        "branch": {"at": 1, "of": 1, "before": None, "after": None}, "facts": "",
        "provenance": [], "exact": False, "continues": False, "comparison": None,
    } | more  # fmt: skip


def asked(key: str, text: str, **more: Any) -> dict[str, Any]:
    return message(key, "user", text, **more)


def replied(key: str, text: str | None, **more: Any) -> dict[str, Any]:
    return message(key, "assistant", text, **more)
