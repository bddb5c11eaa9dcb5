"""Owners of chats: which account or browser a request comes from.

With accounts (`--auth`), a chat belongs to the account; without, to the browser, which has a cookie
with a token. The store contains only the token's digest, so its file gives no access.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from starlette.requests import cookie_parser

COOKIE = "linly_visitor"
SECURE_COOKIE = f"__Host-{COOKIE}"  # another host of the same site cannot set a name like this
SESSION = "session:"  # the prefix of owners without a cookie
TOKEN = re.compile(r"[\w-]{40,80}", re.ASCII)
YEAR = 365 * 24 * 3600  # seconds; browsers keep a cookie for little longer


@dataclass(frozen=True)
class Owner:
    """Owner of chats; not `persistent` without cookies, as the chats cannot be found again."""

    id: str
    persistent: bool = True


def owner_of(scope: Mapping[str, Any], account: str, secure: bool = False) -> Owner:
    """Returns the owner whose chats a request is about.

    Args:
        account: the name at the login, "" without accounts.
        secure: whether the request came over TLS.
    """
    if account:
        return Owner(f"account:{account}")
    token = _token(scope, secure)
    if token:
        return Owner(f"browser:{hashlib.sha256(token.encode()).hexdigest()[:32]}")
    return Owner(f"{SESSION}{secrets.token_hex(16)}", persistent=False)


def visitor_cookie(scope: Mapping[str, Any], secure: bool) -> str:
    """Returns a Set-Cookie header with the request's token, or a new one, that is valid for a year.

    The same token is set at each visit, so that its year begins anew.
    """
    token = _token(scope, secure) or secrets.token_urlsafe(32)
    name = SECURE_COOKIE if secure else COOKIE
    return cookie(name, token, YEAR, secure)


def cookie(name: str, value: str, seconds: int, secure: bool) -> str:
    """Returns a Set-Cookie header. Scripts cannot read the cookie, and requests from other sites do
    not carry it."""
    end = "; Secure" if secure else ""
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{end}"


def cookies(scope: Mapping[str, Any]) -> dict[str, str]:
    """Returns the cookies of a request."""
    header = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
    return cookie_parser(header.decode("latin-1"))


def _token(scope: Mapping[str, Any], secure: bool) -> str:
    """Returns the token of a request, or "".

    Over TLS the cookie that only this host can set comes first. The plain one may be from before
    the page was served over TLS.
    """
    sent = cookies(scope)
    names = (SECURE_COOKIE, COOKIE) if secure else (COOKIE,)
    return next((sent[name] for name in names if TOKEN.fullmatch(sent.get(name, ""))), "")
