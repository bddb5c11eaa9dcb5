"""RequestRunner: which requests it aborts in the engine."""

from __future__ import annotations

import asyncio

import pytest

from model.serving.manager import ModelManager
from model.types import ChatRequest, Message
from tests.fake_engine import FakeEngine, echo, fake_manager

REQUEST = ChatRequest((Message("user", "hello"),))


def loaded(engine: FakeEngine) -> ModelManager:
    manager = fake_manager(engine)
    assert manager.wait().ready
    return manager


async def read_until_the_end(manager: ModelManager) -> None:
    """Reads a reply, and closes its iterator at the last Delta, as the server does."""
    stream = manager.chat(REQUEST)
    async for batch in stream:
        if batch[-1].finish_reason:
            break
    await stream.aclose()


@pytest.mark.parametrize("closes", [True, False])
def test_ended_request_is_not_aborted(closes: bool) -> None:
    """The abort could reach a later request with its id, as when a client sends one again."""
    engine = FakeEngine(echo)
    manager = loaded(engine)

    async def read() -> None:
        if closes:
            await read_until_the_end(manager)
        else:
            assert [batch async for batch in manager.chat(REQUEST)]

    asyncio.run(read())
    assert [request.id for request in engine.requests] == [REQUEST.id]
    assert not engine.aborted


def test_closed_stream_aborts_its_request() -> None:
    engine = FakeEngine(echo, ticking=True)
    manager = loaded(engine)

    async def read() -> None:
        stream = manager.chat(REQUEST)
        engine.tick()
        await anext(stream)
        await stream.aclose()

    asyncio.run(read())
    assert engine.aborted == {REQUEST.id}
