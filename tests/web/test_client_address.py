"""Client addresses as limits count them."""

from __future__ import annotations

import pytest
import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from web.client_address import address_group, client_address, is_loopback
from web.http_protocol import server_config


@pytest.mark.parametrize(
    ("host", "group"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("2001:db8:1:2::", "2001:db8:1:2::/64"),
        ("::ffff:10.1.2.3", "10.1.2.3"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::1", "::1"),
        ("testclient", "testclient"),
        ("x" * 1000, "x" * 64),
        ("", "unknown"),
    ],
)
def test_ipv6_addresses_are_grouped_by_subscriber(host: str, group: str) -> None:
    assert address_group(host) == group
    assert client_address({"client": (host, 5)}) == group


def test_a_client_without_an_address_is_unknown() -> None:
    assert client_address({"client": None}) == client_address({}) == "unknown"


def test_loopback() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.9.9.9", "::1", "::ffff:127.0.0.1")))
    assert not any(map(is_loopback, ("10.0.0.1", "2001:db8::1", "localhost.evil.example", "")))


@pytest.mark.parametrize(
    ("peer", "counted"), [("127.0.0.1", "203.0.113.9"), ("198.51.100.7", "198.51.100.7")]
)
def test_x_forwarded_for_is_used_from_trusted_proxies_only(
    peer: str, counted: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else a client could use another address for each request."""
    monkeypatch.delenv("FORWARDED_ALLOW_IPS", raising=False)

    async def show(request: Request) -> PlainTextResponse:
        return PlainTextResponse(client_address(request.scope))

    config = server_config(Starlette(routes=[Route("/", show)]))
    config.load()
    client = TestClient(config.loaded_app, client=(peer, 50000))
    # The proxy adds its client's address to the right of what the client sent.
    answer = client.get("/", headers={"X-Forwarded-For": "192.0.2.1, 203.0.113.9"})
    assert answer.text == counted
    assert isinstance(config, uvicorn.Config)
