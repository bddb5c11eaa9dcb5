"""The gate of the public link: closed once the link is, and no way around its limits."""

from __future__ import annotations

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from web.access import Access
from web.gate import as_response
from web.sharing import LinkLimitError, PublicLink

ENDED = (
    "This link has ended. Ask whoever sent it for a new one.\n"
    "此链接已失效，请向分享者索取新链接。\n"
)
GONE = 410
NO_API = LinkLimitError(
    "The API is not served through a link with limits", "Use the page, or a link without limits."
)


class LinkGate:
    """ASGI middleware for requests that come through the link."""

    def __init__(self, app: ASGIApp, access: Access, link: PublicLink) -> None:
        self._app = app
        self._access = access
        self._link = link

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._access.through_link(scope):
            await self._app(scope, receive, send)
        elif self._link.closed:
            await PlainTextResponse(ENDED, GONE)(scope, receive, send)
        elif self._link.rules.limits_use and scope["path"].startswith("/v1/"):
            await as_response(NO_API)(scope, receive, send)
        else:
            await self._app(scope, receive, send)
