"""A client that sends requests to the page's endpoints without a browser."""

from __future__ import annotations

import contextlib
import json
import secrets
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

import httpx
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from web.chats.identity import COOKIE
from web.ui.presets import FIRST, MAX_TOKENS, PRESETS

SECONDS = 60.0  # far more than any response takes
FORM: dict[str, Any] = {
    "loaded_chat": "", "adapter": "", "scale": 1.0, "template": "", "system": "",
    **PRESETS[FIRST], "max_tokens": MAX_TOKENS, "seed": -1,
}  # fmt: skip
Event = dict[str, Any]


class Stream:
    """A tab's stream, which a thread reads until either side closes it.

    `log` and `sidebar` are what the page would show, assembled from the events.
    """

    def __init__(self, url: str, headers: dict[str, str] | None = None, query: str = "",
                 **options: Any) -> None:  # fmt: skip
        address = f"{url.replace('http', 'ws', 1)}/page/events{query}"
        self._stack = contextlib.ExitStack()
        self.socket = self._stack.enter_context(connect(
            address, additional_headers=headers or {}, compression=None, proxy=None,
            max_size=None, **options,
        ))  # fmt: skip
        self.events: list[Event] = []
        self.received: list[str] = []  # the raw messages
        self.tab = ""
        self.log: Event = {}
        self.sidebar: Event = {}
        self.live: dict[str, str] = {}  # texts by message
        self._names: dict[int, str] = {}
        self._items: dict[str, dict[str, Any]] = {"messages": {}, "chats": {}}
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        with contextlib.suppress(ConnectionClosed):
            for text in self.socket:
                with self._news:
                    self.received.append(str(text))
                    self._apply(json.loads(text))
                    self._news.notify_all()
        with self._news:
            self._news.notify_all()

    def _apply(self, message: Event | list[Any]) -> None:
        event = {"live": message} if isinstance(message, list) else message
        self.events.append(event)
        self.tab = event.get("tab", self.tab)
        if "log" in event:
            self.log = self._with_items(event["log"], "messages")
        if "sidebar" in event:
            self.sidebar = self._with_items(event["sidebar"], "chats")
        for update in event.get("live", []):
            if isinstance(update, list):
                number, added = update
                self.live[self._names[number]] += added
            else:
                self._names[update["n"]] = update["id"]
                self.live[update["id"]] = update["text"]

    def _with_items(self, value: Event, key: str) -> Event:
        """Returns the value with all its items, of which the event has only those that changed."""
        for number, item in value[key]["changed"].items():
            if key == "messages" and item["text"] is None:
                item["text"] = self.live[number]
        items = {**self._items[key], **value[key]["changed"]}
        self._items[key] = {number: items[number] for number in value[key]["order"]}
        return {**value, key: list(self._items[key].values())}

    def until(self, condition: Callable[[Stream], object]) -> None:
        """Waits until the received events fulfil a condition."""
        with self._news:
            assert self._news.wait_for(lambda: condition(self), SECONDS), self.events[-3:]

    def ended(self) -> int:
        """Waits until the server closes the stream; returns the close code."""
        self._thread.join(SECONDS)
        assert not self._thread.is_alive()
        return self.socket.protocol.close_code or 0

    def updates(self) -> dict[int, dict[str, Any]]:
        """Returns the latest properties of the controls, by number."""
        with self._news:
            found: dict[int, dict[str, Any]] = {}
            for event in self.events:
                for number, properties in event.get("controls", []):
                    found.setdefault(number, {}).update(properties)
            return found

    @property
    def texts(self) -> list[str]:
        """The texts of the messages that the log shows."""
        return [message["text"] for message in self.log.get("messages", [])]

    def close(self) -> None:
        self._stack.close()
        self._thread.join(SECONDS)


