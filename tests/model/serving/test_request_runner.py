"""RequestRunner: which requests it aborts in the engine."""

from __future__ import annotations

import asyncio
import threading

import pytest

from model.serving import request_builder
from model.serving.manager import ModelManager
from model.serving.request_builder import prepare_chat
from model.serving.request_runner import RequestRunner
from model.types import ChatRequest, FinishReason, Message
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


def test_stream_closed_before_its_first_step_leaves_nothing_behind() -> None:
    backend = loaded(FakeEngine(echo)).backend
    assert backend
    runner = RequestRunner(lambda: backend, record_text=False)

    async def close() -> None:
        stream = runner.stream(REQUEST, prepare_chat, 0.0, "chat")
        assert runner.live_ids == {REQUEST.id}
        runner.abort(REQUEST.id)
        await stream.aclose()
        assert not runner.live_ids

    asyncio.run(close())


def test_abort_before_the_first_step_ends_the_request() -> None:
    engine = FakeEngine(echo)
    manager = loaded(engine)

    async def read() -> FinishReason | None:
        stream = manager.chat(REQUEST)
        manager.abort(REQUEST.id)
        return [batch async for batch in stream][-1][-1].finish_reason

    assert asyncio.run(read()) is FinishReason.ABORT
    assert not engine.requests


def test_prompt_is_decoded_on_a_worker_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    """For servers that take no token ids: a long prompt would hold up the event loop."""
    threads: list[int] = []

    def decode(*_: object) -> str:
        threads.append(threading.get_ident())
        return "text"

    monkeypatch.setattr(request_builder, "to_text_with_control_tokens", decode)
    engine = FakeEngine(echo)
    engine.accepts_token_ids = False
    manager = loaded(engine)
    asyncio.run(read_until_the_end(manager))
    assert threads
    assert threading.get_ident() not in threads
    assert engine.requests[0].prompt_text == "text"
