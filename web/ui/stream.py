"""The page's stream: a WebSocket for each tab, with everything that the tab shows.

A message is a JSON object of one or more events by name:

- `tab`: the tab's id, which its posts bring along, and the `version` of the page's scripts; sent
  once the chat of the page's address is open, or what is asked first would go into another one;
- `log`, `sidebar`: what is shown, with only those messages and chats that have changed since;
- `live`: texts of replies in the making, each with the number that it has from now on;
- `controls`: updates of Gradio's components by number; `loaded_chat` is the chat they are about;
- `beat`: a sign of life.

A message that is an array holds a pair for each reply that has grown: its number and the added
text. A reply that has ended comes without its text (`null`) where the tab has all of it from these.

Nothing is queued for a tab. Each part is made from what is true when it is sent, so a slow client
misses steps and no outcome. Reading the store and making JSON is done in worker threads.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

import gradio as gr
from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from model.errors import LinlyError
from model.translations import supported_language
from web.chats.message_tree import MessageTree
from web.chats.prefill_ahead import chat_request
from web.chats.reply_job import ReplyJob, to_model_messages
from web.chats.store.chats import MAX_LISTED_CHATS
from web.chats.store.models import MessageState
from web.chats.tab_sessions import TabSession, TooManyTabsError
from web.ui.actions import error_sentence
from web.ui.chat_view import (
    failed_value,
    log_value,
    meter_line,
    reading_line,
    sidebar_value,
)
from web.ui.controls import Encoded
from web.ui.custom_components import version
from web.ui.sent_state import LiveTexts, SentItems
from web.ui.service import PageService
from web.visitor import visitor_of

UPDATE_SECONDS = 0.05  # between two updates of a tab
CROWD_SECONDS = 0.01  # and this much more for each other reply: cores are the model's
BEAT_SECONDS = 10.0  # between two signs of life; `static/stream.js` counts on them
RETRY_SECONDS = 5.0  # after the store could not be read
AFAR_SECONDS = 3.0  # between two looks at what another server says, which may have died
SEND_SECONDS = 30.0  # for which a client may take nothing of what it is sent
MAX_NAME = 100  # characters of a chat's id
TOO_MANY_TABS = 4429  # close codes; `static/stream.js` knows them
LINK_ENDED = 4410
NO_PAGE = 1008
GONE = (WebSocketDisconnect, TimeoutError, ConnectionError)  # how a client's end shows

log = logging.getLogger(__name__)
Value = dict[str, Any]
T = TypeVar("T")


async def serve_tab(socket: WebSocket, service: PageService) -> None:
    """Serve one tab from its beginning to its end."""
    visitor = visitor_of(socket.scope)
    language = supported_language(socket.query_params.get("language"))
    await socket.accept()
    service.begin()
    try:
        visit = service.tab_sessions.open(visitor.owner, visitor.guest, visitor.address)
    except TooManyTabsError as error:
        await socket.close(TOO_MANY_TABS, error_sentence(error, language))
        return
    visit.language, visit.may_train = language, visitor.may_train
    try:
        await Tab(service, socket, visit).serve(_chat_of(socket))
    finally:
        service.tab_sessions.close(visit)


def _chat_of(socket: WebSocket) -> str:
    """The chat that the page's address names."""
    chat = socket.query_params.get("chat", "")
    return chat if len(chat) <= MAX_NAME else ""


