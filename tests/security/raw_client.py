"""A server of one ASGI application on a real port, and clients that send it bytes of their own."""

from __future__ import annotations

import contextlib
import socket
import threading
from collections.abc import Iterator
from typing import Any

import uvicorn

from web.http_protocol import server_config
from web.listen_socket import bind

PATIENCE = 30.0  # seconds: a limit that holds ends a test long before


@contextlib.contextmanager
def running(app: Any) -> Iterator[int]:
    """Serve `app` as the program would; gives the port."""
    sock = bind("127.0.0.1", 0)
    server = uvicorn.Server(server_config(app, log_level="error", grace_seconds=1))
    started = threading.Event()
    startup = server.startup

    async def signal_start(sockets: list[socket.socket] | None = None) -> None:
        await startup(sockets=sockets)
        started.set()

    server.startup = signal_start  # type: ignore[method-assign]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    assert started.wait(PATIENCE)
    try:
        yield sock.getsockname()[1]
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


@contextlib.contextmanager
def connected(port: int) -> Iterator[socket.socket]:
    with socket.create_connection(("127.0.0.1", port), PATIENCE) as client:
        yield client


def read_to_end(client: socket.socket) -> bytes:
    """Everything until the server closes; a timeout, and so a failure, if it never does."""
    received = b""
    with contextlib.suppress(ConnectionError):  # closed while more was on its way
        while data := client.recv(65536):
            received += data
    return received


def exchange(port: int, *sent: bytes) -> bytes:
    """What a server answers until it closes."""
    with connected(port) as client:
        with contextlib.suppress(ConnectionError):
            for data in sent:
                client.sendall(data)
        return read_to_end(client)


def read_response(client: socket.socket) -> tuple[int, dict[str, str], bytes]:
    """One response with a Content-Length: its status, header fields and body."""
    received = b""
    while b"\r\n\r\n" not in received:
        data = client.recv(65536)
        assert data, received
        received += data
    head, _, body = received.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    fields = dict(line.lower().split(": ", 1) for line in lines)
    while len(body) < int(fields["content-length"]):
        body += client.recv(65536)
    return int(status.split()[1]), fields, body
