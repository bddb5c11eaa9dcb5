"""/health and OpenAI's API over the manager, with the adapter as the `model`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi import APIRouter, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response, StreamingResponse
from starlette.exceptions import HTTPException

from model.manager import Bursts, ModelManager
from model.outbox import Burst
from model.types import (
    ChatRequest,
    CompletionRequest,
    Delta,
    LinlyError,
    Phase,
    RequestError,
    Status,
    UnknownModelError,
)
from web.access import Access
from web.gate import Gate, TooLargeError, as_response
from web.replies import ChatWriter, TextWriter, Writer
from web.schemas import ChatCompletion, TextCompletion

T = TypeVar("T")

EVENT_SECONDS = 0.02  # between two packets of a stream; each token is an event all the same
CREATED = 1735689600  # `created` of the models: OpenAI's clients insist on a number


class NoSuchRouteError(LinlyError):
    """A path or a method that the API does not have."""

    http_status = 404
    code = "not_found"


@dataclass(frozen=True)
class Api:
    """The routes' handlers."""

    manager: ModelManager

    def health(self) -> JSONResponse:
        """How the model is; answers from the first second."""
        status = self.manager.status()
        return JSONResponse(health(status), status_code=200 if status.ready else 503)

    def models(self) -> dict[str, Any]:
        """The base first, then every healthy adapter."""
        base = self.manager.status().base_model
        healthy = [adapter.name for adapter in self.manager.adapters() if adapter.ready]
        entries = [_model(base, None), *(_model(name, base) for name in healthy)]
        return {"object": "list", "data": entries}

    def model(self, name: str) -> dict[str, Any]:
        """One of `models` by its id."""
        found = {entry["id"]: entry for entry in self.models()["data"]}
        if name not in found:
            raise UnknownModelError(f"There is no model or adapter {name!r}")
        return dict(found[name])

    def nothing(self, rest: str) -> None:
        """Every other path below /v1."""
        raise NoSuchRouteError(f"There is nothing at /v1/{rest} for this method")

    async def chat(self, body: ChatCompletion, request: Request) -> Response:
        wanted = ChatRequest(
            messages=tuple(message.to_message() for message in body.messages),
            adapter=self._adapter(body.model),
            adapter_scale=body.adapter_scale,
            sampling=body.to_sampling(),
        )
        writer = ChatWriter(wanted.id, self._name(body.model))
        bursts = self.manager.chat(wanted, EVENT_SECONDS)
        return await _respond(
            bursts, writer, body.stream, body.stream_options.include_usage, request
        )

    async def complete(self, body: TextCompletion, request: Request) -> Response:
        wanted = CompletionRequest(
            prompt=body.to_prompt(),
            adapter=self._adapter(body.model),
            adapter_scale=body.adapter_scale,
            sampling=body.to_sampling(),
        )
        writer = TextWriter(wanted.id, self._name(body.model))
        bursts = self.manager.complete(wanted, EVENT_SECONDS)
        return await _respond(
            bursts, writer, body.stream, body.stream_options.include_usage, request
        )

    def _name(self, model: str) -> str:
        return model or self.manager.status().base_model

    def _adapter(self, model: str) -> str | None:
        """The adapter that the `model` field names; None for the base, or for nothing at all."""
        return None if self._name(model) == self.manager.status().base_model else model


def install(app: FastAPI, manager: ModelManager, access: Access) -> None:
    """Add the routes and the error handlers to `app`."""
    api = Api(manager)
    v1 = APIRouter(prefix="/v1")
    v1.add_api_route("/models", api.models, methods=["GET"])
    v1.add_api_route("/chat/completions", api.chat, methods=["POST"], response_model=None)
    v1.add_api_route("/completions", api.complete, methods=["POST"], response_model=None)
    v1.add_api_route("/models/{name}", api.model, methods=["GET"])
    every = ["GET", "POST", "PUT", "PATCH", "DELETE"]
    v1.add_api_route("/{rest:path}", api.nothing, methods=every)
    app.include_router(v1)
    app.add_middleware(Gate, access=access)
    app.add_api_route("/health", api.health, methods=["GET"], response_model=None)
    app.exception_handler(LinlyError)(_answer_error)
    app.exception_handler(RequestValidationError)(_answer_invalid)
    app.exception_handler(HTTPException)(_answer_unreadable)


def health(status: Status) -> dict[str, Any]:
    """The body of /health."""
    state = "error" if status.phase is Phase.FAILED else "ready" if status.ready else "loading"
    return {
        "status": state,
        "progress": status.progress,
        "base_model": status.base_model,
        "engine": status.engine,
        "device": status.device,
        "quantization": status.quantization,
        "running": status.running,
        "waiting": status.waiting,
        "error": status.error,
    }


def _model(name: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name, "object": "model", "created": CREATED, "owned_by": "linly-chat",
        "root": parent or name, "parent": parent,
    }  # fmt: skip


async def _respond(
    bursts: Bursts, writer: Writer, stream: bool, with_usage: bool, request: Request
) -> Response:
    if not stream:
        collected = await _unless_disconnected(_collect(bursts), request)
        return JSONResponse(writer.whole(collected)) if collected else Response(status_code=499)
    # The first burst is waited for here, so that a refusal still has its HTTP status.
    first = await _unless_disconnected(anext(bursts), request)
    if first is None:
        return Response(status_code=499)  # nobody is there to read it
    events = _packets(first, bursts, writer, with_usage)
    return StreamingResponse(events, media_type="text/event-stream")


async def _packets(
    first: Burst, rest: Bursts, writer: Writer, with_usage: bool
) -> AsyncIterator[bytes]:
    """Server-sent events, those of a burst together; closing this closes `rest`, which ends the
    reply."""
    yield writer.opening() + writer.events(first)
    last = first[-1]
    async for burst in rest:
        yield writer.events(burst)
        last = burst[-1]
    yield writer.closing(last.stats if with_usage else None)


async def _collect(bursts: Bursts) -> list[Delta]:
    return [delta async for burst in bursts for delta in burst]


async def _unless_disconnected(work: Awaitable[T], request: Request) -> T | None:
    """The result of `work`; None, with `work` cancelled, if the client hangs up before."""
    task = asyncio.ensure_future(work)
    hung_up = asyncio.ensure_future(_hang_up(request))
    try:
        await asyncio.wait({task, hung_up}, return_when=asyncio.FIRST_COMPLETED)
        return await task if task.done() else None
    finally:
        task.cancel()
        hung_up.cancel()


async def _hang_up(request: Request) -> None:
    while (await request.receive())["type"] != "http.disconnect":
        pass


def _answer_error(_: Request, error: LinlyError) -> JSONResponse:
    return as_response(error)


def _answer_unreadable(_: Request, error: HTTPException) -> JSONResponse:
    """What FastAPI says of a body that it cannot read, and the gate of one that is too large."""
    too_large = error.status_code == TooLargeError.http_status
    return as_response(TooLargeError(error.detail) if too_large else RequestError(error.detail))


def _answer_invalid(_: Request, error: RequestValidationError) -> JSONResponse:
    """A body that is not what the route takes, in one sentence."""
    first = error.errors()[0]
    parts = [] if first["type"] == "json_invalid" else first["loc"]
    place = ".".join(str(part) for part in parts if part != "body")
    body = {
        "message": f"{place}: {first['msg']}" if place else str(first["msg"]),
        "type": "invalid_request_error", "param": place or None, "code": "invalid_value",
    }  # fmt: skip
    return JSONResponse({"error": body}, status_code=400)
