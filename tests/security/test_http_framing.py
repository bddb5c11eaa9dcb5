"""The server frames requests and responses as other software does, or refuses them."""

from __future__ import annotations

import threading

import pytest
from websockets.sync.client import connect

from tests.security.raw_app import GET, POST, App
from tests.security.raw_client import (
    PATIENCE,
    connected,
    exchange,
    read_response,
)
from web.http_protocol import HttpProtocol

H2C = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQ\r\n"


# Chunks


@pytest.mark.parametrize(
    "sent", [b"1;" + b"e" * 900_000, b"0" * 900_000, b"0\r\nX: " + b"y" * 900_000]
)
def test_chunk_headers_and_trailers_are_limited(port: int, sent: bytes) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    pieces = [sent[i : i + 9000] for i in range(0, len(sent), 9000)]
    assert exchange(port, head, *pieces).startswith((b"HTTP/1.1 431 ", b"HTTP/1.1 400 "))


def test_trailers_are_not_added_to_the_head(port: int, app: App) -> None:
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    with connected(port) as client:
        client.sendall(head + b"5\r\nhello\r\n0\r\nHost: b\r\n\r\n")
        assert read_response(client)[2] == b"hello"
    assert app.fields == [[b"host", b"transfer-encoding"]]


# Several requests


def test_connections_are_kept_alive(port: int) -> None:
    with connected(port) as client:
        for size in (3, 70_000, 0):
            client.sendall(POST % (b"/echo", size) + b"a" * size)
            assert read_response(client)[2] == b"a" * min(size, 100)


def test_a_few_pipelined_requests_are_served(port: int) -> None:
    with connected(port) as client:
        for size in (1, 2, 3):
            client.sendall(POST % (b"/echo", size) + b"a" * size)
        received = b""
        while received.count(b"HTTP/1.1 200") < 3 or not received.endswith(b"aaa"):
            received += client.recv(1000)


def test_too_many_pipelined_requests_close_the_connection(port: int, app: App) -> None:
    first = b"GET /wait HTTP/1.1\r\nHost: a\r\n\r\n"
    assert exchange(port, first + GET * (HttpProtocol.MAX_PIPELINED + 1)) == b""
    assert app.waiting == 1


def test_a_refusal_is_not_written_into_a_response(port: int) -> None:
    """The client would read it as a part of the response."""
    received = exchange(port, b"GET /stream HTTP/1.1\r\nHost: a\r\n\r\n" + b"rubbish\r\n\r\n")
    assert b" 400 " not in received


def test_every_request_of_a_lost_connection_is_notified(port: int, app: App) -> None:
    """uvicorn notifies only the latest, and replies to the others are generated to their end."""
    with connected(port) as client:
        client.sendall(b"GET /listen HTTP/1.1\r\nHost: a\r\n\r\n")
        assert client.recv(1000)
        client.sendall(GET)
    assert app.disconnected.wait(PATIENCE)


# Upgrades


def test_an_offer_of_http_2_is_ignored(port: int) -> None:
    """Java's and curl's clients send it; the request's body was lost."""
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


def test_an_offer_of_http_2_without_a_body_is_ignored(port: int) -> None:
    with connected(port) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n" + H2C + b"\r\n")
        assert read_response(client)[0] == 200
        client.sendall(GET)
        assert read_response(client)[0] == 200


WEBSOCKET = (
    b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
)


@pytest.mark.parametrize(
    ("line", "framing", "body"),
    [
        (b"POST / HTTP/1.1", b"Content-Length: 5\r\n", b"hello"),
        (b"GET / HTTP/1.1", b"Content-Length: 5\r\n", b"hello"),
        (b"GET / HTTP/1.1", b"Transfer-Encoding: chunked\r\n", b"5\r\nhello\r\n0\r\n\r\n"),
        (b"POST / HTTP/1.1", b"", b""),
        (b"GET / HTTP/1.0", b"", b""),
    ],
)
def test_only_a_get_without_a_body_opens_a_websocket(
    port: int, line: bytes, framing: bytes, body: bytes
) -> None:
    """Such a connection got no response, and stayed open for ever."""
    with connected(port) as client:
        client.sendall(line + b"\r\nHost: a\r\n" + WEBSOCKET + framing + b"\r\n" + body)
        status, _, received = read_response(client)
        assert (status, received) == (200, b"hello" if body else b"")


def test_a_websocket_with_a_head_over_its_limits_is_closed(port: int) -> None:
    head = b"GET / HTTP/1.1\r\nHost: a\r\n" + WEBSOCKET + b"X: " + b"a" * 9000 + b"\r\n\r\n"
    received = exchange(port, head)
    assert b"101 " not in received


def test_a_client_of_http_1_0_gets_no_100_continue(port: int) -> None:
    """RFC 9110, 10.1.1: it would take that for the response."""
    head = b"POST / HTTP/1.0\r\nExpect: 100-continue\r\nContent-Length: 5\r\n\r\n"
    assert exchange(port, head + b"hello").startswith(b"HTTP/1.1 200 ")


def test_an_offer_of_http_2_in_http_1_0_is_ignored(port: int) -> None:
    head = b"POST / HTTP/1.0\r\nHost: a\r\n" + H2C + b"Content-Length: 5\r\n\r\n"
    assert exchange(port, head + b"hello").endswith(b"\r\n\r\nhello")


@pytest.mark.parametrize("framing", [
    b"Content-Length: 5\r\nTransfer-Encoding: chunked", b"Content-Length: 5\r\nContent-Length: 6",
    b"Transfer-Encoding: gzip, chunked", b"Content-Length: +5",
])  # fmt: skip
def test_an_offer_of_http_2_hides_no_ambiguous_framing(port: int, framing: bytes) -> None:
    head = b"POST /wait HTTP/1.1\r\nHost: a\r\n" + H2C + framing + b"\r\n\r\n"
    received = exchange(port, head + b"0\r\n\r\n" + GET)
    assert received.startswith((b"HTTP/1.1 400 ", b"HTTP/1.1 501 "))
    assert received.count(b"HTTP/1.1") == 1


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
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 505),
        (b"GET / HTTP/1.1\nHost: a\n\n", 400),
        (b"CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01", 400),
        (b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\nhello\r\n", 400),
    ],
)  # fmt: skip
def test_invalid_requests_are_refused(port: int, sent: bytes, status: int) -> None:
    assert exchange(port, sent).startswith(b"HTTP/1.1 %d " % status)
