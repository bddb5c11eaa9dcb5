"""The gate before /v1: the key and the size of a request, before anything of it is read."""

from __future__ import annotations

import math

from fastapi import HTTPException
from fastapi.responses import JSONResponse
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from model.types import LinlyError
from web.access import Access

RETRY_SECONDS = 5  # where the error does not know better
MOST_BYTES = 8_000_000  # of a request's body
TOO_LARGE = f"The request is larger than {MOST_BYTES // 1_000_000} MB"
ERROR_TYPES = {401: "authentication_error", 404: "not_found_error", 429: "rate_limit_error"}


class KeyRefusedError(LinlyError):
    """No key, or a wrong one."""

    http_status = 401
    code = "invalid_api_key"


class TooLargeError(LinlyError):
    """A body that nobody means to send."""

    http_status = 413
    code = "request_too_large"


class Gate:
    """ASGI middleware for the paths below /v1."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith("/v1/"):
            await self._app(scope, receive, send)
            return
        try:
            self._check(Headers(scope=scope))
            await self._app(scope, _bounded(receive), send)
        except (KeyRefusedError, TooLargeError) as error:
            await as_response(error)(scope, receive, send)

    def _check(self, headers: Headers) -> None:
        scheme, _, key = headers.get("authorization", "").partition(" ")
        if not self._access.allows_key(key if scheme.lower() == "bearer" else ""):
            raise KeyRefusedError("The API key is missing or wrong", "Send it as a Bearer token.")
        length = headers.get("content-length", "0")
        if length.isdecimal() and int(length) > MOST_BYTES:
            raise TooLargeError(TOO_LARGE)


def _bounded(receive: Receive) -> Receive:
    """`receive`, for bodies that come in pieces of unknown number."""
    total = 0

    async def counted() -> Message:
        nonlocal total
        message = await receive()
        total += len(message.get("body", b""))
        if total > MOST_BYTES:
            # The one kind of error that FastAPI lets through while it reads a body.
            raise HTTPException(TooLargeError.http_status, TOO_LARGE)
        return message

    return counted


def as_response(error: LinlyError) -> JSONResponse:
    """An error of ours as OpenAI's error object with its HTTP status."""
    status = error.http_status
    kind = ERROR_TYPES.get(status, "server_error" if status >= 500 else "invalid_request_error")
    wait = max(1, math.ceil(getattr(error, "retry_after", 0) or RETRY_SECONDS))
    headers = {"Retry-After": str(wait)} if status in (429, 503) else None
    body = {"message": str(error), "type": kind, "param": None, "code": error.code}
    return JSONResponse({"error": body}, status_code=status, headers=headers)
