"""ASGI middleware that adds to the page's head: styles and scripts that run before Gradio's, and a
nonce for every script. Gradio would add a head of its own late, so light or dark would flash."""

from __future__ import annotations

import re
import secrets

from starlette.datastructures import MutableHeaders
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.security_headers import PAGE_POLICY
from web.ui.custom_components import ROUTE, STATIC, head

# Loaded at once, beside Gradio's; otherwise each would wait for the module that imports it.
MODULES = "".join(
    f'<link rel="modulepreload" fetchpriority="low" href="{ROUTE[1:]}/{path.name}">'
    for path in sorted(STATIC.glob("*.js"))
    if path.name != "theme.js"
)
# Gradio's first colours follow the system; theme.js sets the theme that the visitor chose.
HEAD = f"""
<style>
  :root[data-theme=light] {{ --bg-dark: var(--bg); --col-dark: var(--col); }}
  :root[data-theme=dark] {{ --bg: var(--bg-dark); --col: var(--col-dark); }}
</style>
<script src="{ROUTE[1:]}/theme.js"></script>
{head()}
{MODULES}
""".encode()
SCRIPT = re.compile(rb"<script(?=[\s>])")
BASE_TAG = b'<base href="./" />'  # in Gradio's page; relative addresses must come after it


class HeadInjectionMiddleware:
    """ASGI middleware that adds to the head of the page at `/`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] != "/":
            await self._app(scope, receive, send)
            return
        if scope["method"] == "HEAD":  # a tab that checks whether the server is back
            await Response(media_type="text/html")(scope, receive, send)
            return
        parts: list[bytes] = []
        start: list[Message] = []

        async def collect(message: Message) -> None:
            if message["type"] == "http.response.start":
                start.append(message)
                return
            parts.append(message.get("body", b""))
            if message.get("more_body"):
                return
            nonce = secrets.token_urlsafe(16)
            body = _with_nonce(_with_head(b"".join(parts)), nonce)
            headers = MutableHeaders(scope=start[0])
            headers["content-length"] = str(len(body))
            headers["content-security-policy"] = PAGE_POLICY.format(nonce=nonce)
            headers["cache-control"] = "no-store"
            await send(start[0])
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, collect)


def _with_head(page: bytes) -> bytes:
    """Adds to the page's head. Other responses, such as a redirection, stay as they are."""
    return page.replace(BASE_TAG, BASE_TAG + HEAD, 1)


def _with_nonce(page: bytes, nonce: str) -> bytes:
    """Adds the nonce to every script tag of the page. Within scripts, `<` is escaped."""
    return SCRIPT.sub(b'<script nonce="%s"' % nonce.encode(), page)
