"""OpenAI's routes; the field `model` names the adapter."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from fastapi import APIRouter, Request, Response
from starlette.routing import Match, Route
from starlette.types import Receive, Scope, Send

from model.errors import RequestError, UnknownModelError
from model.sampling import Sampling
from model.serving.manager import ModelManager
from model.translations import LocalizedText
from model.types import ChatRequest, CompletionRequest, new_id
from web.api import response_models
from web.api.errors import NoSuchRouteError, WrongMethodError
from web.api.middleware import KEY_IN_DOCS
from web.api.openai_format import ChatWriter, ResponseFormat, TextWriter
from web.api.request_models import MAX_SEED, ChatCompletion, Generation, TextCompletion
from web.api.response_models import errors, streamed
from web.api.streaming import respond
from web.request_id import request_id_of

EVENT_SECONDS = 0.02  # between two packets of a stream; a packet has one event for each token
SCAN_SECONDS = 1.0  # maximum age of a scan of the adapters' folder
CREATED = 1735689600  # `created` of the models: OpenAI's clients require a number


@dataclass(frozen=True)
class Api:
    """The routes' handlers."""

    manager: ModelManager

    def models(self) -> dict[str, Any]:
        """The base first, then every healthy adapter."""
        base = self.manager.status().base_model
        healthy = [a.name for a in self.manager.adapters(SCAN_SECONDS) if a.ready]
        length = self.manager.context_length
        entries = [_model(base, None, length), *(_model(name, base, length) for name in healthy)]
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
        template = ChatRequest(
            messages=body.to_messages(),
            adapter=self._adapter(body),
            adapter_scale=body.scale,
            trace=request_id_of(request.scope),
            affinity=body.affinity,
        )
        samplings = _sampling_by_choice(body, body.to_sampling())
        self._check_queue(len(samplings))
        requests = [replace(template, sampling=sampling, id=new_id()) for sampling in samplings]
        writer = ChatWriter(requests[0].id, self._format(body, samplings[0]))
        choices = [self.manager.chat(choice, EVENT_SECONDS) for choice in requests]
        return await respond(choices, writer, bool(body.stream), request)

    async def complete(self, body: TextCompletion, request: Request) -> Response:
        """Continue a prompt as it is, without a template."""
        body.check()
        template = CompletionRequest(
            prompt="",
            adapter=self._adapter(body),
            adapter_scale=body.scale,
            trace=request_id_of(request.scope),
            affinity=body.affinity,
        )
        samplings = _sampling_by_choice(body, body.to_sampling())
        prompts = body.prompts()
        self._check_queue(len(prompts) * len(samplings))
        requests = [
            replace(template, prompt=prompt, sampling=sampling, id=new_id())
            for prompt in prompts
            for sampling in samplings
        ]
        echoes = await asyncio.to_thread(self._prompt_texts, requests) if body.echo else ()
        writer = TextWriter(requests[0].id, self._format(body, samplings[0]), echoes)
        choices = [self.manager.complete(choice, EVENT_SECONDS) for choice in requests]
        return await respond(choices, writer, bool(body.stream), request)

    def _check_queue(self, choices: int) -> None:
        """Checks that the engine's queue can hold all choices of a request: otherwise the client
        would be told again and again that it is full.

        Raises:
            RequestError: it cannot.
        """
        limit = self.manager.max_waiting
        if limit is not None and choices > limit:
            raise RequestError("too_many_choices", max_choices=limit)

    def _format(self, body: Generation, sampling: Sampling) -> ResponseFormat:
        return ResponseFormat(
            model=self._name(body),
            fingerprint=partial(self.manager.fingerprint, self._adapter(body)),
            n=body.choices,
            with_usage=body.with_usage,
            with_logprobs=sampling.logprobs is not None,
        )

    def _name(self, body: Generation) -> str:
        return body.model or self.manager.status().base_model

    def _adapter(self, body: Generation) -> str | None:
        """Returns the adapter that the field `model` names; None for the base or no name."""
        name = self._name(body)
        return None if name == self.manager.status().base_model else name

    def _prompt_texts(self, requests: Sequence[CompletionRequest]) -> list[str]:
        return [self.manager.decode_prompt(request) for request in requests]


def router(manager: ModelManager) -> APIRouter:
    """Returns the routes below /v1 that need the API key, not the admin key."""
    api = Api(manager)
    v1 = APIRouter(prefix="/v1", tags=["OpenAI"], dependencies=[KEY_IN_DOCS])
    v1.add_api_route(
        "/models",
        api.models,
        response_model=response_models.Models,
        responses=errors(),
        name="models",
    )
    generates = errors(400, 404, 413, 415, 422, 429, 500, 503)
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
    """ASGI application for every other path below /v1, and for methods that the paths of `routers`
    do not have. Without it, the page would get these requests.

    Raises:
        NoSuchRouteError, WrongMethodError
    """

    routers: Sequence[APIRouter]

    async def __call__(self, scope: Scope, _receive: Receive, _send: Send) -> None:
        routes = [route for router in self.routers for route in router.routes]
        matches = [route for route in routes if route.matches(scope)[0] is not Match.NONE]
        allowed = {method for route in matches for method in getattr(route, "methods", ())}
        if allowed:
            raise WrongMethodError(scope["path"], scope["method"], allowed)
        raise NoSuchRouteError("path_not_found", path=scope["path"])

    def routes(self) -> list[Route]:
        """Returns routes for any method, to be added after those of `routers`."""
        paths = {getattr(route, "path", "") for router in self.routers for route in router.routes}
        return [Route(path, self) for path in ("/v1/{rest:path}", *sorted(paths))]


def _sampling_by_choice(body: Generation, sampling: Sampling) -> list[Sampling]:
    """Returns the sampling of each choice of a prompt; their seeds count up from the seed."""
    if sampling.seed is None:
        return [sampling] * body.choices
    seeds = range(sampling.seed, sampling.seed + body.choices)
    return [replace(sampling, seed=seed % MAX_SEED) for seed in seeds]


def _model(name: str, parent: str | None, max_model_len: int | None) -> dict[str, Any]:
    return {
        "id": name, "object": "model", "created": CREATED, "owned_by": "linly-chat",
        "root": parent or name, "parent": parent, "max_model_len": max_model_len,
    }  # fmt: skip
