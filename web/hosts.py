"""The host names that requests may use, against DNS rebinding.

An attacker can make a name of theirs resolve to this machine. Without the check, their web page
could then read everything here that the visitor's browser can.
"""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from urllib.parse import urlsplit

LOOPBACK = "localhost"


@dataclass(frozen=True)
class HostNames:
    """The allowed names: `--server_name`, which the server listens at, and `--allowed_hosts`."""

    server_name: str = "127.0.0.1"
    allowed: tuple[str, ...] = ()

    def allows(self, header: str, more: Iterable[str] = ()) -> bool:
        """Whether a Host header names this server; `more` are names allowed for this request."""
        if "*" in self.allowed:
            return True
        host = host_name(header)
        if not host:
            return False
        if is_loopback(host) or host.endswith(f".{LOOPBACK}"):
            return True
        allowed = [name.lower() for name in self.allowed]
        if host in (self.server_name.lower(), *allowed, *more):
            return True
        if any(name.startswith("*.") and host.endswith(name[1:]) for name in allowed):
            return True
        # Attackers cannot use addresses or this machine's own name for DNS rebinding.
        return not is_loopback(self.server_name) and (_is_address(host) or host in _own_names())


def host_name(header: str) -> str:
    """Returns the name in a Host header, in lower case without the port; "" if it is invalid."""
    try:
        parts = urlsplit(f"//{header}")
        if parts.username is not None or parts.path or parts.query or parts.fragment:
            return ""
        _ = parts.port  # raises ValueError if it is invalid
        return (parts.hostname or "").rstrip(".")
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Whether a name or an address is "localhost" or a loopback address."""
    try:
        return host == LOOPBACK or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


@cache
def _own_names() -> frozenset[str]:
    name = socket.gethostname().lower()
    return frozenset({name, f"{name.partition('.')[0]}.local"})
