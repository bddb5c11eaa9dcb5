"""The login page and the login cookie, for a page that requires a password.

The cookie is signed with a key in the data folder, so it stays valid after a restart. It depends on
the password, so a change of the password ends the login.
"""

from __future__ import annotations

import asyncio
import hmac
import json
import math
import os
import re
import secrets
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode

from fastapi import APIRouter, Request, Response
from itsdangerous import BadData, URLSafeTimedSerializer
from starlette.responses import HTMLResponse, RedirectResponse

from model.translations import translate
from web.access import AccessPolicy
from web.chats.identity import SECURE_COOKIE, cookie, cookies
from web.client_address import client_address
from web.public_link.limits import PublicLink
from web.rate_limits import AttemptLimiter, TooManyAttemptsError
from web.visitor import is_secure, language_of

COOKIE = "linly_login"
SECONDS = 30 * 86_400  # for which a login lasts
MAX_FIELD = 1_000  # characters of a name or a password
CHAT = re.compile(r"[\w-]{1,100}", re.ASCII)
KEY_FILE = "login_key"
KEY_BYTES = 32
KEY_SECONDS, KEY_READS = 1.0, 20  # how long and how often to try to read a key being written


@dataclass(frozen=True)
class Logins:
    """Issues and verifies login cookies. Without accounts, the account is "" (the passphrase)."""

    access: AccessPolicy
    link: PublicLink | None = None
    attempts: AttemptLimiter = field(default_factory=AttemptLimiter)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock, repr=False)
    key: bytes = field(default_factory=lambda: secrets.token_bytes(KEY_BYTES), repr=False)

    def account(self, scope: Mapping[str, Any]) -> str | None:
        """Returns the account of a request's login cookie; None if it has no valid one."""
        try:
            value = self._signer().loads(cookies(scope).get(self._name(scope), ""), SECONDS)
            account, proof = str(value["user"]), str(value["proof"])
        except (BadData, KeyError, TypeError):
            return None
        exists = account in self.access.accounts if self.access.accounts else account == ""
        is_valid = secrets.compare_digest(proof.encode(), self._proof(scope, account).encode())
        return account if exists and is_valid else None

    async def verify(self, scope: Mapping[str, Any], user: str, password: str) -> bool:
        """Whether the password is that of the user; hashes are computed in a worker thread.

        Raises:
            TooManyAttemptsError
        """
        if max(len(user), len(password)) > MAX_FIELD:
            return False
        address, account = client_address(scope), user if self.access.accounts else ""
        async with self.lock:  # guesses at the same time would all pass the check
            self.attempts.check(address, account)
            verify = self.access.checker.in_thread
            if not await verify(self.access.verify, scope, user, password):
                self.attempts.failed(address, account, password)
                return False
            self.attempts.succeeded(address, account)
            return True

    def issue(self, scope: Mapping[str, Any], user: str) -> str:
        """Returns the Set-Cookie header for a visitor whose password was right."""
        account = user if self.access.accounts else ""
        value = self._signer().dumps({"user": account, "proof": self._proof(scope, account)})
        return cookie(self._name(scope), str(value), SECONDS, self._secure(scope))

    def end(self, scope: Mapping[str, Any]) -> str:
        """Returns the Set-Cookie header that deletes the cookie."""
        return cookie(self._name(scope), "", 0, self._secure(scope))

    def _secure(self, scope: Mapping[str, Any]) -> bool:
        return is_secure(scope, self.access, self.link)

    def _name(self, scope: Mapping[str, Any]) -> str:
        prefix = SECURE_COOKIE.partition("linly")[0]
        return f"{prefix}{COOKIE}" if self._secure(scope) else COOKIE

    def _signer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self.key, salt=COOKIE)

    def _proof(self, scope: Mapping[str, Any], account: str) -> str:
        """Returns the part of a cookie that depends on the password."""
        access = self.access
        password = access.accounts.get(account, "") if access.accounts else access.passphrase or ""
        audience = "link" if access.through_link(scope) and not access.accounts else "page"
        text = json.dumps([audience, account, password])
        return hmac.new(self.key, text.encode(), "sha256").hexdigest()


def key_in(folder: Path) -> bytes:
    """Returns the folder's key, which the first call creates; a key for this run only if the folder
    cannot be written."""
    path, key = folder / KEY_FILE, secrets.token_bytes(KEY_BYTES)
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return _read_key(path) or key
    except OSError:
        return key
    with os.fdopen(descriptor, "wb") as file:
        file.write(key)
    return key


