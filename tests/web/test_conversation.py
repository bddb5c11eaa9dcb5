"""Replies and how they are stopped, apart from any page."""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass, field

import pytest

from model.types import (
    ChatRequest,
    Delta,
    Emit,
    EngineRequest,
    FinishReason,
    Message,
    PreparedAdapter,
    Queued,
    Sampling,
)
from tests.fake import FakeEngine, echo, fake_manager
from web.ui.conversation import Ongoing, Replies, Turn, View, Wishes, answer


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


class Crowded(FakeEngine):
    """Lets everybody wait a little before it answers."""

    def submit(self, request: EngineRequest, emit: Emit) -> None:
        emit(Delta(queued=Queued(2, "memory", 7.4)))
        super().submit(request, emit)


@pytest.mark.parametrize(("language", "place"), [("en", "number 3"), ("zh", "第 3 位")])
def test_who_waits_is_told_where_and_why_until_the_reply_comes(language: str, place: str) -> None:
    async def run() -> list[View]:
        engine = Crowded(echo, ticking=True)
        manager = fake_manager(engine)
        await asyncio.to_thread(manager.wait)
        wishes = Wishes(None, None, "", Sampling(), language)
        views = []
        async for view in answer(manager, (Turn("user", "hello"),), wishes, Ongoing()):
            views.append(view)
            engine.tick(9)
        return views

    waiting, *others = asyncio.run(asyncio.wait_for(run(), 20))
    assert place in waiting.notice
    assert "7" in waiting.notice
    assert [view.notice for view in others if place in view.notice] == []
    assert others[-1].turns[-1].text == "base heard: hello "


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
