"""Replies and how they are stopped, apart from any page."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

from model.types import ChatRequest, Delta, FinishReason, Message, PreparedAdapter
from tests.fake import FakeEngine, echo, fake_manager
from web.ui.conversation import Replies


@dataclass
class SlowAdapters(FakeEngine):
    """Takes its time with `prepare`, until it is told to go on."""

    loading: threading.Event = field(default_factory=threading.Event)
    go_on: threading.Event = field(default_factory=threading.Event)

    def prepare(self, adapter: str, digest: str) -> PreparedAdapter:
        self.loading.set()
        self.go_on.wait()
        return PreparedAdapter(adapter, digest)


def test_stop_while_an_adapter_loads() -> None:
    """The engine does not know the request yet; it must not start it afterwards."""

    async def run() -> tuple[int, list[Delta]]:
        engine = SlowAdapters(echo)
        manager = fake_manager(engine)
        await asyncio.to_thread(manager.wait)
        request = ChatRequest((Message("user", "hello"),), adapter="pirate")
        reply = manager.chat(request)
        first = asyncio.ensure_future(anext(reply))
        await asyncio.to_thread(engine.loading.wait)
        manager.abort(request.id)
        engine.go_on.set()
        deltas = [*await first, *[delta async for burst in reply for delta in burst]]
        return len(engine.requests), deltas

    submitted, deltas = asyncio.run(asyncio.wait_for(run(), 20))
    assert submitted == 0
    assert deltas[-1].finish_reason is FinishReason.ABORT


def test_one_reply_a_session() -> None:
    async def run() -> None:
        replies = Replies(fake_manager(FakeEngine(echo)))
        first = replies.begin("a")
        assert first
        assert replies.begin("a") is None
        assert replies.begin("b")
        replies.end("a", first)
        assert replies.begin("a")

    asyncio.run(run())
