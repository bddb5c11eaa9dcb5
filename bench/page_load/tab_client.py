"""A tab of the page without a browser: its WebSocket, and a POST for each action.

All tabs of a process share its event loop and one HTTP client, because they share the cores with
the server that they measure. A browser gets its cookie with the page; a tab here makes one up.
"""

from __future__ import annotations

import asyncio
import json
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import httpx
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import WebSocketException

from bench.common import PeerError
from bench.peers.base import PeerReply

Json = dict[str, Any]

MAX_SECONDS = 600.0  # for a complete reply
COOKIE = "linly_visitor"
LANGUAGE = "en"
FORM = {
    "adapter": "", "scale": 1.0, "template": "", "system": "", "temperature": 0.7, "top_p": 0.9,
    "top_k": 40, "min_p": 0.0, "repetition_penalty": 1.1, "max_tokens": 512, "seed": None,
}  # fmt: skip
DRAWN = ("log", "sidebar", "controls")  # the events that a tab needs before it can be used


@dataclass(frozen=True)
class PageReply(PeerReply):
    """A reply as the user saw it.

    `sizes` are the bytes of each update while it streamed. `received` counts the bytes of all
    frames of the tab, headers included, from the question to the reply's end.
    """

    sizes: tuple[int, ...]
    received: int

    @property
    def updates_per_second(self) -> float:
        return len(self.sizes) / max(1e-9, self.seconds - self.first)

    @property
    def bytes_ratio(self) -> float:
        """Received bytes over the bytes of the text."""
        return self.received / max(1, len(self.text.encode()))


