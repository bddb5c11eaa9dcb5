"""The chat services of one replica, over a scripted engine, without the page."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from typing import Any

from model.sampling import Sampling
from model.serving.adapter_folders import Adapter
from tests.fake_engine import ADAPTERS, FakeEngine, fake_manager
from web.chats.chat_service import ChatService
from web.chats.identity import Owner
from web.chats.open_store import OpenStore
from web.chats.reply_generator import ReplyGenerator
from web.chats.store.models import ChatMessage, ChatSettings, MessageState
from web.chats.tab_sessions import TabSessions
from web.public_link.limits import LinkRules, PublicLink
from web.workers import LoopCaller

ANNA = "browser:anna"
GREEDY = ChatSettings(sampling=Sampling(temperature=0))
SECONDS = 60.0  # a bound for hanging tests, not a measurement
POLL_SECONDS = 0.005
Script = Callable[..., list[str]]
OpenReplica = Callable[[], OpenStore]


class ChatApp:
    """The chat services over an open store, with a tab of Anna's.

    `progress` records the owner and the chat of each growth of a reply.
    """

    def __init__(
        self,
        store_handle: OpenStore,
        engine: FakeEngine,
        loading: threading.Event | None = None,
    ) -> None:
        self.store_handle, self.store, self.engine = store_handle, store_handle.store, engine
        self.adapters: list[Adapter] = list(ADAPTERS)
        self.manager = fake_manager(engine, loading, adapters=self.adapters)
        if loading is None:
            self.manager.wait()
        self.progress: list[tuple[str, str]] = []
        self.on_loop = LoopCaller()
        self.tab_sessions = TabSessions(store_handle.replica_bus, self.on_loop)
        self.reply_generator = ReplyGenerator(
            self.manager,
            self.store,
            store_handle.lock.id,
            self.tab_sessions.notify_changed,
            lambda owner, chat: self.progress.append((owner, chat)),
            self.tab_sessions.notify_saved,
            store_handle.replica_bus,
            on_loop=self.on_loop,
        )
        self.chat_service = ChatService(
            self.manager,
            self.store,
            self.tab_sessions,
            self.reply_generator,
            mark_interrupted=store_handle.mark_interrupted_replies,
        )
        self.shown_chat = self.chat_service.shown_chat
        self.chat_list = self.chat_service.chat_list
        self.tab = self.tab_sessions.open(Owner(ANNA))

    @property
    def chat(self) -> str:
        """The id of the chat that the tab shows."""
        assert self.tab.chat
        return self.tab.chat

    @property
    def branch(self) -> list[ChatMessage]:
        """The branch that the tab shows; empty for a chat that has not begun."""
        tree = self.shown_chat.message_tree(self.tab)
        return tree.branch if tree else []

    @property
    def texts(self) -> list[str]:
        """The texts of the branch."""
        return [message.text for message in self.branch]

    @property
    def last(self) -> ChatMessage:
        """The last message of the branch."""
        return self.branch[-1]

    @property
    def message_count(self) -> int:
        """How many messages the tab's chat has, in all branches."""
        return len(self.store.messages(ANNA, self.tab.chat)) if self.tab.chat else 0

    def come_through_link(self, rules: LinkRules) -> PublicLink:
        """Makes the tab a guest's, who came through a public link with these rules."""
        self.chat_service.limits.link = PublicLink(rules, lambda: None)
        self.tab.guest = True
        return self.chat_service.limits.link

    def subscribe(self) -> None:
        """Handles the events of other replicas on the running event loop."""
        self.on_loop.bind()
        self.tab_sessions.subscribe(self.chat_service.on_replica_event)

    async def replies_ended(self) -> None:
        """Waits until no reply is in the making."""
        while self.reply_generator.count:
            await asyncio.sleep(POLL_SECONDS)

    async def redraw_requested(self) -> None:
        """Waits until the tab has something to draw."""
        await self.tab.chats_changed.wait()
        self.tab.chats_changed.clear()

    def run_each(self, *actions: Callable[[], object]) -> None:
        """Runs each action on an event loop, after the replies of the one before have ended."""

        async def run_all() -> None:
            for action in actions:
                action()
                await self.replies_ended()

        run(run_all())

    def close(self) -> None:
        """Ends the model. The caller that opened the store closes it."""
        self.manager.close()


def run(coroutine: Coroutine[Any, Any, None]) -> None:
    """Runs a test's coroutine, for a bounded time."""
    asyncio.run(asyncio.wait_for(coroutine, 2 * SECONDS))


async def wait_until(condition: Callable[[], object]) -> None:
    """Waits on the event loop until a condition holds."""
    while not condition():
        await asyncio.sleep(POLL_SECONDS)


def block_until(condition: Callable[[], object]) -> None:
    """Waits in this thread until a condition holds."""
    deadline = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(POLL_SECONDS)


def add_streaming(store_handle: OpenStore, server: str) -> tuple[str, Callable[[], MessageState]]:
    """Adds a chat with a reply that a server writes; returns its id, and what reads its state."""
    store = store_handle.store
    chat = store.create(ANNA, "title", GREEDY).id
    message = ChatMessage(f"a-{chat}", None, "assistant", "half", MessageState.STREAMING)
    store.add(ANNA, chat, message, server)
    return message.id, lambda: store.message(ANNA, message.id)[1].state
