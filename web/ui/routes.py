"""The page's endpoints: the stream, a post for each action, imports, exports and uploads.

`web/page_middleware.py` has checked names, origins, logins and sizes before any of this is reached.
The headers `X-Linly-*` say which tab asks; without them nothing is done.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterator
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
from web.ui.actions import Export, error_sentence
from web.ui.exports import exported
from web.ui.service import PageService
from web.ui.stream import serve_tab
from web.visitor import Visitor, visitor_of
from web.workers import Kind, Order

PREFIX = "/page"
MAX_HEADER = 200  # characters of what tells the tab
PIECE = 1_000_000  # bytes that are written at once

log = logging.getLogger(__name__)


class UnknownActionError(LinlyError):
    """There is no such action."""

    http_status = 404
    code = "unknown_action"


class LostTabError(LinlyError):
    """The tab has no stream, and its visitor no cookie."""

    http_status = 409
    code = "lost_tab"


class Endpoints:
    """The handlers."""

    def __init__(self, service: PageService) -> None:
        self._service = service

    async def act(self, kind: str, request: Request) -> Response:
        """An action of `actions.Actions`."""
        body = await request.body()

        def act() -> dict[str, Any]:
            known = self._service.actions.known.get(kind)
            if known is None:
                raise UnknownActionError("page_sent_unknown")
            visit = self._visit(request)
            return self._service.actions.do(visit, kind, _parsed(known[0], body))

        return await self._answer(request, act, Order.STOP if kind == "stop" else Order.ACTIONS)

    async def adopt(self, request: Request) -> Response:
        """Chats from a file: the body. `more` says that this is not its last part."""
        body = await request.body()
        more = request.query_params.get("more") == "1"

        def adopt() -> dict[str, Any]:
            try:
                text = body.decode("utf-8-sig")
            except UnicodeDecodeError as error:
                raise RequestError("import_not_utf8") from error
            return self._service.actions.adopt(self._visit(request), text, more)

        return await self._answer(request, adopt, Order.SLOW)

    async def export(self, request: Request) -> Response:
        """Chats as a file, made piece by piece."""
        body = await request.body()

        def begin() -> tuple[str, str, Iterator[str]]:
            kind = _parsed(Export, body).kind
            return exported(self._service.chat_service, self._visit(request), kind)

        try:
            name, media_type, pieces = await self._service.workers.act(
                _key(request), begin, Order.SLOW
            )
        except LinlyError as error:
            return _refusal(error, request)
        disposition = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name)}"}
        stream = self._service.workers.stream(_key(request), pieces)
        return StreamingResponse(_encoded(stream), 200, disposition, media_type)

    async def upload(self, request: Request) -> Response:
        """A file with training data: the body. Its token is for its visitor alone."""
        uploads, workers = self._service.uploads, self._service.workers
        name = request.query_params.get("name", "")[:MAX_HEADER]
        size = int(request.headers.get("content-length", 0))
        if uploads is None:
            return _refusal(UnknownActionError("page_sent_unknown"), request)
        try:
            token, path = await workers.act(
                _key(request), lambda: uploads.begin(self._visit(request).owner.id, name, size)
            )
        except LinlyError as error:
            return _refusal(error, request)
        try:
            await self._written(request, path)
        except BaseException:
            await workers.call(Kind.QUICK, uploads.drop, token)
            raise
        return JSONResponse({"upload": token, "name": path.name})

    async def _written(self, request: Request, path: Path) -> None:
        pending = b""
        with await self._service.workers.call(Kind.QUICK, path.open, "wb") as file:
            async for piece in request.stream():
                pending += piece
                if len(pending) >= PIECE or not piece:
                    await self._service.workers.call(Kind.QUICK, file.write, pending)
                    pending = b""
            await self._service.workers.call(Kind.QUICK, file.write, pending)

    async def _answer(
        self, request: Request, action: Callable[[], dict[str, Any]], order: Order
    ) -> Response:
        def made() -> Response:
            return JSONResponse(action())  # its JSON is made in the thread, too

        self._service.bind()
        try:
            return await self._service.workers.act(_key(request), made, order)
        except LinlyError as error:
            return _refusal(error, request)
        except Exception:
            log.exception("An action of the page failed")
            body = {
                "code": "fault",
                "message": LocalizedText("fault").sentence(_language(request.headers)),
            }
            return JSONResponse({"error": body}, 500)

    def _visit(self, request: Request) -> TabSession:
        """The tab of a request; where it has no stream here any more, one that shows the chat which
        the request names.

        Raises:
            LinlyError: no tab is named, the chat is gone, or nobody knows whose it would be:
                without cookies a visitor is known by the tab's stream alone.
        """
        visitor, headers = visitor_of(request.scope), request.headers
        tab = headers.get("x-linly-tab", "")
        if not 0 < len(tab) <= MAX_HEADER:
            raise RequestError("page_sent_unknown")
        visit = self._service.tab_sessions.get(tab, visitor.owner, visitor.guest)
        if visit.lost and not visit.owner.persistent:
            raise LostTabError("tab_lost")
        if visit.lost:
            visit.language, visit.may_train = _language(headers), visitor.may_train
            chat = headers.get("x-linly-chat", "")
            if 0 < len(chat) <= MAX_HEADER:
                self._service.chat_service.chat_list.open(visit, chat)
        return visit


def routes(service: PageService) -> APIRouter:
    """Everything below /page but the files."""
    endpoints = Endpoints(service)
    found = APIRouter(prefix=PREFIX, include_in_schema=False)
    for path, handler in (
        ("/actions/{kind}", endpoints.act),
        ("/import", endpoints.adopt),
        ("/export", endpoints.export),
        ("/upload", endpoints.upload),
    ):
        found.add_api_route(path, handler, methods=["POST"])

    async def serve(socket: WebSocket) -> None:
        await serve_tab(socket, service)

    found.routes.append(WebSocketRoute(f"{PREFIX}/events", serve))
    return found


def _parsed(model: type[Any], body: bytes) -> Any:
    """
    Raises:
        RequestError: the body is not what the action takes.
    """
    try:
        return model.model_validate_json(body)
    except ValidationError as error:
        raise RequestError(_reason(error)) from error


def _reason(error: ValidationError) -> LocalizedText:
    """What is wrong with a body, without any of its values."""
    first = error.errors(include_url=False, include_input=False, include_context=False)[0]
    if first["type"] == "string_too_long":
        return LocalizedText("page_text_too_long")
    place = ".".join(str(part) for part in first["loc"])[:100]
    if not place:
        return LocalizedText("page_sent_unknown")
    return LocalizedText("page_sent_unknown_field", {"place": place})


def _key(request: Request) -> str:
    """Whose turn a request waits for: without cookies, a tab is all that is known of a visitor."""
    visitor: Visitor = visitor_of(request.scope)
    if visitor.owner.persistent:
        return visitor.owner.id
    return f"tab:{request.headers.get('x-linly-tab', '')[:MAX_HEADER]}"


def _language(headers: Headers) -> str:
    language = headers.get("x-linly-language", "")
    return supported_language(language)


def _refusal(error: LinlyError, request: Request) -> JSONResponse:
    body = {"code": error.code, "message": error_sentence(error, _language(request.headers))}
    wait = getattr(error, "retry_after", None)
    headers = {"Retry-After": str(wait)} if wait else None
    return JSONResponse({"error": body}, error.http_status, headers)


async def _encoded(pieces: AsyncIterator[str]) -> AsyncIterator[bytes]:
    async for piece in pieces:
        yield piece.encode("utf-8", "replace")
