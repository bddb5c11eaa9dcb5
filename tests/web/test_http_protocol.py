"""Tests functions of the HTTP protocol; tests/security tests it with clients."""

from __future__ import annotations

import resource
import socket
from typing import Any

import pytest

from web import connection_limit, http_protocol
from web.http_protocol import HttpProtocol


class Transport:
    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def get_extra_info(self, name: str) -> Any:
        return self._sock


def test_unread_bytes_are_seen_before_an_idle_connection_is_closed() -> None:
    """On a busy machine, requests that had arrived were lost."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert not http_protocol.has_unread(Transport(ours))  # type: ignore[arg-type]
        theirs.send(b"G")
        assert http_protocol.has_unread(Transport(ours))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("soft", "hard", "raised", "connections"),
    [
        (1024, 1_000_000, 5400, 5200),
        (1024, 2048, 2048, 1848),
        (1024, resource.RLIM_INFINITY, 5400, 5200),
        (20_000, 20_000, None, 19_800),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, None, 5400),
        (128, 128, None, 64),
    ],
)
def test_open_files_bound_the_connections(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, raised: int | None, connections: int
) -> None:
    """Connections that take all of them would leave none for the chats."""
    limits: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: (soft, hard))
    monkeypatch.setattr(resource, "setrlimit", lambda _, pair: limits.append(pair))
    assert connection_limit.max_connections.__wrapped__() == connections
    assert limits == ([] if raised is None else [(raised, hard)])
    assert HttpProtocol.MAX_CONNECTIONS == 5000


def test_idle_connections_outlive_those_of_proxies() -> None:
    """A proxy that reuses a connection just as it is closed loses the request: nginx and AWS's
    load balancer close theirs after 60 seconds."""
    assert http_protocol.server_config(None).timeout_keep_alive > 60
    assert HttpProtocol.OPEN_SECONDS <= 30
    assert HttpProtocol.HEAD_SECONDS <= 30
