"""Who may leave files here: whoever may train, and nobody else.

Files come in two ways: they are uploaded, or a request names one that Gradio then fetches.
"""

from __future__ import annotations

import json
from typing import Any

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.access import Access

UPLOADS = ("/gradio_api/upload", "/gradio_api/process_recording")
CALLS = "/gradio_api/"
FILE = "gradio.FileData"  # how Gradio marks a value that is a file
MOST_BYTES = 8_000_000  # of a call's body
REFUSED = "Files are taken for training only, which is off for this address."


class UploadGate:
    """ASGI middleware for Gradio's uploads and calls."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        posted = scope["type"] == "http" and scope["method"] == "POST"
        path = scope["path"].rstrip("/") if posted else ""
        if not path.startswith(CALLS) or self._access.may_train(scope):
            await self._app(scope, receive, send)
            return
        body = b"" if path in UPLOADS else await _body(receive)
        if path in UPLOADS or body is None or _names_a_file(body):
            await JSONResponse({"detail": REFUSED}, status_code=403)(scope, receive, send)
            return
        await self._app(scope, _again(body, receive), send)


async def _body(receive: Receive) -> bytes | None:
    """The whole of it; None if it is too large."""
    body = b""
    while True:
        message = await receive()
        body += message.get("body", b"")
        if len(body) > MOST_BYTES:
            return None
        if not message.get("more_body"):
            return body


def _again(body: bytes, receive: Receive) -> Receive:
    """`receive` for whoever comes next: what was read already, then what follows."""
    left: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replayed() -> Message:
        return left.pop() if left else await receive()

    return replayed


def _names_a_file(body: bytes) -> bool:
    try:
        return _holds_file(json.loads(body))
    except (ValueError, RecursionError):
        return False  # then Gradio cannot read it either


def _holds_file(value: Any) -> bool:
    if isinstance(value, dict):
        meta = value.get("meta")
        marked = isinstance(meta, dict) and meta.get("_type") == FILE
        return marked or any(map(_holds_file, value.values()))
    return isinstance(value, list) and any(map(_holds_file, value))
