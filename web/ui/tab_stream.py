"""The page's stream: a WebSocket for each tab, which sends everything that the tab shows.

A message is a JSON object of one or more events by name:

- `tab`: the tab's id, which its posts contain, and the `version` of the page's scripts. It is sent
  once the chat of the page's address is open; a question before that would begin another chat;
- `log`, `sidebar`: their values, with only those messages and chats that have changed;
- `live`: texts of replies in the making, each with the number that it has from now on;
- `controls`: updates of Gradio's components by number; `loaded_chat` is the chat they belong to.
  Responses to actions have such updates, too, and `order` says which of two is the newer one;
- `say`: a sentence for the visitor;
- `beat`: a sign of life.

A message that is an array has a pair for each reply that has grown: its number and the added text.
A reply that has ended comes without its text (`null`) if the tab has all of it from these.

Nothing is queued for a tab. Each message is made from the state at that moment, so a slow client
misses intermediate states, but no final one. Worker threads read the store and make JSON.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any, TypeVar

from starlette.websockets import WebSocket, WebSocketDisconnect, WebSocketState

from model.errors import LinlyError
from model.translations import supported_language
from web.chats.message_tree import MessageTree
from web.chats.prefill_ahead import chat_request
from web.chats.reply_job import ReplyJob, to_model_messages
from web.chats.store.chats import MAX_LISTED_CHATS
from web.chats.store.models import MessageState
from web.chats.tab_sessions import TabSession, TooManyTabsError
from web.ui.action_result import error_sentence
from web.ui.chat_view import (
    failed_value,
    log_value,
    meter_line,
    prefill_line,
    sidebar_value,
)
from web.ui.controls import Encoded
from web.ui.custom_components import version
from web.ui.page_service import PageService
from web.ui.sent_state import LiveTexts, SentControls, SentItems
from web.visitor import visitor_of

UPDATE_SECONDS = 0.05  # between two updates of a tab
CROWD_SECONDS = 0.01  # and this much more for each other reply, which needs the CPU cores
BEAT_SECONDS = 10.0  # between two signs of life; `static/stream.js` expects them
RETRY_SECONDS = 5.0  # after the store could not be read
REMOTE_SECONDS = 3.0  # between two reads of a chat in which another replica, which may die, replies
SEND_SECONDS = 30.0  # for which a client may read nothing
MAX_NAME = 100  # characters of a chat's id
TOO_MANY_TABS = 4429  # close codes; `static/stream.js` knows them
LINK_ENDED = 4410
UNEXPECTED_MESSAGE = 1008
CLIENT_GONE = (WebSocketDisconnect, TimeoutError, ConnectionError)

log = logging.getLogger(__name__)
Value = dict[str, Any]
T = TypeVar("T")


async def serve_tab(socket: WebSocket, service: PageService) -> None:
    """Serves one tab from its beginning to its end."""
    visitor = visitor_of(socket.scope)
    language = supported_language(socket.query_params.get("language"))
    await socket.accept()
    service.begin()
    try:
        tab = service.tab_sessions.open(visitor.owner, visitor.guest, visitor.address)
    except TooManyTabsError as error:
        await socket.close(TOO_MANY_TABS, error_sentence(error, language))
        return
    tab.language, tab.may_train = language, visitor.may_train
    try:
        await TabStream(service, socket, tab).serve(_chat_in_address(socket))
    finally:
        service.tab_sessions.close(tab)


def _chat_in_address(socket: WebSocket) -> str:
    """Returns the chat that the page's address names, or ""."""
    chat = socket.query_params.get("chat", "")
    return chat if len(chat) <= MAX_NAME else ""


