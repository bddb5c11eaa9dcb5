"""A server that is away, goes away, and comes back."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any

import pytest

from model.serving.manager import ModelManager
from model.types import (
    ChatRequest,
    Delta,
    EngineRequest,
    FinishReason,
    Message,
    NotReadyError,
    Phase,
    Sampling,
)
from tests.model.engine.remote.conftest import Open, ask, text
from tests.model.engine.remote.fake_server import Server, refusal, running
from tests.model.engine.running import NumberDetokenizer
from web.listen_socket import bind

HELLO = (Message("user", "Hello"),)


def free_port() -> int:
    with bind("127.0.0.1", 0) as sock:
        return int(sock.getsockname()[1])


def until(holds: Callable[[], Any]) -> None:
    """Wait for something that comes by itself; a test that waits in vain is ended from outside."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_comes_later(opened: Open, server: Server) -> None:
    port = free_port()
    manager: ModelManager = opened.at(f"http://127.0.0.1:{port}/v1")  # type: ignore[attr-defined]
    status = manager.status()
    assert status.phase is Phase.FAILED
    assert "cannot be reached" in (status.error or "")
    assert str(port) not in (status.error or "")  # visitors read this, too
    with pytest.raises(NotReadyError, match="cannot be reached"):
        ask(manager, ChatRequest(HELLO))
    with running(server, port):
        until(lambda: manager.status().ready)
        assert text(ask(manager, ChatRequest(HELLO))).startswith("tiny read")


def test_a_server_that_goes_and_comes_back(opened: Open, server: Server) -> None:
    port = free_port()
    with ExitStack() as stack:
        url = stack.enter_context(running(server, port))
        manager: ModelManager = opened.at(url)  # type: ignore[attr-defined]
        ask(manager, ChatRequest(HELLO))
        stack.close()
        until(lambda: manager.status().error)
        with pytest.raises(NotReadyError):
            ask(manager, ChatRequest(HELLO))
        stack.enter_context(running(server, port))
        until(lambda: manager.status().ready)
        assert text(ask(manager, ChatRequest(HELLO))).startswith("tiny read")


@pytest.mark.parametrize("after", [0, 3])
def test_a_reply_that_breaks_off_is_interrupted(opened: Open, server: Server, after: int) -> None:
    server.broken_after = after
    said = ask(opened(server), ChatRequest(HELLO))
    last = said[-1]
    assert last.finish_reason is FinishReason.ABORT
    assert "model server" in (last.error or "")
    assert last.stats
    assert last.stats.completion_tokens == after
    assert len(text(said)) >= after


def test_a_server_that_dies_interrupts_what_runs(opened: Open, server: Server) -> None:
    server.held = threading.Event()
    with ExitStack() as stack:
        manager: ModelManager = opened.at(stack.enter_context(running(server)))  # type: ignore[attr-defined]

        async def asked() -> list[Delta]:
            said: list[Delta] = []
            async with aclosing(manager.chat(ChatRequest(HELLO))) as bursts:
                task = asyncio.ensure_future(anext(bursts))
                while not server.asked:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(stack.close)
                said += await task
            return said

        last = asyncio.run(asked())[-1]
    assert last.finish_reason is FinishReason.ABORT
    assert last.error


def test_hanging_up_ends_the_reply_there(opened: Open, server: Server) -> None:
    """A token that nobody reads costs the others."""
    server.script = lambda body: [10] * 100_000
    manager = opened(server)

    async def leave() -> None:
        async with aclosing(manager.chat(ChatRequest(HELLO))) as bursts:
            await anext(bursts)

    asyncio.run(leave())
    until(lambda: server.hung_up == 1)
    until(lambda: manager.status().running == 0)


def test_abort_ends_it_too(opened: Open, server: Server) -> None:
    server.script = lambda body: [10] * 100_000
    manager = opened(server)
    request = ChatRequest(HELLO)

    async def stop() -> Delta:
        last = Delta()
        async with aclosing(manager.chat(request)) as bursts:
            async for burst in bursts:
                manager.abort(request.id)
                last = burst[-1]
        return last

    last = asyncio.run(stop())
    assert last.finish_reason is FinishReason.ABORT
    assert last.error is None
    until(lambda: server.hung_up == 1)


