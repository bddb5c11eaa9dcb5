"""A replica of the program, as far as its chats go."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable

from model.types import Sampling
from tests.fake import FakeEngine, fake_manager
from web.chats.chat_service import ChatService
from web.chats.identity import Owner
from web.chats.open_store import OpenStore
from web.chats.reply_generator import ReplyGenerator
from web.chats.store.models import ChatMessage, ChatSettings, MessageState
from web.chats.tab_sessions import TabSessions
from web.workers import LoopCaller

ANNA = "browser:anna"
GREEDY = ChatSettings(sampling=Sampling(temperature=0))
Open = Callable[[], OpenStore]
SECONDS = 30.0  # a bound, not a measure


class World:
    """A replica, as far as its chats go, with a tab of Anna's."""

    def __init__(self, keeping: OpenStore, engine: FakeEngine) -> None:
        self.keeping, self.store, self.engine = keeping, keeping.store, engine
        self.manager = fake_manager(engine)
        self.manager.wait()
        self.on_loop = LoopCaller()
        self.visits = TabSessions(keeping.others, self.on_loop)
        self.replies = ReplyGenerator(
            self.manager, self.store, keeping.lock.id, self.visits.changed, lambda *_: None,
            self.visits.notify_saved, keeping.others, on_loop=self.on_loop,
        )  # fmt: skip
        self.talk = ChatService(
            self.manager,
            self.store,
            self.visits,
            self.replies,
            mend=keeping.mark_interrupted_replies,
        )
        self.visit = self.visits.open(Owner(ANNA))
        self.url = ""

    def follow(self) -> None:
        """On the event loop that runs now."""
        self.on_loop.bind()
        self.visits.follow(self.talk.on_replica_event)

    @property
    def last(self) -> ChatMessage:
        talk = self.talk.conversation(self.visit)
        assert talk
        assert talk.last
        return talk.last

    async def news(self) -> None:
        """Until the tab has something to draw."""
        await self.visit.changed.wait()
        self.visit.changed.clear()


def run(coroutine: Awaitable[None]) -> None:
    async def bounded() -> None:
        await asyncio.wait_for(coroutine, 2 * SECONDS)

    asyncio.run(bounded())


def until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + SECONDS
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def streaming(keeping: OpenStore, server: str) -> tuple[str, Callable[[], MessageState]]:
    """A chat with a reply that a server writes, and how that one is."""
    chat = keeping.store.create(ANNA, "title", GREEDY).id
    message = ChatMessage(f"a-{chat}", None, "assistant", "half", MessageState.STREAMING)
    keeping.store.add(ANNA, chat, message, server)
    return message.id, lambda: keeping.store.message(ANNA, message.id)[1].state
