"""Clients that send or read too slowly, or do not stop sending."""

from __future__ import annotations

import contextlib
import threading

import pytest

from tests.security.echo_app import GET, POST, App, send_without_end
from tests.security.raw_client import (
    PATIENCE,
    connected,
    exchange,
    read_response,
    read_to_end,
    running,
)
from web.http_protocol import HttpProtocol


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
