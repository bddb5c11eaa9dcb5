"""Whose chats are whose.

With accounts (`--auth`), a chat belongs to the account; else to the browser, which is known by a
cookie of its own. The store sees the cookie's digest alone, so its file lets nobody in.
"""

from __future__ import annotations

import hashlib
import re
import secrets
from dataclasses import dataclass

import gradio as gr
from starlette.datastructures import MutableHeaders
from starlette.requests import cookie_parser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

COOKIE = "linly_visitor"
SESSION = "session:"  # how the names of owners begin who have no cookie
TOKEN = re.compile(r"[\w-]{40,80}", re.ASCII)
YEAR = 365 * 24 * 3600  # seconds; browsers keep a cookie for little longer


@dataclass(frozen=True)
class Owner:
    """Whose chats to show. `kept` is False where they cannot be found again: without cookies."""

    id: str
    kept: bool = True


def owner_of(request: gr.Request, accounts: bool) -> Owner:
    """Who sent a request; with `accounts`, the name at the login is somebody's own."""
    if accounts and request.username:
        return Owner(f"account:{request.username}")
    token = dict(request.cookies or {}).get(COOKIE, "")
    if TOKEN.fullmatch(token):
        return Owner(f"browser:{hashlib.sha256(token.encode()).hexdigest()[:32]}")
    return Owner(f"{SESSION}{request.session_hash}", kept=False)


class VisitorCookie:
    """ASGI middleware that gives each browser its cookie with the page.

    The same one again at each visit, so that its time begins anew: whoever keeps coming keeps it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        page = scope["type"] == "http" and scope["method"] == "GET" and scope["path"] == "/"
        if not page:
            await self._app(scope, receive, send)
            return

        async def with_cookie(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).append("set-cookie", _renewed(scope))
            await send(message)

        await self._app(scope, receive, with_cookie)


def _cookie(scope: Scope) -> str:
    headers = dict(scope["headers"])
    return cookie_parser(headers.get(b"cookie", b"").decode("latin-1")).get(COOKIE, "")


def _renewed(scope: Scope) -> str:
    """The cookie with a year before it: of the token that was sent, or of a new one."""
    secure = "; Secure" if scope["scheme"] == "https" else ""
    sent = _cookie(scope)
    token = sent if TOKEN.fullmatch(sent) else secrets.token_urlsafe(32)
    return f"{COOKIE}={token}; Path=/; Max-Age={YEAR}; HttpOnly; SameSite=Lax{secure}"