class Tab:
    """What one tab is sent, by tasks for the chats, for what streams, and for the controls."""

    def __init__(self, service: PageService, socket: WebSocket, visit: TabSession) -> None:
        self._service = service
        self._socket = socket
        self._visit = visit
        self._chat_service = service.chat_service
        self._messages, self._chats = SentItems(), SentItems()
        self._live = LiveTexts()
        self._controls: dict[int, int] = {}  # hashes of what each was sent last
        self._counts: dict[int, int] = {}  # how many choices each offers
        self._afar = False  # another server says something in the chat that is shown

    async def serve(self, chat: str) -> None:
        """Send until the client goes, or the link that it came through ends."""
        await self._run_until_first(self._show(chat), self._receive())

    async def _show(self, chat: str) -> None:
        """Open the chat of the page's address; then keep everything up to date, until one of the
        parts ends: all of them end then."""
        said, encoded = await self._draw(lambda: self._opened(chat))
        await self._send({"tab": self._visit.id, "version": version()})
        begun: Value = {"controls": encoded, "loaded_chat": self._visit.chat or ""}
        await self._send(begun | ({"say": said} if said else {}))
        self._visit.request_redraw()
        self._visit.refresh_controls()
        await self._run_until_first(self._send_chats(), self._send_live(), self._send_controls())

    async def _run_until_first(self, *parts: Coroutine[Any, Any, None]) -> None:
        """Run the parts until one of them ends, then cancel the others."""
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._report(task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _draw(self, function: Callable[[], T], slow: bool = False) -> T:
        return await self._service.workers.draw(self._visit.owner.id, function, slow)

    def _opened(self, chat: str) -> tuple[str, Encoded]:
        visit, controls = self._visit, self._service.controls
        encode = self._service.layout.controls.encode
        try:
            settings = self._chat_service.chat_list.open(visit, chat) if chat else None
            if settings is None:
                return "", encode(controls.begun(visit))
            return controls.missed(visit, settings), encode(controls.fill(visit, settings))
        except LinlyError as error:
            return error_sentence(error, visit.language), encode(controls.begun(visit))

    async def _send_chats(self) -> None:
        """Log and side bar, whenever a message begins or ends, or another chat is shown."""
        visit = self._visit
        while True:
            await _either(visit.chats_changed, AFAR_SECONDS if self._afar else None)
            try:
                await self._send_news()  # how those end that have ended
                known = self._live.texts()
                text, tree = await self._draw(partial(self._drawn, known), slow=bool(visit.query))
                await self._send_text(text)
                self._live.keep([reply.message.id for reply in self._replies()] + streaming(tree))
                if not self._is_busy(tree):
                    meter = await self._draw(partial(self._meter, tree))
                    shown = self._service.layout.controls.encode(
                        {self._service.layout.meter: meter}
                    )
                    await self._send({"controls": shown})
            except LinlyError as error:  # a disk that is full or gone may come back
                log.warning("%s", error)
                await self._send_failed(error)
                await asyncio.sleep(RETRY_SECONDS)
                visit.chats_changed.set()
            await asyncio.sleep(UPDATE_SECONDS)

    def _is_busy(self, tree: MessageTree | None) -> bool:
        """Whether a reply is in the making in a chat, here or at another replica."""
        if tree is None:
            return False
        active = self._chat_service.reply_generator.active_in_chat(tree.chat.id)
        return tree.other_replica or bool(active)

    def _drawn(self, known: Mapping[str, str]) -> tuple[str, MessageTree | None]:
        """What is to be sent of log and side bar, as JSON, and the chat.

        Args:
            known: texts that the tab has from `live`, by message.
        """
        visit, store, owner = self._visit, self._chat_service.store, self._visit.owner.id
        tree = self._chat_service.shown_chat.message_tree(visit)
        self._afar = tree is not None and tree.other_replica
        votes = store.votes(owner, tree.chat.id) if tree else []
        chats = store.chats(owner, visit.query, MAX_LISTED_CHATS + 1)
        shown = log_value(tree, votes, visit.language)
        running = self._chat_service.reply_generator.active_chats(owner)
        sidebar = sidebar_value(chats, running, visit)
        shown["messages"] = self._messages.changed(shown["messages"])
        for key, message in shown["messages"]["changed"].items():
            if message["state"] != MessageState.STREAMING and known.get(key) == message["text"]:
                message["text"] = None
        sidebar["chats"] = self._chats.changed(sidebar["chats"])
        return _json({"log": shown, "sidebar": sidebar}), tree

    async def _send_failed(self, error: LinlyError) -> None:
        """A log that cannot be read now; what it shows is sent anew afterwards."""
        shown = failed_value(self._visit.chat, error.text, self._visit.language)
        self._messages = SentItems()
        await self._send({"log": {**shown, "messages": {"order": [], "changed": {}}}})

    def _meter(self, tree: MessageTree | None) -> str:
        """How full the context is, and what is read ahead."""
        manager, visit = self._chat_service.manager, self._visit
        if tree is None or manager.context_length is None:
            return ""
        settings = tree.chat.settings
        request = chat_request(to_model_messages(tree.branch, settings.system), settings)
        try:
            measured = manager.context_usage(request)
        except LinlyError:  # said when it is asked for
            return ""
        line = meter_line(measured.tokens, measured.context_length, visit.language)
        return line + reading_line(visit.prefill_progress, visit.language)

    async def _send_live(self) -> None:
        """What streams in the chat that is shown, and signs of life."""
        visit = self._visit
        while not self._link_ended():
            if await self._send_news():
                others = max(0, self._chat_service.reply_generator.count - 1)
                await asyncio.sleep(UPDATE_SECONDS + CROWD_SECONDS * others)
            if not await _either(visit.reply_changed, BEAT_SECONDS):
                await self._send({"beat": True})
        await self._socket.close(LINK_ENDED)

    async def _send_news(self) -> bool:
        """What streams; whether there was anything new.

        Two tasks send it. Nothing is awaited between `news` and the socket, so that additions
        stay in order.
        """
        news = self._live.news(self._replies(), self._visit.language)
        if news:
            grown = all(isinstance(one, list) for one in news)
            await self._send_text(_json(news if grown else {"live": news}))
        return bool(news)

    def _replies(self) -> Sequence[ReplyJob]:
        """Those in the making, in the chat that is shown."""
        chat = self._visit.chat
        return self._chat_service.reply_generator.active_in_chat(chat) if chat else []

    def _link_ended(self) -> bool:
        link = self._chat_service.limits.link
        return self._visit.guest and link is not None and link.closed

    async def _send_controls(self) -> None:
        """Texts, choices, and how the model is, whenever they are news."""
        while True:
            await _either(self._visit.controls_changed, None)
            try:
                frames = await self._draw(self._news_of_controls)
            except LinlyError as error:
                log.warning("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._visit.controls_changed.set()
                continue
            for frame in frames:
                await self._send({"controls": frame})
            await asyncio.sleep(UPDATE_SECONDS)

    def _news_of_controls(self) -> list[Encoded]:
        """Updates that the tab has not had. A drop-down that is about to offer less is taken away
        first: Gradio's list, while it is open, would fail over what is missing."""
        controls, layout = self._service.controls, self._service.layout.controls
        updates = layout.encode(controls.all(self._visit))
        fresh: Encoded = []
        gone: Encoded = []
        for number, properties in updates:
            known = hash(json.dumps(properties, ensure_ascii=False))
            if self._controls.get(number) == known:
                continue
            self._controls[number] = known
            fresh.append([number, properties])
            if isinstance(layout.components[number], gr.Dropdown) and "choices" in properties:
                count = len(properties["choices"])
                if count < self._counts.get(number, 0):
                    gone.append([number, {"visible": False}])
                    properties["visible"] = True
                self._counts[number] = count
        return [frame for frame in (gone, fresh) if frame]

    async def _receive(self) -> None:
        """Wait for the client's end. It has nothing to say here, and one that says something is
        no page."""
        message = await self._socket.receive()
        if message["type"] != "websocket.disconnect":
            await self._socket.close(NO_PAGE)

    def _report(self, task: asyncio.Task[None]) -> None:
        """Log the end of a tab that is a fault. That its client is gone, or too slow, is none."""
        error = None if task.cancelled() else task.exception()
        gone = isinstance(error, RuntimeError) and not self._open
        if error is not None and not gone and not isinstance(error, GONE):
            log.error("The stream of a tab failed", exc_info=error)

    @property
    def _open(self) -> bool:
        both = (self._socket.client_state, self._socket.application_state)
        return both == (WebSocketState.CONNECTED, WebSocketState.CONNECTED)

    async def _send(self, event: Mapping[str, Any]) -> None:
        await self._send_text(_json(event))

    async def _send_text(self, text: str) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self._socket.send_text(text)


def streaming(tree: MessageTree | None) -> list[str]:
    """The messages that were streaming when the chat was read."""
    return [one.id for one in tree.branch if one.state is MessageState.STREAMING] if tree else []


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def _either(event: asyncio.Event, seconds: float | None) -> bool:
    """Wait for the event, or for so long; None: for as long as it takes. Whether it has come."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    came = event.is_set()
    event.clear()
    return came
