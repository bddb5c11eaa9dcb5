"""Pacing of a stream, apart from any page."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator
from dataclasses import dataclass, field

from model.types import ChatRequest, Delta, FinishReason, Message, PreparedAdapter
from tests.fake import FakeEngine, echo, fake_manager
from web.ui.conversation import Replies, paced

LAST = Delta("!", FinishReason.STOP)


def test_everything_arrives_in_few_groups() -> None:
    async def stream() -> AsyncGenerator[Delta, None]:
        for _ in range(100):
            yield Delta("x")
        yield LAST

    async def collect() -> list[list[Delta]]:
        return [batch async for batch in paced(stream(), 0.05)]

    batches = asyncio.run(collect())
    assert "".join(delta.text for batch in batches for delta in batch) == "x" * 100 + "!"
    assert len(batches) < 50


def test_a_pause_holds_nothing_back() -> None:
    """Text that came within the pace must be shown even if no other delta follows for long."""

    async def run() -> str:
        go_on = asyncio.Event()

        async def stream() -> AsyncGenerator[Delta, None]:
            for letter in "abc":
                yield Delta(letter)
            await go_on.wait()
            yield LAST

        shown = ""
        async for batch in paced(stream(), 0.01):
            shown += "".join(delta.text for delta in batch)
            if shown == "abc":
                go_on.set()
        return shown

    assert asyncio.run(asyncio.wait_for(run(), 20)) == "abc!"


def test_leaving_early_closes_the_stream() -> None:
    closed: list[bool] = []

    async def stream() -> AsyncGenerator[Delta, None]:
        try:
            while True:
                yield Delta("x")
                await asyncio.sleep(0)
        finally:
            closed.append(True)

    async def leave() -> None:
        batches = paced(stream(), 0.01)
        await anext(batches)
        await batches.aclose()

    asyncio.run(leave())
    assert closed


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
        deltas = [await first, *[delta async for delta in reply]]
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
