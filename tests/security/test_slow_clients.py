"""Clients that send too slowly, without end, or what two readers would understand differently."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from websockets.sync.client import connect

from tests.security.raw_client import (
    PATIENCE,
    connected,
    exchange,
    read_response,
    read_to_end,
    running,
)
from web.http_protocol import HttpProtocol

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


@pytest.fixture
def app() -> App:
    return App()


@pytest.fixture
def port(app: App) -> Iterator[int]:
    with running(app) as number:
        yield number
    app.released.set()


# Heads


def test_endless_headers_are_refused(port: int) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 1000) for i in range(1000))
    received = exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n", *[lines] * 20)
    assert received.startswith(b"HTTP/1.1 431 ")
    assert b"connection: close" in received
    assert received.endswith(b"\r\n\r\nThe request's header fields are too large.\n")


@pytest.mark.parametrize(
    "begin", [b"GET / HTTP/1.1\r\nHost: a\r\nX: ", b"GET / HTTP/1.1\r\nHost: a\r\nX"]
)
def test_one_endless_header_is_refused(port: int, begin: bytes) -> None:
    """The parser keeps a field that does not end, and reports nothing."""
    assert exchange(port, begin, *[b"y" * 20_000] * 20).startswith(b"HTTP/1.1 431 ")


def test_many_small_headers_are_refused(port: int) -> None:
    lines = b"".join(b"X-%d: y\r\n" % i for i in range(HttpProtocol.MAX_HEADERS))
    received = exchange(port, b"GET / HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
    assert received.startswith(b"HTTP/1.1 431 ")


def test_a_long_url_is_refused(port: int) -> None:
    received = exchange(port, b"GET /", *[b"a" * 5000] * 3)
    assert received.startswith(b"HTTP/1.1 414 ")


def test_a_head_as_large_as_allowed_is_served(port: int) -> None:
    lines = b"".join(b"X-%d: %s\r\n" % (i, b"y" * 400) for i in range(70))
    with connected(port) as client:
        client.sendall(b"GET /?" + b"q" * 2000 + b" HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n")
        assert read_response(client)[0] == 200


def test_a_head_that_does_not_arrive_is_ended(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "HEAD_SECONDS", 0.3)
    assert exchange(port, b"GET / HTTP/1.1\r\nHo").startswith(b"HTTP/1.1 408 ")


def test_a_head_that_drips_is_ended(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each byte must not begin the time anew."""
    monkeypatch.setattr(HttpProtocol, "HEAD_SECONDS", 0.5)
    with connected(port) as client:
        client.settimeout(0.05)
        received = b""
        for byte in (b"GET / HTTP/1.1\r\nX: " + b"y" * 600).decode():
            with contextlib.suppress(TimeoutError):
                client.sendall(byte.encode())
                received += client.recv(1000)
            if received:
                break
        assert received.startswith(b"HTTP/1.1 408 ")


def test_a_silent_connection_is_closed(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "OPEN_SECONDS", 0.3)
    assert exchange(port) == b""
    assert exchange(port, b"\r\n\r\n") == b""  # which no request begins with


def test_the_second_request_has_a_time_limit_too(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "HEAD_SECONDS", 0.3)
    with connected(port) as client:
        client.sendall(GET)
        assert read_response(client)[0] == 200
        client.sendall(b"GET")
        assert read_to_end(client).startswith(b"HTTP/1.1 408 ")


# Bodies