def test_many_aborts_hang_up_too(opened: Open, server: Server) -> None:
    """Cancelled again while it hung up, a reply left its connection open: the server went on."""
    server.script = lambda body: [10] * 100_000
    manager = opened(server)

    def abort_again(request_id: str) -> None:
        for _ in range(200):
            manager.abort(request_id)
            time.sleep(0.0001)

    async def stop() -> None:
        request = ChatRequest(HELLO)
        async with aclosing(manager.chat(request)) as bursts:
            await anext(bursts)
            await asyncio.to_thread(abort_again, request.id)

    for number in range(1, 11):
        asyncio.run(stop())
        until(lambda number=number: server.hung_up == number)


def test_a_reply_that_is_aborted_at_once_ends_too(opened: Open, server: Server) -> None:
    """Its task has not begun by then: such a task never would."""
    server.held = threading.Event()  # or else some would be quicker
    manager = opened(server)
    serving = manager._loader.backend()
    engine = serving.engine
    told: list[Delta] = []
    for number in range(50):
        request = EngineRequest(
            f"r{number}", (5, 6), Sampling(max_tokens=5), frozenset(), NumberDetokenizer()
        )
        engine.submit(request, told.append)
        engine.abort(request.id)
    until(lambda: len([one for one in told if one.finish_reason]) == 50)
    assert {one.finish_reason for one in told if one.finish_reason} == {FinishReason.ABORT}
    assert engine.status().running == engine.status().waiting == 0
    engine.submit(replace(request, id="last"), told.append)
    engine.close()  # nor is one lost then
    assert len([one for one in told if one.finish_reason]) == 51


def test_one_look_in_vain_ends_nothing(opened: Open, server: Server) -> None:
    """A connection may break; and who is too busy to be asked is not gone."""
    server.held = threading.Event()
    manager = opened(server)

    async def asked() -> list[Delta]:
        async with aclosing(manager.chat(ChatRequest(HELLO))) as bursts:
            task = asyncio.ensure_future(anext(bursts))
            while not server.asked:
                await asyncio.sleep(0.01)
            for answer in (refusal(429, "busy"), refusal(401, "who?"), None):
                server.listing, server.looks = answer, 0
                while server.looks < 3:
                    await asyncio.sleep(0.01)
            server.held.set()  # type: ignore[union-attr]
            return [*(await task), *[d async for burst in bursts for d in burst]]

    said = asyncio.run(asked())
    assert said[-1].finish_reason is FinishReason.STOP
    assert text(said).startswith("tiny read")


def test_closing_does_not_wait_for_a_server_that_says_nothing(opened: Open, server: Server) -> None:
    server.held = threading.Event()
    manager = opened(server)
    server.silent, server.looks = True, 0

    async def close() -> Delta:
        async with aclosing(manager.chat(ChatRequest(HELLO))) as bursts:
            task = asyncio.ensure_future(anext(bursts))
            while not (server.asked and server.looks):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(manager.close)
            assert not manager._loader.backend().engine._thread.is_alive()  # type: ignore[attr-defined]
            return (await task)[-1]

    assert asyncio.run(close()).finish_reason is FinishReason.ABORT
    server.silent = False


def test_closing_ends_everything(opened: Open, server: Server) -> None:
    server.held = threading.Event()
    manager = opened(server)

    async def close() -> Delta:
        async with aclosing(manager.chat(ChatRequest(HELLO))) as bursts:
            task = asyncio.ensure_future(anext(bursts))
            while not server.asked:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(manager.close)
            return (await task)[-1]

    last = asyncio.run(close())
    assert last.finish_reason is FinishReason.ABORT
    assert last.error is None


def test_many_at_once(opened: Open, server: Server) -> None:
    manager = opened(server)

    async def everybody() -> list[str]:
        async def one(number: int) -> str:
            request = ChatRequest((Message("user", "x" * number),))
            return "".join([d.text async for burst in manager.chat(request) for d in burst])

        return await asyncio.gather(*map(one, range(1, 201)))

    said = asyncio.run(everybody())
    lengths = [int(one.removeprefix("tiny read ")) for one in said]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]
    assert manager.status().running == manager.status().waiting == 0
