"""ASGI middleware for the public link: refuses requests once it is closed, and enforces its limits.

When the link is closed, a stream of the API ends with its next token. The page's streams end
themselves, with their next keep-alive at the latest (`web/ui/tab_stream.py`).
"""

from __future__ import annotations

import contextlib

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocketClose

from model.translations import LocalizedText, languages
from web.access import AccessPolicy
from web.api.errors import as_response
from web.public_link.limits import LinkLimitError, PublicLink

GONE = 410
PRIVATE = ("/metrics", "/docs", "/openapi.json")  # for the operator only
NO_API = LinkLimitError("link_without_api")


class _EndedError(Exception):
    """Ends the application while it is still sending a response."""


class LinkMiddleware:
    """ASGI middleware for requests that come through the link."""

    def __init__(self, app: ASGIApp, access: AccessPolicy, link: PublicLink) -> None:
        self._app = app
        self._access = access
        self._link = link

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        kind = scope["type"]
        if kind not in ("http", "websocket") or not self._access.through_link(scope):
            await self._app(scope, receive, send)
        elif self._link.closed and kind == "websocket":
            await WebSocketClose()(scope, receive, send)
        elif self._link.closed:
            await PlainTextResponse(ended_text(), GONE)(scope, receive, send)
        elif kind == "websocket":
            await self._app(scope, receive, send)  # the page's stream ends itself
        elif self._link.rules.limits_use and scope["path"].startswith("/v1/"):
            await as_response(NO_API)(scope, receive, send)
        elif scope["path"] in PRIVATE:
            await PlainTextResponse("There is nothing here.\n", 404)(scope, receive, send)
        else:
            await self._until_closed(scope, receive, send)

    async def _until_closed(self, scope: Scope, receive: Receive, send: Send) -> None:
        is_stream = False

        async def send_until_closed(message: Message) -> None:
            nonlocal is_stream
            if message["type"] == "http.response.start":
                # A response with a length is sent at once, and must be complete.
                is_stream = all(name != b"content-length" for name, _ in message["headers"])
            elif is_stream and self._link.closed:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise _EndedError
            await send(message)

        with contextlib.suppress(_EndedError):
            await self._app(scope, receive, send_until_closed)


def ended_text() -> str:
    """Returns the message that the link has ended, in all languages."""
    text = LocalizedText("link_ended")
    return "".join(f"{text.sentence(language)}\n" for language in languages())
