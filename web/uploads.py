"""Who may leave files here: whoever may train, and nobody else."""

from __future__ import annotations

from fastapi.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from web.access import Access

PATH = "/gradio_api/upload"
REFUSED = "Files are taken for training only, which is off for this address."


class UploadGate:
    """ASGI middleware for Gradio's upload."""

    def __init__(self, app: ASGIApp, access: Access) -> None:
        self._app = app
        self._access = access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = scope["type"] == "http" and scope["path"].rstrip("/") == PATH
        if refused and not self._access.may_train(scope):
            answer = JSONResponse({"detail": REFUSED}, status_code=403)
            await answer(scope, receive, send)
            return
        await self._app(scope, receive, send)
