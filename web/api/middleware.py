"""ASGI middleware for /v1: checks a request's key and headers before its body is read, and CORS."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.errors import LinlyError
from web.access import AccessPolicy
from web.api.body_format import check_body_format
from web.api.errors import KeyRefusedError, TooLargeError, as_response, too_large_exception
from web.client_address import client_address, is_loopback
from web.rate_limits import AttemptLimiter

MAX_BODY_BYTES = 8_000_000
# A dependency that only shows at /docs that routes need a key. ApiAuthMiddleware checks the key.
KEY_IN_DOCS = Security(HTTPBearer(auto_error=False, description="--api_key, or --admin_key"))
TOO_LARGE = f"The request is larger than {MAX_BODY_BYTES // 1_000_000} MB"


class ApiAuthMiddleware:
    """ASGI middleware that checks the key, and the body's size and format, for paths below /v1."""

    def __init__(self, app: ASGIApp, access: AccessPolicy, keys: KeyAttempts) -> None:
        self._app = app
        self._access = access
        self._keys = keys
        self._lock = asyncio.Lock()

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
            async with self._lock:  # guesses at the same time would all pass the check
                await self._check_key(scope, key)
        else:
            await self._check_key(scope, key)
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MAX_BODY_BYTES:
            raise TooLargeError("request_too_large", max_bytes=MAX_BODY_BYTES)
        check_body_format(headers)

    async def _check_key(self, scope: Scope, key: str) -> None:
        self._keys.check(scope, key)
        if not await self._allows(scope, key):
            self._keys.failed(scope, key)
            raise KeyRefusedError("api_key_wrong" if self._access.keys(scope) else "api_closed")

    async def _allows(self, scope: Scope, key: str) -> bool:
        access = self._access
        if access.is_slow(scope, key):
            return await access.checker.in_thread(access.allows_api, scope, key)
        return access.allows_api(scope, key)


class KeyAttempts:
    """Counts wrong API and admin keys by address.

    Requests from this machine do not count. Those through the public link come from a loopback
    address too, and count.
    """

    def __init__(self, access: AccessPolicy, attempts: AttemptLimiter) -> None:
        self._access = access
        self._attempts = attempts

    def check(self, scope: Scope, key: str) -> None:
        """Raises TooManyAttemptsError if the client has sent too many wrong keys."""
        if self._counts(scope, key):
            self._attempts.check(client_address(scope), None)

    def failed(self, scope: Scope, key: str) -> None:
        """Counts `key` as a wrong one."""
        if self._counts(scope, key):
            self._attempts.failed(client_address(scope), None, key)

    def _counts(self, scope: Scope, key: str) -> bool:
        local = is_loopback(client_address(scope)) and not self._access.through_link(scope)
        return bool(key) and not local


class ApiCorsMiddleware:
    """CORS middleware for /v1."""

    def __init__(self, app: ASGIApp, origins: Sequence[str]) -> None:
        self._app = app
        self._cors = _Cors(
            app, allow_origins=origins, allow_methods=["GET", "POST"], allow_headers=["*"],
            expose_headers=["X-Request-Id", "Retry-After"], allow_private_network=True,
        )  # fmt: skip

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_api = scope["type"] == "http" and scope["path"].startswith("/v1/")
        await (self._cors if is_api else self._app)(scope, receive, send)


class _Cors(CORSMiddleware):
    """Starlette's, but a preflight response lets only allowed origins into a private network."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if not self.is_allowed_origin(request_headers["origin"]):
            del response.headers["access-control-allow-private-network"]
        return response


def bearer(headers: Headers) -> str:
    """Returns the key of a request; "" if it has none."""
    scheme, _, key = headers.get("authorization", "").partition(" ")
    return key.strip() if scheme.lower() == "bearer" else ""


def _bounded(receive: Receive) -> Receive:
    """Returns a `receive` that raises once the body exceeds MAX_BODY_BYTES; chunked bodies do not
    have their size in a header."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MAX_BODY_BYTES:
            raise too_large_exception(TOO_LARGE)
        return message

    return counted