class Caller:
    """A visitor with a cookie and a tab.

    Args:
        tab: a forged tab id; None opens a stream and uses the id that the server sends.
        known: whether the visitor has a cookie.
        chat: the chat in the page's URL.
        cookies: additional cookies.

    `form` has the values of the page's controls; its `loaded_chat` follows the responses.
    """

    def __init__(self, url: str, tab: str | None = None, known: bool = True, chat: str = "",
                 language: str = "en", cookies: dict[str, str] | None = None) -> None:  # fmt: skip
        self.url = url
        own = {COOKIE: secrets.token_urlsafe(32)} if known else {}
        jar = {**own, **(cookies or {})}
        self.client = httpx.Client(base_url=url, timeout=SECONDS, cookies=jar, trust_env=False)
        self.form = dict(FORM)
        self.headers = {"X-Linly-Language": language}
        self.stream: Stream | None = None
        if tab is None:
            query = f"?language={language}&chat={chat}"
            self.stream = self.open(query)
            self.stream.until(lambda stream: stream.tab)
            tab = self.stream.tab
        self.tab: str | None = tab

    def open(self, query: str = "", **options: Any) -> Stream:
        """Opens another stream of this visitor."""
        return Stream(self.url, self.cookies, query, **options)

    def close_stream(self) -> None:
        """Closes the tab's stream, and waits until the server has noticed."""
        assert self.stream
        self.stream.close()
        deadline = time.monotonic() + SECONDS
        while not self.call("language", language="en").json()["lost"]:
            assert time.monotonic() < deadline
            time.sleep(0.01)

    @property
    def cookies(self) -> dict[str, str]:
        """The Cookie header."""
        pairs = "; ".join(f"{name}={value}" for name, value in self.client.cookies.items())
        return {"Cookie": pairs} if pairs else {}

    def __enter__(self) -> Caller:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None,
                 trace: TracebackType | None) -> None:  # fmt: skip
        if self.stream is not None:
            self.stream.close()
        self.client.close()

    def post(self, path: str, content: bytes | str = b"", **headers: str) -> httpx.Response:
        """Sends a body, and returns the response."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        tab = {} if self.tab is None else {"X-Linly-Tab": self.tab}
        sent = {"Content-Type": "application/json", **self.headers, **tab, **named}
        return self.client.post(path, content=content, headers=sent)

    def call(self, kind: str, **values: Any) -> httpx.Response:
        """Sends an action, and returns the response."""
        # Python's JSON, which can have numbers that other encoders refuse.
        body = json.dumps(values, ensure_ascii=False).encode("utf-8", "surrogatepass")
        answer = self.post(f"/page/actions/{kind}", body)
        if answer.status_code == 200 and answer.json()["loaded_chat"] is not None:
            self.form["loaded_chat"] = answer.json()["loaded_chat"]
        return answer

    def form_with(self, **controls: Any) -> dict[str, Any]:
        """Returns the form with other values."""
        return {**self.form, **controls}

    def send(self, text: str, **controls: Any) -> httpx.Response:
        """Sends a message, with other values in the form."""
        return self.call("send", text=text, form=self.form_with(**controls))

    def export(self, kind: str) -> httpx.Response:
        """Requests an export."""
        return self.post("/page/export", json.dumps({"kind": kind}))

    def import_text(self, text: str | bytes, more: bool = False) -> httpx.Response:
        """Imports chats from a file's text."""
        return self.post(f"/page/import?more={int(more)}", text)

    def chats(self) -> list[dict[str, Any]]:
        """Returns all of the visitor's chats, the latest first."""
        chats: list[dict[str, Any]] = self.export("all").json()["chats"]
        return chats

    def begin(self, text: str, **controls: Any) -> list[str]:
        """Sends a message, and waits for the reply; returns the latest chat's message ids."""
        assert shown_message(self.send(text, **controls)) == ""
        return self.answered()

    def answered(self) -> list[str]:
        """Waits until the latest chat has its reply; returns its message ids."""
        deadline = time.monotonic() + SECONDS
        while not (chats := self.chats()) or chats[0]["messages"][-1]["state"] != "done":
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return [message["id"] for message in chats[0]["messages"]]


def shown_message(response: httpx.Response) -> str:
    """Returns the message for the visitor, "" if there is none; fails on an internal error."""
    assert '"fault"' not in response.text
    if response.status_code == 200:
        return response.json()["say"] or ""
    message: str = response.json()["error"]["message"]
    assert message
    return message


def error_of(response: httpx.Response) -> tuple[int, str]:
    """Returns the status and the code of an error, which must have a message."""
    assert shown_message(response)
    return response.status_code, response.json()["error"]["code"]
