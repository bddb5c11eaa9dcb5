"""What has to be in the page before Gradio's own script runs, which reads `head` from its
configuration and puts it in late: light or dark would flash."""

from __future__ import annotations

from starlette.datastructures import MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from web.ui.drawn import ROUTE, STATIC

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
{MODULES}
""".encode()
BASE = b'<base href="./" />'  # in Gradio's page, for addresses like the script's


class EarlyHead:
    """ASGI middleware that adds to the head of the page at `/`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or (scope["method"], scope["path"]) != ("GET", "/"):
            await self._app(scope, receive, send)
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
            body = _with_first(b"".join(parts))
            (start,) = began
            MutableHeaders(scope=start)["content-length"] = str(len(body))
            await send(start)
            await send({"type": "http.response.body", "body": body})

        await self._app(scope, receive, whole)


def _with_first(page: bytes) -> bytes:
    """The page; whatever else is sent, such as a redirection, stays as it is."""
    return page.replace(BASE, BASE + FIRST, 1)
