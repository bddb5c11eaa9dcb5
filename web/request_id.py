"""What each request is known by, in the answer's headers and in the logs."""

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
KEY = "linly.trace"
GOOD = re.compile(r"[\w.:-]{1,64}", re.ASCII)  # of a client: goes into logs as it is
PATHS = ("/v1/", "/health", "/metrics")


class RequestIdMiddleware:
    """ASGI middleware for the API: a request keeps the id that it brings, or gets one."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(PATHS):
            await self._app(scope, receive, send)
            return
        trace = _trace(scope)
        scope[KEY] = trace
        began, status = time.perf_counter(), 0

        async def traced(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                MutableHeaders(scope=message)[HEADER] = trace
            await send(message)

        try:
            await self._app(scope, receive, traced)
        finally:
            if scope["path"].startswith("/v1/"):
                seconds = time.perf_counter() - began
                logs.request(trace, scope["method"], scope["path"], status, seconds)


def trace_of(scope: Mapping[str, Any]) -> str:
    """What the request of this ASGI scope is known by; empty where it is none of the API's."""
    found: str = scope.get(KEY, "")
    return found


def _trace(scope: Scope) -> str:
    sent = Headers(scope=scope).get(HEADER, "")
    return sent if GOOD.fullmatch(sent) else uuid.uuid4().hex
