"""Requests that are too large, ambiguous or unusual, and the number of connections."""

from __future__ import annotations

import threading

import pytest
from websockets.sync.client import connect

from tests.security.echo_app import GET, H2C, POST, App
from tests.security.raw_client import (
    PATIENCE,
    connected,
    exchange,
    read_response,
)
from web.http_protocol import HttpProtocol


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
