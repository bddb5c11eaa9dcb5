"""OpenAIClient: requests whose connection the server closes."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from typing import cast

import pytest

from model.engine.remote.client import OpenAIClient
from model.errors import NotReadyError

BODY = b'{"data": [{"id": "tiny"}]}'
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)


class Connection(asyncio.Protocol):
    """A connection that answers so many requests, and is closed at the next one."""

    def __init__(self, answers: int) -> None:
        self.answers = answers
        self.requests = 0
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def data_received(self, data: bytes) -> None:
        self.requests += data.count(b"\r\n\r\n")
        if self.requests <= self.answers:
            self.transport.write(ANSWER)
        else:
            self.transport.close()

    def connection_lost(self, exc: Exception | None) -> None:
        self.closed.set()


def run(answers: Sequence[int], work: Callable[[OpenAIClient], Awaitable[None]]) -> list[int]:
    """Does `work` with a server whose connection number i answers `answers[i]` requests.

    Returns the number of requests that each connection has got.
    """

    async def main() -> list[int]:
        connections: list[Connection] = []

        def connect() -> Connection:
            connections.append(Connection(answers[len(connections)]))
            return connections[-1]

        server = await asyncio.get_running_loop().create_server(connect, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        client = OpenAIClient(f"http://127.0.0.1:{port}/v1", None)
        try:
            await work(client)
        finally:
            await client.close()
            server.close()
        for connection in connections:
            await connection.closed.wait()
        return [connection.requests for connection in connections]

    return asyncio.run(main())


async def ask(client: OpenAIClient) -> None:
    assert (await client.models()).bases == ("tiny",)


def test_a_request_on_a_connection_that_was_just_closed_is_sent_again() -> None:
    async def ask_twice(client: OpenAIClient) -> None:
        await ask(client)
        await ask(client)

    assert run([1, 1], ask_twice) == [2, 1]


def test_a_request_is_sent_again_until_a_connection_is_new() -> None:
    async def ask_at_once_and_again(client: OpenAIClient) -> None:
        await asyncio.gather(*(ask(client) for _ in range(3)))
        await ask(client)

    assert run([1, 1, 1, 1], ask_at_once_and_again) == [2, 2, 2, 1]


def test_a_request_that_is_lost_on_a_new_connection_is_not_sent_again() -> None:
    """It may be what ends the server."""

    async def fail(client: OpenAIClient) -> None:
        with pytest.raises(NotReadyError, match="cannot be reached"):
            await client.models()

    assert run([0, 1], fail) == [1]
