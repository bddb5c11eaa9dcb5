"""A visitor of the page without a browser: one tab's WebSocket, and a POST for each action.

All visitors of a process share its event loop and one HTTP client, because they share the cores
with the server that they measure. A browser gets its cookie with the page; a visitor here makes one
up.
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

from bench.peers.base import PeerError

Json = dict[str, Any]

MAX_SECONDS = 600.0  # for a whole reply
COOKIE = "linly_visitor"
LANGUAGE = "en"
FORM = {
    "adapter": "", "scale": 1.0, "template": "", "system": "", "temperature": 0.7, "top_p": 0.9,
    "top_k": 40, "min_p": 0.0, "repetition_penalty": 1.1, "max_tokens": 512, "seed": None,
}  # fmt: skip
DRAWN = ("log", "sidebar", "controls")  # what a tab needs before it can be used


@dataclass(frozen=True)
class ReplyTiming:
    """A reply as the visitor saw it, in seconds since the question.

    While it streamed, one update came for each of `sizes`, of so many bytes. `received` counts the
    bytes of all frames of the tab, headers included, from the question to the reply's end.
    """

    text: str
    first: float
    total: float
    tokens: int
    sizes: tuple[int, ...]
    received: int

    @property
    def updates_per_second(self) -> float:
        return len(self.sizes) / max(1e-9, self.total - self.first)

    @property
    def bytes_ratio(self) -> float:
        """Received bytes over the bytes of the text."""
        return self.received / max(1, len(self.text.encode()))


def http_client() -> httpx.AsyncClient:
    """The client for the posts of all visitors, without a proxy."""
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    return httpx.AsyncClient(timeout=MAX_SECONDS, limits=limits, trust_env=False)


class _CountedConnection(ClientConnection):
    """Counts the bytes that its socket receives."""

    received = 0

    def data_received(self, data: bytes) -> None:
        self.received += len(data)
        super().data_received(data)


class Visitor:
    """One open tab. `log` and `sidebar` are the last ones received; `messages` and `order` those of
    the log."""

    def __init__(
        self, address: str, http: httpx.AsyncClient, settings: Mapping[str, Any], cookie: str
    ) -> None:
        self._address = address
        self._http = http
        self._form = {**FORM, **settings}
        self.cookie = cookie or secrets.token_urlsafe(32)
        self.tab, self.filled = "", ""
        self.log: Json = {}
        self.sidebar: Json = {}
        self.messages: dict[str, Json] = {}
        self.order: list[str] = []
        self._live: dict[int, str] = {}  # texts of streaming replies, by their numbers
        self._numbers: dict[str, int] = {}  # of messages
        self._seen: set[str] = set()  # names of the events so far
        self._updates: list[tuple[float, int]] = []  # of replies: when, and how many bytes
        self._news = asyncio.Event()
        self._socket: _CountedConnection | None = None
        self._reader: asyncio.Task[None] | None = None

    @classmethod
    async def open(
        cls, address: str, http: httpx.AsyncClient, settings: Mapping[str, Any] | None = None,
        cookie: str = "", chat: str = "",
    ) -> Visitor:  # fmt: skip
        """A tab that shows a chat, "" being a new one.

        Args:
            settings: of `FORM`, those that differ.

        Raises:
            PeerError: the server does not let it in, or sends nothing to draw.
        """
        visitor = cls(address, http, settings or {}, cookie)
        await visitor._connect(chat)
        try:
            await visitor.wait(lambda: visitor.drawn)
        except BaseException:
            await visitor.close()
            raise
        return visitor

    @property
    def drawn(self) -> bool:
        """Whether everything has arrived that the tab shows."""
        return self._seen.issuperset(DRAWN)

    @property
    def connected(self) -> bool:
        return self._reader is not None and not self._reader.done()

    @property
    def received(self) -> int:
        """Bytes from the server so far, those of the handshake and of frame headers included."""
        return self._socket.received if self._socket else 0

    async def close(self) -> None:
        """Close the tab."""
        if self._socket is not None:
            await self._socket.close()
        if self._reader is not None:
            with suppress(asyncio.CancelledError):
                await self._reader

    async def wait(self, happened: Callable[[], bool], seconds: float = MAX_SECONDS) -> None:
        """Wait for what the tab's events bring.

        Raises:
            PeerError: it did not come in time, or the stream ended.
        """
        try:
            async with asyncio.timeout(seconds):
                while not happened():
                    if not self.connected:
                        raise PeerError("the page's stream ended")
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError as error:
            raise PeerError(
                f"the page sent nothing of what was expected in {seconds:g} s"
            ) from error

    async def act(self, kind: str, body: Json | None = None) -> Json:
        """Do what a control of the page does.

        Raises:
            PeerError: the server refused it.
        """
        content = json.dumps(body or {}).encode()
        answer: Json = (await self._post(f"/page/actions/{kind}", content)).json()
        if isinstance(answer["filled"], str):
            self.filled = answer["filled"]
        return answer

    async def ask(self, question: str) -> ReplyTiming:
        """Send a question and follow its reply to the end."""
        self._updates, before, known = [], self.received, set(self.messages)
        began = time.perf_counter()
        await self.act("send", {"text": question, "form": self.form()})
        await self.wait(lambda: self._ended(known))
        ended = time.perf_counter()
        last = self.messages[self.order[-1]]
        updates = self._updates
        return ReplyTiming(
            text=last["text"],
            first=(updates[0][0] if updates else ended) - began,
            total=ended - began,
            tokens=int(last["facts"].split()[0]),
            sizes=tuple(size for _, size in updates),
            received=self.received - before,
        )

    async def new_chat(self) -> None:
        """Leave the chat that is shown."""
        await self.act("new_chat")
        await self.wait(lambda: self.log["chat"] is None)

    async def import_chats(self, content: bytes) -> None:
        """Import a file of chats, the last of which is then shown."""
        answer = (await self._post("/page/import?more=0", content)).json()
        self.filled = answer["filled"]

    async def export(self, kind: str) -> int:
        """Export chats; how many bytes the file has."""
        return len((await self._post("/page/export", json.dumps({"kind": kind}).encode())).content)

    async def compare(self, question: str, rivals: Sequence[Json]) -> None:
        """Have several answer the same question, and wait for all of their replies."""
        body = {"text": question, "form": self.form(), "rivals": list(rivals)}
        await self.act("compare", body)
        await self.wait(lambda: self._compared(len(rivals)))

    async def search(self, text: str) -> None:
        """Search the visitor's chats, until the side bar shows what was found."""
        await self.act("search", {"text": text})
        await self.wait(lambda: self.sidebar["query"] == text)

    def form(self) -> Json:
        """How the visitor wants to be answered."""
        return {**self._form, "filled": self.filled}

    async def _connect(self, chat: str) -> None:
        query = urlencode({"language": LANGUAGE, **({"chat": chat} if chat else {})})
        address = f"{self._address.replace('http', 'ws', 1)}/page/events?{query}"
        try:
            socket = await connect(
                address, additional_headers={"Cookie": f"{COOKIE}={self.cookie}"},
                compression=None, max_size=None, proxy=None, ping_interval=None,
                open_timeout=MAX_SECONDS, create_connection=_CountedConnection,
            )  # fmt: skip
        except (OSError, TimeoutError, WebSocketException) as error:
            raise PeerError(f"the page did not let a tab in: {error}") from error
        if not isinstance(socket, _CountedConnection):
            raise TypeError(socket)
        self._socket = socket
        self._reader = asyncio.create_task(self._read(socket))

    async def _read(self, socket: ClientConnection) -> None:
        try:
            async for message in socket:
                self._take(json.loads(message), len(message))
                self._news.set()
        except WebSocketException:
            pass  # `wait` tells that the stream ended
        finally:
            self._news.set()

    def _take(self, message: Json | list[Any], size: int) -> None:
        events: Json = {"live": message} if isinstance(message, list) else message
        self._seen.update(name for name, value in events.items() if value)
        self.tab = events.get("tab", self.tab)
        self.filled = events.get("filled", self.filled)
        self.sidebar = events.get("sidebar", self.sidebar)
        texts = [self._take_live(reply) for reply in events.get("live", ())]
        if any(texts):
            self._updates.append((time.perf_counter(), size))
        if "log" in events:
            self.log = events["log"]
            self.order = self.log["messages"]["order"]
            known = {**self.messages, **self.log["messages"]["changed"]}
            self.messages = {key: known[key] for key in self.order}
            for key, message in self.messages.items():
                if message["text"] is None:  # the tab has it
                    message["text"] = self._live[self._numbers[key]]

    def _take_live(self, reply: Json | list[Any]) -> str:
        """Take what a streaming reply has said; its text by then."""
        if isinstance(reply, list):
            number, added = reply
            self._live[number] += added
        else:
            number = self._numbers[reply["id"]] = reply["n"]
            self._live[number] = reply["text"]
        return self._live[number]

    def _ended(self, known: set[str]) -> bool:
        """Whether the log ends with a reply that is complete and not among the `known` messages."""
        last = self.messages.get(self.order[-1]) if self.order else None
        if last is None or last["id"] in known or last["role"] != "assistant":
            return False
        return bool(last["state"] != "streaming")

    def _compared(self, count: int) -> bool:
        replies = (self.log["comparison"] or {}).get("replies", ())
        return len(replies) == count and all(one["state"] != "streaming" for one in replies)

    async def _post(self, path: str, content: bytes) -> httpx.Response:
        headers = {
            "Cookie": f"{COOKIE}={self.cookie}", "X-Linly-Tab": self.tab,
            "X-Linly-Language": LANGUAGE, "Content-Type": "application/json",
        }  # fmt: skip
        if self.log.get("chat"):
            headers["X-Linly-Chat"] = self.log["chat"]
        try:
            answer = await self._http.post(
                f"{self._address}{path}", content=content, headers=headers
            )
        except httpx.HTTPError as error:
            raise PeerError(f"{path}: {error!r}") from error
        if answer.status_code != httpx.codes.OK:
            raise PeerError(f"{path}: {answer.status_code} {answer.text[:300]}")
        return answer