def http_client() -> httpx.AsyncClient:
    """The client for the posts of all tabs, without a proxy."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    return httpx.AsyncClient(timeout=MAX_SECONDS, limits=limits, trust_env=False)


class _CountingConnection(ClientConnection):
    """Counts the bytes that its socket receives."""

    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)


class TabClient:
    """One open tab. `log` and `sidebar` are the last ones received; `messages` and `order` are
    those of the log."""

    def __init__(
        self, address: str, http: httpx.AsyncClient, settings: Mapping[str, Any], cookie: str
    ) -> None:
        self._address = address
        self._http = http
        self._settings = {**FORM, **settings}
        self.cookie = cookie or secrets.token_urlsafe(32)
        self.tab, self._loaded_chat = "", ""
        self.log: Json = {}
        self.sidebar: Json = {}
        self.messages: dict[str, Json] = {}
        self.order: list[str] = []
        self._live: dict[int, str] = {}  # texts of streaming replies, by their numbers
        self._numbers: dict[str, int] = {}  # of replies, by their messages' ids
        self._events: set[str] = set()  # names of the events so far
        self._updates: list[tuple[float, int]] = []  # of replies: the time, and the bytes
        self._changed = asyncio.Event()
        self._socket: _CountingConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, address: str, http: httpx.AsyncClient, settings: Mapping[str, Any] | None = None,
        cookie: str = "", chat: str = "",
    ) -> TabClient:  # fmt: skip
        """A tab that shows a chat; "" is a new one.

        Args:
            settings: those of `FORM` that differ.

        Raises:
            PeerError: the server refuses it, or sends nothing to draw.
        """
        tab = cls(address, http, settings or {}, cookie)
        await tab._connect(chat)
        try:
            await tab.wait(lambda: tab.drawn)
        except BaseException:
            await tab.close()
            raise
        return tab

    @property
    def drawn(self) -> bool:
        """Whether everything that the tab shows has arrived."""
        return self._events.issuperset(DRAWN)

    @property
    def connected(self) -> bool:
        return self._reader is not None and not self._reader.done()

    @property
    def received(self) -> int:
        """Bytes from the server so far, those of the handshake and of frame headers included."""
        return self._socket.received if self._socket else 0

    async def close(self) -> None:
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            with suppress(asyncio.CancelledError):
                await self._reader

    async def wait(self, condition: Callable[[], bool], seconds: float = MAX_SECONDS) -> None:
        """Wait until the tab's events make `condition` true.

        Raises:
            PeerError: the time is over, or the stream ended.
        """
        try:
            async with asyncio.timeout(seconds):
                while not condition():
                    if not self.connected:
                        raise PeerError("the page's stream ended")
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError as error:
            raise PeerError(f"the page did not send what is expected in {seconds:g} s") from error

    async def act(self, kind: str, body: Json | None = None) -> None:
        """Do what a control of the page does.

        Raises:
            PeerError: the server refused it.
        """
        content = json.dumps(body or {}).encode()
        answer: Json = (await self._post(f"/page/actions/{kind}", content)).json()
        if isinstance(answer["loaded_chat"], str):
            self._loaded_chat = answer["loaded_chat"]

    async def ask(self, question: str) -> PageReply:
        """Send a question and follow its reply to the end."""
        self._updates, received, before = [], self.received, set(self.messages)
        began = time.perf_counter()
        await self.act("send", {"text": question, "form": self._form()})
        await self.wait(lambda: self._has_new_reply(before))
        ended = time.perf_counter()
        reply, updates = self.messages[self.order[-1]], self._updates
        return PageReply(
            text=reply["text"],
            first=(updates[0][0] if updates else ended) - began,
            seconds=ended - began,
            tokens=int(reply["facts"].split()[0]),
            sizes=tuple(size for _, size in updates),
            received=self.received - received,
        )

    async def new_chat(self) -> None:
        """Leave the chat that is shown."""
        await self.act("new_chat")
        await self.wait(lambda: self.log["chat"] is None)

    async def import_chats(self, content: bytes) -> None:
        """Import a file of chats, the last of which is then shown."""
        answer = (await self._post("/page/import?more=0", content)).json()
        self._loaded_chat = answer["loaded_chat"]

    async def export(self, kind: str) -> int:
        """Export chats; returns the size of the file in bytes."""
        return len((await self._post("/page/export", json.dumps({"kind": kind}).encode())).content)

    async def compare(self, question: str, rivals: Sequence[Json]) -> None:
        """Ask several adapters the same question, and wait for all of their replies."""
        await self.act("compare", {"text": question, "form": self._form(), "rivals": list(rivals)})
        await self.wait(lambda: self._has_comparison(len(rivals)))

    async def search(self, text: str) -> None:
        """Search the visitor's chats, until the side bar shows the result."""
        await self.act("search", {"text": text})
        await self.wait(lambda: self.sidebar["query"] == text)

    def _form(self) -> Json:
        """The page's controls, and the chat whose settings they show."""
        return {**self._settings, "loaded_chat": self._loaded_chat}

    async def _connect(self, chat: str) -> None:
        query = urlencode({"language": LANGUAGE, **({"chat": chat} if chat else {})})
        address = f"{self._address.replace('http', 'ws', 1)}/page/events?{query}"
        try:
            socket = await connect(
                address, additional_headers={"Cookie": f"{COOKIE}={self.cookie}"},
                compression=None, max_size=None, proxy=None, ping_interval=None,
                open_timeout=MAX_SECONDS, create_connection=_CountingConnection,
            )  # fmt: skip
        except (OSError, TimeoutError, WebSocketException) as error:
            raise PeerError(f"the page did not let a tab in: {error}") from error
        if not isinstance(socket, _CountingConnection):
            raise TypeError(socket)
        self._socket = socket
        self._reader = asyncio.create_task(self._read(socket))

    async def _read(self, socket: ClientConnection) -> None:
        try:
            with suppress(WebSocketException):  # `wait` reports that the stream ended
                async for message in socket:
                    self._receive(json.loads(message), len(message))
                    self._changed.set()
        finally:
            self._changed.set()

    def _receive(self, frame: Json | list[Any], size: int) -> None:
        """Take a frame of `size` bytes; `web/ui/tab_stream.py` describes its parts."""
        events: Json = {"live": frame} if isinstance(frame, list) else frame
        self._events.update(name for name, value in events.items() if value)
        self.tab = events.get("tab", self.tab)
        self._loaded_chat = events.get("loaded_chat", self._loaded_chat)
        self.sidebar = events.get("sidebar", self.sidebar)
        texts = [self._receive_live(reply) for reply in events.get("live", ())]
        if any(texts):
            self._updates.append((time.perf_counter(), size))
        if "log" in events:
            self.log = events["log"]
            self.order = self.log["messages"]["order"]
            messages = {**self.messages, **self.log["messages"]["changed"]}
            self.messages = {key: messages[key] for key in self.order}
            for key, message in self.messages.items():
                if message["text"] is None:  # the tab has it from `live`
                    message["text"] = self._live[self._numbers[key]]

    def _receive_live(self, reply: Json | list[Any]) -> str:
        """Take the start or the growth of a streaming reply; returns its text so far."""
        if isinstance(reply, list):
            number, added = reply
            self._live[number] += added
        else:
            number = self._numbers[reply["id"]] = reply["n"]
            self._live[number] = reply["text"]
        return self._live[number]

    def _has_new_reply(self, before: set[str]) -> bool:
        """Whether the log ends with a complete reply that is not one of the messages `before`."""
        last = self.messages.get(self.order[-1]) if self.order else None
        if last is None or last["id"] in before or last["role"] != "assistant":
            return False
        return bool(last["state"] != "streaming")

    def _has_comparison(self, count: int) -> bool:
        replies = (self.log["comparison"] or {}).get("replies", ())
        return len(replies) == count and all(reply["state"] != "streaming" for reply in replies)

    async def _post(self, path: str, content: bytes) -> httpx.Response:
        headers = {
            "Cookie": f"{COOKIE}={self.cookie}", "X-Linly-Tab": self.tab,
            "X-Linly-Language": LANGUAGE, "Content-Type": "application/json",
        }  # fmt: skip
        if self.log.get("chat"):
            headers["X-Linly-Chat"] = self.log["chat"]
        try:
            url = f"{self._address}{path}"
            answer = await self._http.post(url, content=content, headers=headers)
        except httpx.HTTPError as error:
            raise PeerError(f"{path}: {error!r}") from error
        if answer.status_code != httpx.codes.OK:
            raise PeerError(f"{path}: {answer.status_code} {answer.text[:300]}")
        return answer