def test_a_large_body_is_read_in_pieces(port: int, app: App) -> None:
    size = 50_000_000
    with connected(port) as client:
        client.sendall(POST % (b"/echo", size))
        for _ in range(size // 1_000_000):
            client.sendall(b"a" * 1_000_000)
        assert read_response(client)[2] == b"a" * 100
    assert app.buffered < 1_000_000


@pytest.mark.parametrize("framing", [b"Content-Length: 1000", b"Transfer-Encoding: chunked"])
def test_a_body_is_bounded_whatever_reads_it(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch, framing: bytes
) -> None:
    monkeypatch.setattr(HttpProtocol, "MAX_BODY_BYTES", 100)
    head = b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n"
    assert exchange(port, head, b"70\r\n" + b"a" * 112).startswith(b"HTTP/1.1 413 ")
    assert app.disconnected.wait(PATIENCE)


def test_a_body_that_stalls_is_ended(port: int, app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "BODY_SECONDS", 0.3)
    received = exchange(port, POST % (b"/echo", 100), b"a" * 50)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert app.disconnected.wait(PATIENCE)


def test_a_body_that_drips_is_ended(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A byte now and then must not hold a connection."""
    monkeypatch.setattr(HttpProtocol, "BODY_SECONDS", 0.4)
    with connected(port) as client:
        client.settimeout(0.05)
        client.sendall(POST % (b"/echo", 10_000))
        received = b""
        for _ in range(600):
            with contextlib.suppress(TimeoutError):
                client.sendall(b"a")
                received += client.recv(1000)
            if received:
                break
        assert received.startswith(b"HTTP/1.1 408 ")


def test_a_body_that_keeps_coming_is_served(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "BODY_SECONDS", 2.0)
    monkeypatch.setattr(HttpProtocol, "MIN_BODY_BYTES", 1)
    pause = threading.Event()
    with connected(port) as client:
        client.sendall(POST % (b"/echo", 90))
        for _ in range(9):
            client.sendall(b"a" * 10)
            pause.wait(0.4)
        assert read_response(client)[2] == b"a" * 90


def test_a_client_that_is_not_read_is_not_ended(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As long as the application reads nothing, nothing can arrive."""
    monkeypatch.setattr(HttpProtocol, "BODY_SECONDS", 0.1)
    with connected(port) as client:
        client.sendall(POST % (b"/wait", 5_000_000))
        sender = threading.Thread(target=client.sendall, args=(b"a" * 5_000_000,), daemon=True)
        sender.start()
        threading.Event().wait(0.5)
        app.released.set()
        assert read_response(client)[2] == b"released"
        sender.join()  # the rest is read and dropped


def test_a_client_that_waits_for_100_continue_is_not_ended(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "BODY_SECONDS", 0.1)
    with connected(port) as client:
        client.sendall(
            b"POST /wait HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        threading.Event().wait(0.5)
        app.released.set()
        assert read_response(client)[2] == b"released"


def test_an_upload_without_end_is_closed_once_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "DRAIN_SECONDS", 0.5)
    monkeypatch.setattr(HttpProtocol, "MAX_DRAIN_BYTES", 10**15)
    with connected(port) as client:
        client.sendall(POST % (b"/refuse", 10**15))
        assert read_response(client)[0] == 413
        with pytest.raises(ConnectionError):
            send_without_end(client)


def test_a_refused_upload_of_too_many_bytes_is_closed(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "MAX_DRAIN_BYTES", 1_000_000)
    with connected(port) as client:
        client.sendall(POST % (b"/refuse", 10**15))
        with pytest.raises(ConnectionError):
            send_without_end(client)


def test_a_connection_goes_on_after_a_refused_upload(port: int) -> None:
    with connected(port) as client:
        client.sendall(POST % (b"/refuse", 3_000_000))
        client.sendall(b"a" * 3_000_000)
        assert read_response(client)[0] == 413
        client.sendall(GET)
        assert read_response(client)[0] == 200


def test_what_was_refused_does_not_keep_a_connection_open(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn forgets the time limit of idle connections here."""
    monkeypatch.setattr("web.http_protocol.KEEP_ALIVE_SECONDS", 0.2)
    with running(App()) as number, connected(number) as client:
        client.sendall(POST % (b"/refuse", 10))
        assert read_response(client)[0] == 413
        client.sendall(b"a" * 10)
        assert read_to_end(client) == b""


@pytest.mark.parametrize(
    "sent", [b"1;" + b"e" * 900_000, b"0" * 900_000, b"0\r\nX: " + b"y" * 900_000]
)
def test_what_surrounds_chunks_is_bounded(port: int, sent: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [sent[i : i + 9000] for i in range(0, len(sent), 9000)]
    assert exchange(port, head, *pieces).startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


def test_trailers_are_not_added_to_the_head(port: int, app: App) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(port) as client:
        client.sendall(head + b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n")
        assert read_response(client)[2] == b"hello"
    assert app.fields == [[b"host", b"transfer-encoding"]]


# Responses


def test_a_client_that_does_not_read_is_closed(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "WRITE_SECONDS", 0.3)
    with connected(port) as client:
        client.sendall(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        assert app.released.wait(PATIENCE)


def test_a_stream_outlives_the_limits(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPEN_SECONDS", "HEAD_SECONDS", "BODY_SECONDS", "DRAIN_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(HttpProtocol, name, 0.1)
    head = b"GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert b"3\r\nend\r\n0\r\n\r\n" in exchange(port, head)


def test_a_client_of_http_1_0_gets_no_chunks(port: int) -> None:
    head, _, body = exchange(port, b"GET /stream HTTP/1.0\r\n\r\n").partition(b"\r\n\r\n")
    assert b"transfer-encoding" not in head.lower()
    assert body == b"piece piece piece end"
    assert exchange(port, b"GET / HTTP/1.0\r\n\r\n").endswith(
        b"content-length: 0\r\nconnection: close\r\n\r\n"
    )


def test_head_has_no_body(port: int) -> None:
    received = exchange(port, b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert received.endswith(b"\r\n\r\n")


# Several requests


def test_connections_are_kept_alive(port: int) -> None:
    with connected(port) as client:
        for size in (3, 70_000, 0):
            client.sendall(POST % (b"/echo", size) + b"a" * size)
            assert read_response(client)[2] == b"a" * min(size, 100)


def test_a_few_requests_may_be_sent_ahead(port: int) -> None:
    with connected(port) as client:
        for size in (1, 2, 3):
            client.sendall(POST % (b"/echo", size) + b"a" * size)
        received = b""
        while received.count(b"HTTP/1.1 200") < 3 or not received.endswith(b"aaa"):
            received += client.recv(1000)


def test_too_many_requests_sent_ahead_end_the_connection(port: int, app: App) -> None:
    first = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"
    assert exchange(port, first + GET * (HttpProtocol.MAX_PIPELINED + 1)) == b""
    assert app.waiting == 1


def test_a_refusal_is_not_written_into_a_response(port: int) -> None:
    """The client would take it for a part of it."""
    received = exchange(port, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + b"rubbish\r\n\r\n")
    assert b" 400 " not in received


def test_every_request_of_a_lost_connection_is_told(port: int, app: App) -> None:
    """uvicorn tells the latest alone, and replies to the others are generated to their end."""
    with connected(port) as client:
        client.sendall(b"GET /listen HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1000)
        client.sendall(GET)
    assert app.disconnected.wait(PATIENCE)


# Connections


def test_more_connections_than_allowed_are_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "MAX_CONNECTIONS", 2)
    with connected(port) as first, connected(port) as second:
        for client in (first, second):
            client.sendall(GET)
            assert read_response(client)[0] == 200
        received = exchange(port)
        assert received.startswith(b"HTTP/1.1 503 ")
        assert b"\r\nretry-after: 5\r\n" in received
        monkeypatch.setattr(HttpProtocol, "MAX_REFUSED_CONNECTIONS", 0)
        assert exchange(port) == b""
        first.sendall(GET)
        assert read_response(first)[0] == 200


def test_connections_of_one_address_are_bounded(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "MAX_CONNECTIONS_PER_ADDRESS", 1)
    with connected(port) as first, connected(port) as second:  # of this machine, as a proxy's
        for client in (first, second):
            client.sendall(GET)
            assert read_response(client)[0] == 200
        monkeypatch.setattr("web.http_protocol.is_loopback", lambda host: False)
        assert exchange(port).startswith(b"HTTP/1.1 503 ")


# Upgrades


def test_an_offer_of_http_2_is_ignored(port: int) -> None:
    """As Java's and curl's clients make it; the request's body was lost."""
    for framing, body in (
        (b"Content-Length: 5", b"hello"),
        (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    ):
        head = b"POST / HTTP/1.1\r\nHost: a\r\n" + H2C + framing + b"\r\n\r\n"
        with connected(port) as client:
            client.sendall(head + body)
            assert read_response(client)[2] == b"hello"
            client.sendall(head)
            client.sendall(body[:4])
            client.sendall(body[4:])
            assert read_response(client)[2] == b"hello"
            client.sendall(GET)
            assert read_response(client)[0] == 200


def test_an_offer_of_http_2_without_a_body(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + H2C + b"\r\n")
        assert read_response(client)[0] == 200
        client.sendall(GET)
        assert read_response(client)[0] == 200


def test_websockets_are_served(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPEN_SECONDS", "HEAD_SECONDS", "BODY_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(HttpProtocol, name, 0.2)
    with connect(f"ws://127.0.0.1:{port}/") as client:
        for text in ("one", "two"):
            client.send(text)
            assert client.recv(PATIENCE) == text
            threading.Event().wait(0.4)


# Framing


@pytest.mark.parametrize(
    ("fields", "status"),
    [
        (b"Content-Length: 5\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: chunked\r\nContent-Length: 5", 400),
        (b"Content-Length: 5\r\nContent-Length: 6", 400),
        (b"Content-Length: 5, 5", 400),
        (b"Content-Length: +5", 400),
        (b"Content-Length: -5", 400),
        (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked", 400),
        (b"Transfer-Encoding: xchunked", 501),
        (b"Transfer-Encoding: gzip", 501),
        (b"Transfer-Encoding: gzip, chunked", 501),
        (b"Transfer-Encoding: chunked, gzip", 400),
        (b"Transfer-Encoding : chunked", 400),
        (b"X: a\r\n b", 400),
        (b"X: a\x00b", 400),
        (b"X: a\nContent-Length: 5", 400),
        (b"Host: b", 400),
    ],
)
def test_ambiguous_requests_are_refused(port: int, fields: bytes, status: int) -> None:
    head = b"POST /wait HTTP/1.1\r\nHost: a\r\n" + fields + b"\r\n\r\n"
    received = exchange(port, head + b"0\r\n\r\n" + GET)
    assert received.startswith(b"HTTP/1.1 %d " % status)
    assert received.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", 400),
        (b"POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
        (b"GET / HTTP/2.0\r\nHost: a\r\n\r\n", 505),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n", 400),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused(port: int, sent: bytes, status: int) -> None:
    assert exchange(port, sent).startswith(b"HTTP/1.1 %d " % status)
