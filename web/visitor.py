"""Who sends a request to the page, found out once for each request and kept in its ASGI scope."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.datastructures import Headers

from model.translations import supported_language
from web.access import AccessPolicy
from web.chats.identity import Owner, owner_of
from web.hosts import host_name, is_loopback
from web.public_link.limits import PublicLink

KEY = "linly.visitor"


@dataclass(frozen=True)
class Visitor:
    """Whose chats to show, and what they may do. `address` is empty for this machine's own."""

    owner: Owner
    guest: bool = False  # came through the public link
    may_train: bool = False
    address: str = ""


def visitor_of(scope: Mapping[str, Any]) -> Visitor:
    """The sender of a request that the page's middleware let in."""
    found: Visitor = scope[KEY]
    return found


def identify(
    scope: Mapping[str, Any], access: AccessPolicy, account: str, link: PublicLink | None
) -> Visitor:
    """Find out who sent a request; `account` is the name at the login, "" without accounts."""
    client = scope.get("client")
    address = client[0] if client and not is_loopback(client[0]) else ""
    owner = owner_of(scope, account, is_secure(scope, access, link))
    return Visitor(owner, access.through_link(scope), access.may_train(scope), address)


def is_secure(scope: Mapping[str, Any], access: AccessPolicy, link: PublicLink | None) -> bool:
    """Whether the browser's side of a request is TLS: here, before a trusted proxy, or before the
    public link's server, which tells nothing of it."""
    if scope["scheme"] in ("https", "wss"):
        return True
    if link is None or not access.through_link(scope):
        return False
    asked = host_name(Headers(scope=dict(scope)).get("host", ""))
    return (link.address or "").startswith("https:") and asked == link.host


def language_of(scope: Mapping[str, Any]) -> str:
    """The language that a browser asks for first, if there is a translation."""
    first = Headers(scope=dict(scope)).get("accept-language", "").partition(",")[0]
    tag = first.partition(";")[0].partition("-")[0].strip().lower()
    return supported_language(tag)
