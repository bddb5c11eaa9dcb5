"""An application that echoes requests, for tests of the HTTP protocol."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from typing import Any

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n"
H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"


class App:
    """Answers with what it was sent; at other paths it refuses unread, streams, or only waits."""

    def __init__(self) -> None:
        self.buffered = 0  # the most bytes that one message brought
        self.released = threading.Event()
        self.waiting = 0
        self.fields: list[list[bytes]] = []  # names of header fields, after each request
        self.disconnected = threading.Event()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "websocket":
            await self._echo_messages(receive, send)
        elif scope["type"] == "http":
            await getattr(self, scope["path"].strip("/") or "echo")(receive, send)
            self.fields.append([name for name, _ in scope["headers"]])

    async def _echo_messages(self, receive: Any, send: Any) -> None:
        assert (await receive())["type"] == "websocket.connect"
        await send({"type": "websocket.accept"})
        while (message := await receive())["type"] == "websocket.receive":
            await send({"type": "websocket.send", "text": message["text"]})

    async def echo(self, receive: Any, send: Any) -> None:
        body, more = b"", True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                self.disconnected.set()
                return
            self.buffered = max(self.buffered, len(message["body"]))
            body += message["body"][: max(0, 100 - len(body))]
            more = message["more_body"]
        await answer(send, 200, body)

    async def refuse(self, receive: Any, send: Any) -> None:
        await answer(send, 413, b"too large")

    async def stream(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        for _ in range(3):
            await send({"type": "http.response.body", "body": b"piece ", "more_body": True})
            await asyncio.sleep(0.15)
        await send({"type": "http.response.body", "body": b"end"})

    async def wait(self, receive: Any, send: Any) -> None:
        self.waiting += 1
        while not self.released.is_set():
            await asyncio.sleep(0.01)
        await answer(send, 200, b"released")

    async def listen(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        while (await receive())["type"] != "http.disconnect":
            pass
        self.disconnected.set()

    async def flood(self, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        with contextlib.suppress(Exception):
            for _ in range(1000):
                await send(
                    {"type": "http.response.body", "body": bytes(1 << 20), "more_body": True}
                )
        self.released.set()


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def send_without_end(client: socket.socket) -> None:
    while True:
        client.sendall(b"a" * 10_000)
