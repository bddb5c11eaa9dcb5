"""A model server that is down, goes down and comes back, and replies that are cut off."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from contextlib import ExitStack, aclosing
from dataclasses import replace
from typing import Any

import pytest

from model.errors import NotReadyError
from model.sampling import Sampling
from model.serving.manager import ModelManager
from model.types import ChatRequest, Delta, EngineRequest, FinishReason, Message, Phase
from tests.model.engine.remote.conftest import ManagerOpener, ask, text
from tests.model.engine.remote.fake_server import Server, refusal, running
from tests.model.engine.running import NumberDetokenizer
from web.listen_socket import bind

HELLO = (Message("user", "Hello"),)


def free_port() -> int:
    with bind("127.0.0.1", 0) as sock:
        return int(sock.getsockname()[1])


def until(holds: Callable[[], Any]) -> None:
    """Wait until a condition holds, for a minute at the most."""
    deadline = time.monotonic() + 60
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_server_that_starts_later_is_used(open_manager: ManagerOpener, server: Server) -> None:
    port = free_port()
    manager: ModelManager = open_manager.at(f"http://127.0.0.1:{port}/v1")
    status = manager.status()
    assert status.phase is Phase.FAILED
    assert "cannot be reached" in str(status.error)
    assert str(port) not in str(status.error)  # users see this message
    with pytest.raises(NotReadyError, match="cannot be reached"):
        ask(manager, ChatRequest(HELLO))
    with running(server, port):
        until(lambda: manager.status().ready)
        assert text(ask(manager, ChatRequest(HELLO))).startswith("tiny read")


def test_a_server_that_goes_down_and_comes_back_is_used(
    open_manager: ManagerOpener, server: Server
) -> None:
    port = free_port()
    with ExitStack() as stack:
        url = stack.enter_context(running(server, port))
        manager: ModelManager = open_manager.at(url)
        ask(manager, ChatRequest(HELLO))
        stack.close()
        until(lambda: manager.status().error)
        with pytest.raises(NotReadyError):
            ask(manager, ChatRequest(HELLO))
        stack.enter_context(running(server, port))
        until(lambda: manager.status().ready)
        assert text(ask(manager, ChatRequest(HELLO))).startswith("tiny read")


@pytest.mark.parametrize("after", [0, 3])
def test_a_broken_connection_interrupts_the_reply(
    open_manager: ManagerOpener, server: Server, after: int
) -> None:
    server.broken_after = after
    deltas = ask(open_manager(server), ChatRequest(HELLO))
    last = deltas[-1]
    assert last.finish_reason is FinishReason.ABORT
    assert "model server" in str(last.error)
    assert last.stats
    assert last.stats.completion_tokens == after
    assert len(text(deltas)) >= after


def test_a_server_that_dies_interrupts_running_replies(
    open_manager: ManagerOpener, server: Server
) -> None:
    server.resume = threading.Event()
    with ExitStack() as stack:
        manager: ModelManager = open_manager.at(stack.enter_context(running(server)))

        async def stop_server() -> list[Delta]:
            async with aclosing(manager.chat(ChatRequest(HELLO))) as batches:
                task = asyncio.ensure_future(anext(batches))
                while not server.requests:
                    await asyncio.sleep(0.01)
                await asyncio.to_thread(stack.close)
                return list(await task)

        last = asyncio.run(stop_server())[-1]
    assert last.finish_reason is FinishReason.ABORT
    assert last.error


def test_a_client_that_leaves_ends_the_reply_on_the_server(
    open_manager: ManagerOpener, server: Server
) -> None:
    """A token that no client reads slows down the others."""
    server.script = lambda body: [10] * 100_000
    manager = open_manager(server)

    async def leave() -> None:
        async with aclosing(manager.chat(ChatRequest(HELLO))) as batches:
            await anext(batches)

    asyncio.run(leave())
    until(lambda: server.disconnects == 1)
    until(lambda: manager.status().running == 0)


def test_abort_ends_the_reply_on_the_server(open_manager: ManagerOpener, server: Server) -> None:
    server.script = lambda body: [10] * 100_000
    manager = open_manager(server)
    request = ChatRequest(HELLO)

    async def stop() -> Delta:
        last = Delta()
        async with aclosing(manager.chat(request)) as batches:
            async for batch in batches:
                manager.abort(request.id)
                last = batch[-1]
        return last

    last = asyncio.run(stop())
    assert last.finish_reason is FinishReason.ABORT
    assert last.error is None
    until(lambda: server.disconnects == 1)


def test_many_aborts_close_the_connection(open_manager: ManagerOpener, server: Server) -> None:
    """Cancelled twice, a reply left its connection open: the server went on."""
    server.script = lambda body: [10] * 100_000
    manager = open_manager(server)

    def abort_again(request_id: str) -> None:
        for _ in range(200):
            manager.abort(request_id)
            time.sleep(0.0001)

    async def stop() -> None:
        request = ChatRequest(HELLO)
        async with aclosing(manager.chat(request)) as batches:
            await anext(batches)
            await asyncio.to_thread(abort_again, request.id)

    for number in range(1, 11):
        asyncio.run(stop())
        until(lambda count=number: server.disconnects == count)


def test_a_reply_aborted_at_once_ends(open_manager: ManagerOpener, server: Server) -> None:
    """Its task has not started by then, and a cancelled task would never start."""
    server.resume = threading.Event()  # else some replies would end first
    manager = open_manager(server)
    assert manager.backend
    engine = manager.backend.engine
    deltas: list[Delta] = []
    for number in range(50):
        request = EngineRequest(
            f"r{number}", (5, 6), Sampling(max_tokens=5), frozenset(), NumberDetokenizer()
        )
        engine.submit(request, deltas.append)
        engine.abort(request.id)
    until(lambda: len(finish_reasons(deltas)) == 50)
    assert set(finish_reasons(deltas)) == {FinishReason.ABORT}
    assert engine.status().running == engine.status().waiting == 0
    engine.submit(replace(request, id="last"), deltas.append)
    engine.close()  # ends it, too
    assert len(finish_reasons(deltas)) == 51


def finish_reasons(deltas: list[Delta]) -> list[FinishReason]:
    return [delta.finish_reason for delta in deltas if delta.finish_reason]


def test_a_failed_poll_ends_no_reply(open_manager: ManagerOpener, server: Server) -> None:
    """A connection may break, and a server that is too busy for a poll is not down."""
    server.resume = threading.Event()
    manager = open_manager(server)

    async def fail_polls() -> list[Delta]:
        async with aclosing(manager.chat(ChatRequest(HELLO))) as batches:
            task = asyncio.ensure_future(anext(batches))
            while not server.requests:
                await asyncio.sleep(0.01)
            for response in (refusal(429, "busy"), refusal(401, "who?"), None):
                server.listing, server.polls = response, 0
                while server.polls < 3:
                    await asyncio.sleep(0.01)
            server.resume.set()  # type: ignore[union-attr]
            return [*(await task), *[d async for batch in batches for d in batch]]

    deltas = asyncio.run(fail_polls())
    assert deltas[-1].finish_reason is FinishReason.STOP
    assert text(deltas).startswith("tiny read")


def test_closing_does_not_wait_for_a_silent_server(
    open_manager: ManagerOpener, server: Server
) -> None:
    server.resume = threading.Event()
    manager = open_manager(server)
    server.ignores_polls, server.polls = True, 0

    async def close() -> Delta:
        async with aclosing(manager.chat(ChatRequest(HELLO))) as batches:
            task = asyncio.ensure_future(anext(batches))
            while not (server.requests and server.polls):
                await asyncio.sleep(0.01)
            await asyncio.to_thread(manager.close)
            assert not manager.backend.engine._thread.is_alive()  # type: ignore[attr-defined, union-attr]
            return (await task)[-1]

    assert asyncio.run(close()).finish_reason is FinishReason.ABORT
    server.ignores_polls = False


def test_closing_aborts_running_replies(open_manager: ManagerOpener, server: Server) -> None:
    server.resume = threading.Event()
    manager = open_manager(server)

    async def close() -> Delta:
        async with aclosing(manager.chat(ChatRequest(HELLO))) as batches:
            task = asyncio.ensure_future(anext(batches))
            while not server.requests:
                await asyncio.sleep(0.01)
            await asyncio.to_thread(manager.close)
            return (await task)[-1]

    last = asyncio.run(close())
    assert last.finish_reason is FinishReason.ABORT
    assert last.error is None


def test_many_requests_run_at_once(open_manager: ManagerOpener, server: Server) -> None:
    manager = open_manager(server)

    async def ask_all() -> list[str]:
        async def reply_to(number: int) -> str:
            request = ChatRequest((Message("user", "x" * number),))
            return "".join([d.text async for batch in manager.chat(request) for d in batch])

        return await asyncio.gather(*map(reply_to, range(1, 201)))

    replies = asyncio.run(ask_all())
    lengths = [int(reply.removeprefix("tiny read ")) for reply in replies]
    assert lengths == sorted(lengths)
    assert lengths[-1] > lengths[0]
    assert manager.status().running == manager.status().waiting == 0
