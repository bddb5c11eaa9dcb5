"""The visitor who sends a request to the page; `PageMiddleware` stores it in the ASGI scope."""

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
    """The owner of the chats to show, and what they may do."""

    owner: Owner
    guest: bool = False  # came through the public link
    may_train: bool = False
    address: str = ""  # "" for loopback addresses


def visitor_of(scope: Mapping[str, Any]) -> Visitor:
    """Returns the visitor of a request that passed `PageMiddleware`."""
    visitor: Visitor = scope[KEY]
    return visitor


def identify(
    scope: Mapping[str, Any], access: AccessPolicy, account: str, link: PublicLink | None
) -> Visitor:
    """Returns the visitor who sent a request; `account` is the login's, "" without accounts."""
    client = scope.get("client")
    address = client[0] if client and not is_loopback(client[0]) else ""
    owner = owner_of(scope, account, is_secure(scope, access, link))
    return Visitor(owner, access.through_link(scope), access.may_train(scope), address)


def is_secure(scope: Mapping[str, Any], access: AccessPolicy, link: PublicLink | None) -> bool:
    """Whether the browser used HTTPS: to this server, a trusted proxy or the public link's server,
    which does not forward the scheme."""
    if scope["scheme"] in ("https", "wss"):
        return True
    if link is None or not access.through_link(scope):
        return False
    host = host_name(Headers(scope=dict(scope)).get("host", ""))
    return (link.address or "").startswith("https:") and host == link.host


def language_of(scope: Mapping[str, Any]) -> str:
    """Returns the browser's first language if there is a translation, else the default."""
    first = Headers(scope=dict(scope)).get("accept-language", "").partition(",")[0]
    tag = first.partition(";")[0].partition("-")[0].strip().lower()
    return supported_language(tag)
