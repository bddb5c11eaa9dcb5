"""Client addresses as limits count them: an IPv4 address, or the /64 network of an IPv6 address.

uvicorn replaces `scope["client"]` by the address in `X-Forwarded-For` for trusted proxies only
(loopback, or `FORWARDED_ALLOW_IPS`), so a client cannot choose what it is counted as.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

IPV6_PREFIX = 64  # bits: subscribers get at least a /64 network, with 2^64 addresses to choose from
MAX_LENGTH = 64  # characters of a client name that is not an address
UNKNOWN = "unknown"  # for example behind a Unix socket


def client_address(scope: Mapping[str, Any]) -> str:
    """Returns the client's address of this ASGI scope; for IPv6 its /64 network."""
    client = scope.get("client")
    return address_group(client[0]) if client else UNKNOWN


@lru_cache(maxsize=8192)
def address_group(host: str) -> str:
    """Returns an IPv4 or loopback address itself, and the /64 network of an IPv6 address."""
    address = _parse(host)
    if address is None:
        return host[:MAX_LENGTH] or UNKNOWN
    if address.version == 4 or address.is_loopback:
        return str(address)
    return str(ipaddress.ip_network((int(address), IPV6_PREFIX), strict=False))


@lru_cache(maxsize=8192)
def is_loopback(host: str) -> bool:
    """Whether `host` is an address of this machine itself."""
    address = _parse(host)
    return address is not None and address.is_loopback


def _parse(host: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    """Parses an address; an IPv4 address that is written as IPv6 counts as IPv4."""
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    mapped = address.ipv4_mapped if address.version == 6 else None
    return mapped or address