def _read_key(path: Path) -> bytes | None:
    """Reads the key; waits a little if another process is still writing it."""
    for _ in range(KEY_READS):
        try:
            key = path.read_bytes()
        except OSError:
            return None
        if len(key) == KEY_BYTES:
            return key
        time.sleep(KEY_SECONDS / KEY_READS)
    return None


def router(logins: Logins) -> APIRouter:
    """Returns the routes `/login` and `/logout`. `PageMiddleware` has checked sizes and origins."""
    routes = APIRouter(include_in_schema=False)

    async def show_form(request: Request) -> Response:
        return login_page(request.scope, logins.access)

    async def log_in(request: Request) -> Response:
        form = _form(await request.body())
        user, password = form.get("username", ""), form.get("password", "")
        chat = _chat(form.get("chat", ""))
        try:
            is_right = await logins.verify(request.scope, user, password)
        except TooManyAttemptsError as error:
            message = error.text.sentence(language_of(request.scope))
            response = login_page(request.scope, logins.access, message, chat, error.http_status)
            response.headers["Retry-After"] = str(math.ceil(error.retry_after))
            return response
        if not is_right:
            message = translate(language_of(request.scope), "login_wrong")
            return login_page(request.scope, logins.access, message, chat)
        to_page = RedirectResponse(f"./?{urlencode({'chat': chat})}" if chat else "./", 303)
        to_page.headers.append("set-cookie", logins.issue(request.scope, user))
        return to_page

    async def log_out(request: Request) -> Response:
        response = RedirectResponse("./", 303)
        response.headers.append("set-cookie", logins.end(request.scope))
        return response

    routes.add_api_route("/login", show_form, methods=["GET"])
    routes.add_api_route("/login", log_in, methods=["POST"])
    routes.add_api_route("/logout", log_out, methods=["POST"])
    return routes


def login_page(
    scope: Mapping[str, Any],
    access: AccessPolicy,
    error: str = "",
    chat: str = "",
    status: int = 401,
) -> HTMLResponse:
    """Returns the form in the browser's language, with an error message if there is one.

    After the login the page opens `chat`, by default the one in the request's query.
    """
    language = language_of(scope)
    chat = chat or parse_qs(scope["query_string"].decode("latin-1")).get("chat", [""])[0]
    fields = {
        "language": language,
        "chat": _chat(chat),
        "error": f'<p role="alert">{escape(error)}</p>' if error else "",
        "hint": ""
        if access.accounts
        else f"<p>{escape(translate(language, 'login_passphrase'))}</p>",
    }
    keys = ("title", "login", "login_name", "login_password")
    texts = {key: escape(translate(language, key)) for key in keys}
    return HTMLResponse(PAGE.format(**texts, **fields), status, {"Cache-Control": "no-store"})


def _form(body: bytes) -> dict[str, str]:
    """Parses a form; ignores invalid UTF-8 and further values of a name."""
    try:
        parsed = parse_qs(body.decode("utf-8"), keep_blank_values=True, max_num_fields=10)
    except ValueError:
        return {}
    return {name: values[0] for name, values in parsed.items()}


def _chat(text: str) -> str:
    return text if CHAT.fullmatch(text) else ""


PAGE = """<!doctype html>
<html lang="{language}">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --accent: #0f766e; }}
body {{ font-family: system-ui, sans-serif; margin: 0; min-height: 100vh; display: grid;
  place-items: center; background: Canvas; color: CanvasText; }}
main {{ width: min(22rem, calc(100vw - 2rem)); }}
form {{ display: grid; gap: 0.75rem; }}
label {{ display: grid; gap: 0.25rem; }}
input {{ font: inherit; padding: 0.5rem; border: 1px solid #768390; border-radius: 8px;
  background: Field; color: FieldText; }}
button {{ font: inherit; padding: 0.55rem; border: 0; border-radius: 8px; cursor: pointer;
  background: var(--accent); color: #fff; }}
[role=alert] {{ color: light-dark(#b42318, #ffb4ab); }}
</style>
</head>
<body>
<main>
<h1>{title}</h1>
{hint}{error}
<form method="post" action="login">
<label>{login_name}<input name="username" autocomplete="username" autofocus required></label>
<label>{login_password}<input name="password" type="password" autocomplete="current-password"
 required></label>
<button>{login}</button>
<input type="hidden" name="chat" value="{chat}">
</form>
</main>
</body>
</html>
"""
