"""The id of each API request, in the response's headers and in the logs."""

from __future__ import annotations

import re
import time
import uuid
from collections.abc import Mapping
from typing import Any

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web import logs

HEADER = "x-request-id"
SCOPE_KEY = "linly.trace"
VALID_ID = re.compile(r"[\w.:-]{1,64}", re.ASCII)  # of a client; logged without escaping
PATHS = ("/v1/", "/health", "/metrics")


class RequestIdMiddleware:
    """ASGI middleware for the API: a request keeps the id in its header, or gets a new one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PATHS):
            await self._app(scope, receive, send)
            return
        request_id = scope[SCOPE_KEY] = _client_id(scope) or uuid.uuid4().hex
        began, status = time.perf_counter(), 0

        async def send_with_id(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = request_id
            await send(message)

        try:
            await self._app(scope, receive, send_with_id)
        finally:
            if scope["path"].startswith("/v1/"):
                seconds = time.perf_counter() - began
                logs.log_request(request_id, scope["method"], scope["path"], status, seconds)


def request_id_of(scope: Mapping[str, Any]) -> str:
    """Returns the id of this ASGI scope's request; "" if it is not for the API."""
    request_id: str = scope.get(SCOPE_KEY, "")
    return request_id


def _client_id(scope: Scope) -> str:
    """Returns the id that the client sent; "" if there is no valid one."""
    sent = Headers(scope=scope).get(HEADER, "")
    return sent if VALID_ID.fullmatch(sent) else ""
