"""The page's endpoints: the stream, a POST for each action, imports, exports and uploads.

`web/page_middleware.py` has checked hosts, origins, logins and sizes before. The headers
`X-Linly-*` name the tab; requests without them are refused.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any
from urllib.parse import quote

from fastapi import APIRouter, Request, Response
from pydantic import ValidationError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import WebSocketRoute
from starlette.websockets import WebSocket

from model.errors import LinlyError, RequestError
from model.translations import LocalizedText, supported_language
from web.chats.tab_sessions import TabSession
from web.ui.action_result import error_sentence
from web.ui.exports import File, export_file
from web.ui.page_service import PageService
from web.ui.request_models import Export
from web.ui.tab_stream import serve_tab
from web.visitor import Visitor, visitor_of
from web.workers import Kind, Order

PREFIX = "/page"
MAX_HEADER = 200  # characters of the tab's id, and of other headers
WRITE_BYTES = 1_000_000  # of an upload at once

log = logging.getLogger(__name__)


class UnknownActionError(LinlyError):
    """No action has this name."""

    http_status = 404
    code = "unknown_action"


class LostTabError(LinlyError):
    """The tab has no stream, and its visitor no cookie."""

    http_status = 409
    code = "lost_tab"


class Endpoints:
    """Handlers of the page's requests."""

    def __init__(self, service: PageService) -> None:
        self._service = service

    async def act(self, kind: str, request: Request) -> Response:
        """Runs an action of `actions.Actions`."""
        body = await request.body()

        def run() -> dict[str, Any]:
            action = self._service.actions.registered.get(kind)
            if action is None:
                raise UnknownActionError("page_sent_unknown")
            tab = self._tab(request)
            return self._service.actions.run(tab, kind, _parse(action.body, body))

        return await self._respond(request, run, Order.STOP if kind == "stop" else Order.ACTIONS)

    async def import_chats(self, request: Request) -> Response:
        """Imports chats from a file: the body. `more` means that other parts of it follow."""
        body = await request.body()
        more = request.query_params.get("more") == "1"

        def run() -> dict[str, Any]:
            try:
                text = body.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise RequestError("import_not_utf8") from error
            return self._service.actions.import_chats(self._tab(request), text, more)

        return await self._respond(request, run, Order.SLOW)

    async def export(self, request: Request) -> Response:
        """Sends chats as a file, made part by part."""
        body = await request.body()

        def begin() -> File:
            kind = _parse(Export, body).kind
            return export_file(self._service.chat_service, self._tab(request), kind)

        try:
            name, media_type, parts = await self._service.workers.act(
                _turn_key(request), begin, Order.SLOW
            )
        except LinlyError as error:
            return _error_response(error, request)
        disposition = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
        stream = self._service.workers.stream(_turn_key(request), parts)
        return StreamingResponse(_encoded(stream), 200, disposition, media_type)

    async def upload(self, request: Request) -> Response:
        """Stores a file with training data: the body. Only its visitor can use its token."""
        uploads, workers = self._service.uploads, self._service.workers
        name = request.query_params.get("name", "")[:MAX_HEADER]
        size = int(request.headers.get("content-length", 0))
        if uploads is None:
            return _error_response(UnknownActionError("page_sent_unknown"), request)
        try:
            token, path = await workers.act(
                _turn_key(request), lambda: uploads.begin(self._tab(request).owner.id, name, size)
            )
        except LinlyError as error:
            return _error_response(error, request)
        try:
            await self._save_body(request, path)
        except BaseException:
            await workers.call(Kind.QUICK, uploads.drop, token)
            raise
        return JSONResponse({"upload": token, "name": path.name})

    async def _save_body(self, request: Request, path: Path) -> None:
        """Writes the body to a file, in worker threads."""
        pending = b""
        with await self._service.workers.call(Kind.QUICK, path.open, "wb") as file:
            async for chunk in request.stream():
                pending += chunk
                if len(pending) >= WRITE_BYTES or not chunk:
                    await self._service.workers.call(Kind.QUICK, file.write, pending)
                    pending = b""
            await self._service.workers.call(Kind.QUICK, file.write, pending)

    async def _respond(
        self, request: Request, action: Callable[[], dict[str, Any]], order: Order
    ) -> Response:
        """Runs an action in a worker thread, in the visitor's turn."""

        def run() -> Response:
            return JSONResponse(action())  # the thread makes the JSON, too

        self._service.bind()
        try:
            return await self._service.workers.act(_turn_key(request), run, order)
        except LinlyError as error:
            return _error_response(error, request)
        except Exception:
            log.exception("An action of the page failed")
            body = {
                "code": "fault",
                "message": LocalizedText("fault").sentence(_language(request.headers)),
            }
            return JSONResponse({"error": body}, 500)

    def _tab(self, request: Request) -> TabSession:
        """Returns the tab of a request. If its stream is gone, it shows the chat of the request.

        Raises:
            LinlyError: the request names no tab, the chat is gone, or the visitor is unknown:
                without a cookie, only the tab's stream identifies them.
        """
        visitor, headers = visitor_of(request.scope), request.headers
        tab_id = headers.get("x-linly-tab", "")
        if not 0 < len(tab_id) <= MAX_HEADER:
            raise RequestError("page_sent_unknown")
        tab = self._service.tab_sessions.get(tab_id, visitor.owner, visitor.guest)
        if tab.lost and not tab.owner.persistent:
            raise LostTabError("tab_lost")
        if tab.lost:
            tab.language, tab.may_train = _language(headers), visitor.may_train
            chat = headers.get("x-linly-chat", "")
            if 0 < len(chat) <= MAX_HEADER:
                self._service.chat_service.chat_list.open(tab, chat)
        return tab


