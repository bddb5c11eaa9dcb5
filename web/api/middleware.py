"""The gate before /v1: the key and the size of a request, before anything of it is read."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import LinlyError
from web.access import AccessPolicy
from web.api.errors import KeyRefusedError, TooLargeError, as_response, too_large
from web.client_address import client_address, is_loopback
from web.rate_limits import AttemptLimiter

MAX_BODY_BYTES = 8_000_000  # of a request's body
# For the document at /docs alone: by the time that a route is looked for, the gate has decided.
ASKS_FOR_A_KEY = Security(HTTPBearer(auto_error=False, description="--api_key, or --admin_key"))
TOO_LARGE = f"The request is larger than {MAX_BODY_BYTES // 1_000_000} MB"


class ApiAuthMiddleware:
    """ASGI middleware for the paths below /v1."""

    def __init__(self, app: ASGIApp, access: AccessPolicy, keys: KeyAttempts) -> None:
        self._app = app
        self._access = access
        self._keys = keys
        self._turn = asyncio.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        try:
            await self._check(scope)
            await self._app(scope, _bounded(receive), send)
        except LinlyError as error:
            await as_response(error)(scope, receive, send)

    async def _check(self, scope: Scope) -> None:
        headers = Headers(scope=scope)
        key = bearer(headers)
        if self._access.is_slow(scope, key):
            async with self._turn:  # guesses at the same time would all pass the check
                await self._check_key(scope, key)
        else:
            await self._check_key(scope, key)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            raise TooLargeError("request_too_large", max_bytes=MAX_BODY_BYTES)

    async def _check_key(self, scope: Scope, key: str) -> None:
        self._keys.check(scope, key)
        if not await self._allows(scope, key):
            self._keys.failed(scope, key)
            raise KeyRefusedError(self._refused(scope))

    async def _allows(self, scope: Scope, key: str) -> bool:
        access = self._access
        if access.is_slow(scope, key):
            return await access.checker.in_thread(access.allows_api, scope, key)
        return access.allows_api(scope, key)

    def _refused(self, scope: Scope) -> str:
        if self._access.keys(scope):
            return "api_key_wrong"
        return "api_closed"


class KeyAttempts:
    """Counts wrong API and admin keys by address.

    This machine itself may try as often as it likes. What comes through the public link has its
    address, and counts.
    """

    def __init__(self, access: AccessPolicy, attempts: AttemptLimiter) -> None:
        self._access = access
        self._attempts = attempts

    def check(self, scope: Scope, key: str) -> None:
        """Raise TooManyAttemptsError if the sender of this request has tried too many keys."""
        if self._counts(scope, key):
            self._attempts.check(client_address(scope), None)

    def failed(self, scope: Scope, key: str) -> None:
        """`key` was wrong."""
        if self._counts(scope, key):
            self._attempts.failed(client_address(scope), None, key)

    def _counts(self, scope: Scope, key: str) -> bool:
        local = is_loopback(client_address(scope)) and not self._access.through_link(scope)
        return bool(key) and not local


class ApiCorsMiddleware:
    """ASGI middleware that lets browsers send the web pages of some origins to /v1."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._shared = CORSMiddleware(
            app, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"],
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        api = scope["type"] == "http" and scope["path"].startswith("/v1/")
        await (self._shared if api else self._app)(scope, receive, send)


def bearer(headers: Headers) -> str:
    """The key that a request brings; empty where it brings none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _bounded(receive: Receive) -> Receive:
    """`receive`, for bodies that come in pieces of unknown number."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MAX_BODY_BYTES:
            raise too_large(TOO_LARGE)
        return message

    return counted
