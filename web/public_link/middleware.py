"""The gate of the public link: closed once the link is, and no way around its limits.

A reply of the API that streams when the link ends, ends with its next token. The page's own streams
end themselves, with their next sign of life at the latest (`web/ui/stream.py`).
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
PRIVATE = ("/metrics", "/docs", "/openapi.json")  # the business of whoever runs the program
NO_API = LinkLimitError("link_without_api")


def _ended() -> str:
    """What a guest of a link that has ended reads, in every language: any may come."""
    text = LocalizedText("link_ended")
    return "".join(f"{text.sentence(language)}\n" for language in languages())


class _EndedError(Exception):
    """Leads out of an application that still has something to send."""


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
            await PlainTextResponse(_ended(), GONE)(scope, receive, send)
        elif kind == "websocket":
            await self._app(scope, receive, send)  # the page's stream ends by itself
        elif self._link.rules.limits_use and scope["path"].startswith("/v1/"):
            await as_response(NO_API)(scope, receive, send)
        elif scope["path"] in PRIVATE:
            await PlainTextResponse("There is nothing here.\n", 404)(scope, receive, send)
        else:
            await self._until_closed(scope, receive, send)

    async def _until_closed(self, scope: Scope, receive: Receive, send: Send) -> None:
        streams = False

        async def watched(message: Message) -> None:
            nonlocal streams
            if message["type"] == "http.response.start":
                # Whatever has a length comes at once, and nothing but all of it.
                streams = all(name != b"content-length" for name, _ in message["headers"])
            elif streams and self._link.closed:
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                raise _EndedError
            await send(message)

        with contextlib.suppress(_EndedError):
            await self._app(scope, receive, watched)