def routes(service: PageService) -> APIRouter:
    """Returns the routes below /page, except for its files."""
    endpoints = Endpoints(service)
    router = APIRouter(prefix=PREFIX, include_in_schema=False)
    for path, handler in (
        ("/actions/{kind}", endpoints.act),
        ("/import", endpoints.import_chats),
        ("/export", endpoints.export),
        ("/upload", endpoints.upload),
    ):
        router.add_api_route(path, handler, methods=["POST"])

    async def serve(socket: WebSocket) -> None:
        await serve_tab(socket, service)

    router.routes.append(WebSocketRoute(f"{PREFIX}/events", serve))
    return router


def _parse(model: type[Any], body: bytes) -> Any:
    """Returns the model of a body.

    Raises:
        RequestError: the body is not what the action takes.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RequestError(_invalid_body(error)) from error


def _invalid_body(error: ValidationError) -> LocalizedText:
    """Returns what is wrong with a body, without any of its values."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "string_too_long":
        return LocalizedText("page_text_too_long")
    place = ".".join(str(part) for part in first["loc"])[:100]
    if not place:
        return LocalizedText("page_sent_unknown")
    return LocalizedText("page_sent_unknown_field", {"place": place})


def _turn_key(request: Request) -> str:
    """Returns whose requests run in turn: the visitor's or, without a cookie, the tab's."""
    visitor: Visitor = visitor_of(request.scope)
    if visitor.owner.persistent:
        return visitor.owner.id
    return f"tab:{request.headers.get('x-linly-tab', '')[:MAX_HEADER]}"


def _language(headers: Headers) -> str:
    return supported_language(headers.get("x-linly-language", ""))


def _error_response(error: LinlyError, request: Request) -> JSONResponse:
    body = {"code": error.code, "message": error_sentence(error, _language(request.headers))}
    seconds = getattr(error, "retry_after", None)
    headers = {"Retry-After": str(seconds)} if seconds else None
    return JSONResponse({"error": body}, error.http_status, headers)


async def _encoded(parts: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for part in parts:
        yield part.encode("utf-8", "replace")