class TabStream:
    """Sends one tab its chats, its streaming replies and its controls, each in a task."""

    def __init__(self, service: PageService, socket: WebSocket, tab: TabSession) -> None:
        self._service = service
        self._socket = socket
        self._tab = tab
        self._chat_service = service.chat_service
        self._messages, self._chats = SentItems(), SentItems()
        self._live = LiveTexts()
        self._controls = SentControls()
        self._other_replica = False  # makes a reply in the shown chat

    async def serve(self, chat: str) -> None:
        """Sends until the client is gone, or the public link that it came through ends."""
        await self._run_until_first(self._send_all(chat), self._receive())

    async def _send_all(self, chat: str) -> None:
        """Opens the chat of the page's address, then sends updates until one of the tasks ends."""
        message, encoded = await self._draw(lambda: self._open_chat(chat))
        await self._send({"tab": self._tab.id, "version": version()})
        controls: Value = {"controls": encoded, "loaded_chat": self._tab.chat or ""}
        await self._send(controls | ({"say": message} if message else {}))
        self._tab.request_redraw()
        self._tab.refresh_controls()
        await self._run_until_first(self.send_chats(), self.send_live(), self.send_controls())

    async def _run_until_first(self, *parts: Coroutine[Any, Any, None]) -> None:
        """Runs the parts until one of them ends, then cancels the others."""
        tasks = [asyncio.create_task(part) for part in parts]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                self._log_fault(task)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _draw(self, function: Callable[[], T], slow: bool = False) -> T:
        """Runs a function in a worker thread."""
        return await self._service.workers.draw(self._tab.owner.id, function, slow)

    def _open_chat(self, chat: str) -> tuple[str, Encoded]:
        """Opens a chat, or a new one; returns a sentence for the visitor, and the controls."""
        tab, controls = self._tab, self._service.controls
        encode = self._service.layout.controls.encode
        try:
            settings = self._chat_service.chat_list.open(tab, chat) if chat else None
            if settings is None:
                return "", encode(controls.new_chat(tab))
            return controls.missing_adapter(tab, settings), encode(controls.fill(tab, settings))
        except LinlyError as error:
            return error_sentence(error, tab.language), encode(controls.new_chat(tab))

    async def send_chats(self) -> None:
        """Sends log and side bar, whenever a message begins or ends, or another chat is shown."""
        tab = self._tab
        while True:
            await _wait(tab.chats_changed, REMOTE_SECONDS if self._other_replica else None)
            try:
                await self._send_live_changes()  # the last ones of replies that have ended
                render = partial(self._chats_json, self._live.texts())
                text, tree = await self._draw(render, slow=bool(tab.query))
                await self._send_text(text)
                self._live.keep([reply.message.id for reply in self._replies()] + streaming(tree))
                if not self._is_busy(tree):
                    await self._send_meter(tree)
            except LinlyError as error:  # a disk that is full or gone may come back
                log.warning("%s", error)
                await self._send_failed(error)
                await asyncio.sleep(RETRY_SECONDS)
                tab.chats_changed.set()
            await asyncio.sleep(UPDATE_SECONDS)

    def _is_busy(self, tree: MessageTree | None) -> bool:
        """Whether this replica or another one makes a reply in a chat."""
        if tree is None:
            return False
        active = self._chat_service.reply_generator.active_in_chat(tree.chat.id)
        return tree.other_replica or bool(active)

    def _chats_json(self, live_texts: Mapping[str, str]) -> tuple[str, MessageTree | None]:
        """Returns the changes of log and side bar as JSON, and the shown chat.

        Args:
            live_texts: texts that the tab has from `live`, by message.
        """
        tab, store, owner = self._tab, self._chat_service.store, self._tab.owner.id
        tree = self._chat_service.shown_chat.message_tree(tab)
        self._other_replica = tree is not None and tree.other_replica
        votes = store.votes(owner, tree.chat.id) if tree else []
        chats = store.chats(owner, tab.query, MAX_LISTED_CHATS + 1)
        value = log_value(tree, votes, tab.language)
        running = self._chat_service.reply_generator.active_chats(owner)
        sidebar = sidebar_value(chats, running, tab)
        value["messages"] = self._messages.changes(value["messages"])
        for key, message in value["messages"]["changed"].items():
            ended = message["state"] != MessageState.STREAMING
            if ended and live_texts.get(key) == message["text"]:
                message["text"] = None
        sidebar["chats"] = self._chats.changes(sidebar["chats"])
        return _json({"log": value, "sidebar": sidebar}), tree

    async def _send_failed(self, error: LinlyError) -> None:
        """Sends an error in place of the log; afterwards all messages are sent again."""
        value = failed_value(self._tab.chat, error.text, self._tab.language)
        self._messages = SentItems()
        await self._send({"log": {**value, "messages": {"order": [], "changed": {}}}})

    async def _send_meter(self, tree: MessageTree | None) -> None:
        layout = self._service.layout
        meter = await self._draw(partial(self._meter, tree))
        await self._send({"controls": layout.controls.encode({layout.meter: meter})})

    def _meter(self, tree: MessageTree | None) -> str:
        """Returns how full the context is, and the progress of the prefill ahead."""
        manager, tab = self._chat_service.manager, self._tab
        if tree is None or manager.context_length is None:
            return ""
        settings = tree.chat.settings
        request = chat_request(to_model_messages(tree.branch, settings.system), settings)
        try:
            usage = manager.context_usage(request)
        except LinlyError:  # the visitor reads the error when they ask
            return ""
        line = meter_line(usage.tokens, usage.context_length, tab.language)
        return line + prefill_line(tab.prefill_progress, tab.language)

    async def send_live(self) -> None:
        """Sends the streaming replies of the shown chat, and signs of life."""
        tab = self._tab
        while not self._link_ended():
            if await self._send_live_changes():
                await asyncio.sleep(self._update_seconds())
            if not await _wait(tab.reply_changed, BEAT_SECONDS):
                await self._send({"beat": True})
        await self._socket.close(LINK_ENDED)

    def _update_seconds(self) -> float:
        """Returns the time between two updates, which grows with the number of replies."""
        others = max(0, self._chat_service.reply_generator.count - 1)
        return UPDATE_SECONDS + CROWD_SECONDS * others

    async def _send_live_changes(self) -> bool:
        """Sends changes of the streaming replies; returns whether there were any.

        Two tasks call this. Nothing is awaited between `changes` and the socket, so that additions
        stay in order.
        """
        changes = self._live.changes(self._replies(), self._tab.language)
        if changes:
            only_additions = all(isinstance(change, list) for change in changes)
            await self._send_text(_json(changes if only_additions else {"live": changes}))
        return bool(changes)

    def _replies(self) -> Sequence[ReplyJob]:
        """Returns the replies in the making in the shown chat."""
        chat = self._tab.chat
        return self._chat_service.reply_generator.active_in_chat(chat) if chat else []

    def _link_ended(self) -> bool:
        link = self._chat_service.limits.link
        return self._tab.guest and link is not None and link.closed

    async def send_controls(self) -> None:
        """Sends texts, choices and the model's state, whenever they change."""
        while True:
            await _wait(self._tab.controls_changed, None)
            try:
                order, messages = await self._draw(self._control_changes)
            except LinlyError as error:
                log.warning("%s", error)
                await asyncio.sleep(RETRY_SECONDS)
                self._tab.controls_changed.set()
                continue
            for message in messages:
                await self._send({"controls": message, "order": order})
            await asyncio.sleep(UPDATE_SECONDS)

    def _control_changes(self) -> tuple[int, list[Encoded]]:
        """Returns the number of an update, and its messages."""
        order, changed = self._tab.control_order.next_update()
        self._controls.forget(changed)  # also if the state cannot be read now
        controls = self._service.layout.controls
        updates = controls.encode(self._service.controls.all(self._tab))
        return order, self._controls.changes(updates, controls.components)

    async def _receive(self) -> None:
        """Waits for the client to close. The page sends no messages, so others are refused."""
        message = await self._socket.receive()
        if message["type"] != "websocket.disconnect":
            await self._socket.close(UNEXPECTED_MESSAGE)

    def _log_fault(self, task: asyncio.Task[None]) -> None:
        """Logs the error that ended a tab, unless its client is gone or too slow."""
        error = None if task.cancelled() else task.exception()
        closed = isinstance(error, RuntimeError) and not self._is_open
        if error is not None and not closed and not isinstance(error, CLIENT_GONE):
            log.error("The stream of a tab failed", exc_info=error)

    @property
    def _is_open(self) -> bool:
        states = (self._socket.client_state, self._socket.application_state)
        return states == (WebSocketState.CONNECTED, WebSocketState.CONNECTED)

    async def _send(self, event: Mapping[str, Any]) -> None:
        await self._send_text(_json(event))

    async def _send_text(self, text: str) -> None:
        async with asyncio.timeout(SEND_SECONDS):
            await self._socket.send_text(text)


def streaming(tree: MessageTree | None) -> list[str]:
    """Returns the ids of the messages that were streaming when the chat was read."""
    branch = tree.branch if tree else []
    return [message.id for message in branch if message.state is MessageState.STREAMING]


def _json(value: Mapping[str, Any] | Sequence[Any]) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


async def _wait(event: asyncio.Event, seconds: float | None) -> bool:
    """Waits for the event, at most `seconds`, and clears it; returns whether it was set."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    was_set = event.is_set()
    event.clear()
    return was_set
