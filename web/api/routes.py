"""OpenAI's API over the manager, with the adapter as the `model`."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from model.errors import UnknownModelError
from model.serving.manager import ModelManager
from model.translations import LocalizedText
from model.types import ChatRequest, CompletionRequest, Sampling, new_id
from web.api import response_models
from web.api.errors import NoSuchRouteError, WrongMethodError
from web.api.middleware import ASKS_FOR_A_KEY
from web.api.openai_format import ChatWriter, TextWriter
from web.api.request_models import MAX_SEED, ChatCompletion, Generation, TextCompletion
from web.api.response_models import errors, streamed
from web.api.streaming import respond
from web.request_id import trace_of

EVENT_SECONDS = 0.02  # between two packets of a stream; each token is an event all the same
LOOK_SECONDS = 1.0  # for which a look at the adapters' folder is as good as a new one
CREATED = 1735689600  # `created` of the models: OpenAI's clients insist on a number


@dataclass(frozen=True)
class Api:
    """The routes' handlers."""

    manager: ModelManager

    def models(self) -> dict[str, Any]:
        """The base first, then every healthy adapter."""
        base = self.manager.status().base_model
        healthy = [one.name for one in self.manager.adapters(LOOK_SECONDS) if one.ready]
        entries = [_model(base, None), *(_model(name, base) for name in healthy)]
        return {"object": "list", "data": entries}

    def model(self, name: str) -> dict[str, Any]:
        """One of `models` by its id."""
        found = {entry["id"]: entry for entry in self.models()["data"]}
        if name not in found:
            raise UnknownModelError(
                "unknown_model", name=name, remedy=LocalizedText("models_listed")
            )
        return dict(found[name])

    async def chat(self, body: ChatCompletion, request: Request) -> Response:
        """Answer a chat's messages."""
        body.check()
        asked = ChatRequest(
            messages=tuple(message.to_message() for message in body.messages),
            adapter=self._adapter(body),
            adapter_scale=body.scale,
            trace=trace_of(request.scope),
            affinity=body.affinity,
        )
        wanted = [replace(asked, sampling=s, id=new_id()) for s in _each(body, body.to_sampling())]
        writer = ChatWriter(wanted[0].id, self._name(body), body.with_usage, body.choices)
        choices = [self.manager.chat(one, EVENT_SECONDS) for one in wanted]
        return await respond(choices, writer, bool(body.stream), request)

    async def complete(self, body: TextCompletion, request: Request) -> Response:
        """Continue a prompt as it stands, without a template."""
        body.check()
        asked = CompletionRequest(
            prompt="",
            adapter=self._adapter(body),
            adapter_scale=body.scale,
            trace=trace_of(request.scope),
            affinity=body.affinity,
        )
        samplings = _each(body, body.to_sampling())
        wanted = [
            replace(asked, prompt=prompt, sampling=sampling, id=new_id())
            for prompt in body.prompts()
            for sampling in samplings
        ]
        leads = await asyncio.to_thread(self._texts, wanted) if body.echo else ()
        name = self._name(body)
        writer = TextWriter(wanted[0].id, name, body.with_usage, body.choices, leads)
        choices = [self.manager.complete(one, EVENT_SECONDS) for one in wanted]
        return await respond(choices, writer, bool(body.stream), request)

    def _name(self, body: Generation) -> str:
        return body.model or self.manager.status().base_model

    def _adapter(self, body: Generation) -> str | None:
        """The adapter that the `model` field names; None for the base, or for nothing at all."""
        name = self._name(body)
        return None if name == self.manager.status().base_model else name

    def _texts(self, wanted: Sequence[CompletionRequest]) -> list[str]:
        return [self.manager.decode_prompt(one) for one in wanted]


def router(manager: ModelManager) -> APIRouter:
    """The routes below /v1 that need no key but the API's."""
    api = Api(manager)
    v1 = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[ASKS_FOR_A_KEY])
    v1.add_api_route(
        "/models",
        api.models,
        response_model=response_models.Models,
        responses=errors(),
        name="models",
    )
    generates = errors(400, 404, 413, 422, 429, 500, 503)
    v1.add_api_route(
        "/chat/completions", api.chat, methods=["POST"], name="chat completions",
        response_model=response_models.ChatResponse, responses={**streamed(), **generates},
    )  # fmt: skip
    v1.add_api_route(
        "/completions", api.complete, methods=["POST"], name="completions",
        response_model=response_models.TextResponse, responses={**streamed(), **generates},
    )  # fmt: skip
    v1.add_api_route(
        "/models/{name}", api.model, response_model=response_models.Model, responses=errors(404),
        name="model",
    )  # fmt: skip
    for path, handler in (("/models", api.models), ("/models/{name}", api.model)):
        v1.add_api_route(path, handler, methods=["HEAD"], include_in_schema=False)
    return v1


@dataclass(frozen=True)
class NotFoundFallback:
    """ASGI application for every other path below /v1, and for the methods that the paths of
    `known` do not have: or else the page would be asked, which stands behind.

    Raises:
        NoSuchRouteError, WrongMethodError
    """

    known: Sequence[APIRouter]

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        routes = [route for router in self.known for route in router.routes]
        found = [one for one in routes if one.matches(scope)[0] is not Match.NONE]
        allowed = {name for one in found for name in getattr(one, "methods", ())}
        if allowed:
            raise WrongMethodError(scope["path"], scope["method"], allowed)
        raise NoSuchRouteError("path_not_found", path=scope["path"])

    def routes(self) -> list[Route]:
        """For any method, behind those of `known`."""
        paths = {getattr(route, "path", "") for one in self.known for route in one.routes}
        return [Route(path, self) for path in ("/v1/{rest:path}", *sorted(paths))]


def _each(body: Generation, sampling: Sampling) -> list[Sampling]:
    """For each choice of a prompt its own seed, where one was given."""
    if sampling.seed is None:
        return [sampling] * body.choices
    seeds = range(sampling.seed, sampling.seed + body.choices)
    return [replace(sampling, seed=seed % MAX_SEED) for seed in seeds]


def _model(name: str, parent: str | None) -> dict[str, Any]:
    return {
        "id": name, "object": "model", "created": CREATED, "owned_by": "linly-chat",
        "root": parent or name, "parent": parent,
    }  # fmt: skip
