"""The objects behind a tab, without a server, and a socket that can block."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tests.fake_engine import FakeEngine, fake_manager
from web.chats.chat_service import ChatService
from web.chats.reply_generator import ReplyGenerator
from web.chats.store.chat_store import ChatStore
from web.chats.tab_sessions import TabSessions
from web.workers import Workers

SECONDS = 60.0  # a bound, not a measure


class Socket:
    """A tab's socket, which blocks while `may_send` is clear."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.may_send = asyncio.Event()
        self.may_send.set()

    async def send_text(self, text: str) -> None:
        message = json.loads(text)
        event = {"live": message} if isinstance(message, list) else message
        self.sent.append(event)
        await self.may_send.wait()

    async def close(self, code: int) -> None:
        pass


class TabBackend:
    """The objects behind a tab, without a server."""

    def __init__(self, path: Path) -> None:
        self.engine = FakeEngine(lambda p, r: ["word "] * 300, ticking=True)
        self.manager = fake_manager(self.engine)
        self.manager.wait()
        self.store = ChatStore(path / "chats.sqlite3")
        self.tab_sessions = TabSessions()
        replies = ReplyGenerator(
            self.manager,
            self.store,
            "server",
            self.tab_sessions.notify_changed,
            self.tab_sessions.notify_progress,
            on_loop=self.tab_sessions.on_loop,
        )
        self.chat_service = ChatService(self.manager, self.store, self.tab_sessions, replies)
        layout = SimpleNamespace(meter="meter", controls=SimpleNamespace(encode=list))
        self.service: Any = SimpleNamespace(
            chat_service=self.chat_service, workers=Workers(), layout=layout
        )

    async def stop(self) -> None:
        for tab in self.tab_sessions:
            self.chat_service.stop(tab)
        while self.chat_service.reply_generator.count:
            await asyncio.sleep(0.01)


def run(coroutine: Any) -> None:
    asyncio.run(asyncio.wait_for(coroutine, SECONDS))
