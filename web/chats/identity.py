"""Whose chats are whose.

With accounts (`--auth`), a chat belongs to the account; else to the browser, which is known by a
cookie of its own. The store sees the cookie's digest alone, so its file lets nobody in.
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
SECURE_COOKIE = f"__Host-{COOKIE}"  # browsers let no other name of the same site set that one
SESSION = "session:"  # how the names of owners begin who have no cookie
TOKEN = re.compile(r"[\w-]{40,80}", re.ASCII)
YEAR = 365 * 24 * 3600  # seconds; browsers keep a cookie for little longer


@dataclass(frozen=True)
class Owner:
    """Whose chats to show. `kept` is False where they cannot be found again: without cookies."""

    id: str
    kept: bool = True


def owner_of(scope: Mapping[str, Any], account: str, secure: bool = False) -> Owner:
    """Who sent a request.

    Args:
        account: the name at the login, "" without accounts.
        secure: whether it came over TLS.
    """
    if account:
        return Owner(f"account:{account}")
    token = _token(scope, secure)
    if token:
        return Owner(f"browser:{hashlib.sha256(token.encode()).hexdigest()[:32]}")
    return Owner(f"{SESSION}{secrets.token_hex(16)}", kept=False)


def visitor_cookie(scope: Mapping[str, Any], secure: bool) -> str:
    """A Set-Cookie header with a year before it: of the token that was sent, or of a new one.

    The same one again at each visit, so that its time begins anew: who keeps coming keeps it.
    """
    token = _token(scope, secure) or secrets.token_urlsafe(32)
    name = SECURE_COOKIE if secure else COOKIE
    return cookie(name, token, YEAR, secure)


def cookie(name: str, value: str, seconds: int, secure: bool) -> str:
    """A Set-Cookie header that no script reads and no other site's request carries."""
    end = "; Secure" if secure else ""
    return f"{name}={value}; Path=/; Max-Age={seconds}; HttpOnly; SameSite=Lax{end}"


def cookies(scope: Mapping[str, Any]) -> dict[str, str]:
    """What a request's Cookie header says."""
    sent = b"; ".join(value for name, value in scope["headers"] if name == b"cookie")
    return cookie_parser(sent.decode("latin-1"))


def _token(scope: Mapping[str, Any], secure: bool) -> str:
    """Over TLS the name that only this very host can set comes first; the plain one is from before
    there was the other."""
    sent = cookies(scope)
    names = (SECURE_COOKIE, COOKIE) if secure else (COOKIE,)
    return next((sent[one] for one in names if TOKEN.fullmatch(sent.get(one, ""))), "")
