"""The head of the page: what has to be in it before Gradio's own script runs, and a nonce for each
of its scripts. Gradio would read a head from its configuration and put it in late: light or dark
would flash."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.security_headers import PAGE_POLICY
from web.ui.custom_components import ROUTE, STATIC, head

# All at once, while Gradio's own load: each would be asked for only by the one that imports it.
MODULES = "".join(
    f'<link rel="modulepreload" fetchpriority="low" href="{ROUTE[1:]}/{path.name}">'
    for path in sorted(STATIC.glob("*.js"))
    if path.name != "theme.js"
)
# The colours that Gradio begins with follow the system; theme.js says what was chosen instead.
FIRST = f"""
<style>
  :root[data-theme=light] {{ --bg-dark: var(--bg); --col-dark: var(--col); }}
  :root[data-theme=dark] {{ --bg: var(--bg-dark); --col: var(--col-dark); }}
</style>
<script src="{ROUTE[1:]}/theme.js"></script>
{head()}
{MODULES}
""".encode()
SCRIPT = re.compile(rb"<script(?=[\s>])")
BASE = b'<base href="./" />'  # in Gradio's page, for addresses like the script's


class HeadInjectionMiddleware:
    """ASGI middleware that adds to the head of the page at `/`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # a tab that looks whether the server is back
            await Response(media_type="text/html")(scope, receive, send)
            return
        parts: list[bytes] = []
        began: list[Message] = []

        async def whole(message: Message) -> None:
            if message["type"] == "http.response.start":
                began.append(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            nonce = secrets.token_urlsafe(16)
            body = _with_nonce(_with_first(b"".join(parts)), nonce)
            (start,) = began
            headers = MutableHeaders(scope=start)
            headers["content-length"] = str(len(body))
            headers["content-security-policy"] = PAGE_POLICY.format(nonce=nonce)
            headers["cache-control"] = "no-store"
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, whole)


def _with_first(page: bytes) -> bytes:
    """The page; whatever else is sent, such as a redirection, stays as it is."""
    return page.replace(BASE, BASE + FIRST, 1)


def _with_nonce(page: bytes, nonce: str) -> bytes:
    """Every script tag of the page gets the nonce. Within scripts, `<` is written as an escape."""
    return SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), page)
