"""The server limits the size and time of heads, bodies and responses, and the connections."""

from __future__ import annotations

import contextlib
import socket
import threading

import pytest

from tests.security.raw_app import GET, POST, App
from tests.security.raw_client import (
    PATIENCE,
    connected,
    exchange,
    read_response,
    read_to_end,
    running,
)
from web.http_protocol import HttpProtocol


def send_without_end(client: socket.socket) -> None:
    while True:
        client.sendall(b"a" * 10_000)


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
    """The parser buffers a field that does not end, and calls no callback."""
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


def test_an_incomplete_head_is_refused_after_a_time(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "HEAD_SECONDS", 0.3)
    assert exchange(port, b"GET / HTTP/1.1\r\nHo").startswith(b"HTTP/1.1 408 ")


def test_a_head_that_arrives_byte_by_byte_is_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte must not restart the time limit."""
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
    assert exchange(port, b"\r\n\r\n") == b""  # not the beginning of a request


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
def test_a_body_over_the_limit_is_refused_at_any_path(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch, framing: bytes
) -> None:
    monkeypatch.setattr(HttpProtocol, "MAX_BODY_BYTES", 100)
    head = b"POST / HTTP/1.1\r\nHost: a\r\n" + framing + b"\r\n\r\n"
    assert exchange(port, head, b"70\r\n" + b"a" * 112).startswith(b"HTTP/1.1 413 ")
    assert app.disconnected.wait(PATIENCE)


def test_a_body_that_stops_arriving_is_refused(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "BODY_SECONDS", 0.3)
    received = exchange(port, POST % (b"/echo", 100), b"a" * 50)
    assert received.startswith(b"HTTP/1.1 408 ")
    assert app.disconnected.wait(PATIENCE)


def test_a_body_that_arrives_byte_by_byte_is_refused(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A byte now and then must not keep a connection open."""
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


def test_a_client_is_not_refused_while_the_application_does_not_read(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then no data can arrive."""
    monkeypatch.setattr(HttpProtocol, "BODY_SECONDS", 0.1)
    with connected(port) as client:
        client.sendall(POST % (b"/wait", 5_000_000))
        sender = threading.Thread(target=client.sendall, args=(b"a" * 5_000_000,), daemon=True)
        sender.start()
        threading.Event().wait(0.5)
        app.released.set()
        assert read_response(client)[2] == b"released"
        sender.join()  # the rest is read and dropped


def test_a_client_that_waits_for_100_continue_is_not_refused(
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


def test_an_endless_upload_that_was_refused_is_closed_after_a_time(
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


def test_an_idle_connection_is_closed_after_a_refused_upload(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """uvicorn does not start the time limit of idle connections in this case."""
    monkeypatch.setattr("web.http_protocol.KEEP_ALIVE_SECONDS", 0.2)
    with running(App()) as number, connected(number) as client:
        client.sendall(POST % (b"/refuse", 10))
        assert read_response(client)[0] == 413
        client.sendall(b"a" * 10)
        assert read_to_end(client) == b""


# Responses


def test_a_client_that_does_not_read_is_closed(
    port: int, app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(HttpProtocol, "WRITE_SECONDS", 0.3)
    with connected(port) as client:
        client.sendall(b"GET /flood HTTP/1.1\r\nHost: a\r\n\r\n")
        assert app.released.wait(PATIENCE)


def test_time_limits_do_not_end_a_stream(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("OPEN_SECONDS", "HEAD_SECONDS", "BODY_SECONDS", "DRAIN_SECONDS", "WRITE_SECONDS"):
        monkeypatch.setattr(HttpProtocol, name, 0.1)
    head = b"GET /stream HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    assert b"3\r\nend\r\n0\r\n\r\n" in exchange(port, head)


def test_a_client_of_http_1_0_gets_no_chunks(port: int) -> None:
    for field in (b"", b"Connection: keep-alive\r\n", b"Connection: close\r\n"):
        received = exchange(port, b"GET /stream HTTP/1.0\r\n" + field + b"\r\n")
        head, _, body = received.partition(b"\r\n\r\n")
        assert b"transfer-encoding" not in head.lower()
        assert head.endswith(b"connection: close")
        assert body == b"piece piece piece end"
    assert exchange(port, b"GET / HTTP/1.0\r\n\r\n").endswith(
        b"content-length: 0\r\nconnection: close\r\n\r\n"
    )


def test_head_has_no_body(port: int) -> None:
    received = exchange(port, b"HEAD / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
    assert received.endswith(b"\r\n\r\n")


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


def test_connections_of_one_address_are_limited(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(HttpProtocol, "MAX_CONNECTIONS_PER_ADDRESS", 1)
    with connected(port) as first, connected(port) as second:  # loopback has no such limit
        for client in (first, second):
            client.sendall(GET)
            assert read_response(client)[0] == 200
        monkeypatch.setattr("web.http_protocol.is_loopback", lambda host: False)
        assert exchange(port).startswith(b"HTTP/1.1 503 ")
