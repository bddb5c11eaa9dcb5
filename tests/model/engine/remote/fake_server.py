"""A fake model server with OpenAI's API as vLLM has it, on a real port."""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from web.listen_socket import bind

Json = dict[str, Any]
Script = Callable[[Json], Sequence[int]]  # from a request's body to the ids of the reply


def refusal(status: int, message: str, **headers: str) -> Response:
    """An error response as vLLM writes it."""
    body = {"error": {"message": message, "type": "x", "param": None, "code": status}}
    return JSONResponse(body, status, headers=headers)


@dataclass
class Server:
    """The models and the behaviour of the server, and the requests that it got."""

    script: Script
    encode: Callable[[str], Sequence[int]] | None = None
    text: Callable[[Sequence[int]], str] | None = None  # to send text instead of token ids
    top: dict[str, float] = field(
        default_factory=lambda: {"b": -0.7, "a": -0.5, "c": -0.9}
    )  # the likeliest tokens, at each place
    llama: bool = False  # has the API of llama.cpp's server
    base: str = "tiny"
    context_length: int | None = None
    adapters: list[str] = field(default_factory=list)
    loads_adapters: bool = True
    accepts_token_ids: bool = True
    key: str | None = None
    refuse: Response | None = None  # the response to a completion
    broken_after: int | None = None  # tokens, after which the connection is dropped
    resume: threading.Event | None = None  # no token is sent before it is set
    requests: list[Json] = field(default_factory=list)  # for completions
    headers: list[dict[str, str]] = field(default_factory=list)
    load_requests: list[Json] = field(default_factory=list)  # of adapters
    unloaded: list[str] = field(default_factory=list)
    disconnects: int = 0  # of clients, before the end of a reply
    listing: Response | None = None  # the response to a poll
    polls: int = 0
    ignores_polls: bool = False
    finish_load: threading.Event | None = None  # a load takes until it is set

    def app(self) -> Starlette:
        return Starlette(
            routes=[
                Route("/v1/models", self._models),
                Route("/tokenize", self._tokenize, methods=["POST"]),
                Route("/v1/completions", self._complete, methods=["POST"]),
                Route("/v1/load_lora_adapter", self._load, methods=["POST"]),
                Route("/v1/unload_lora_adapter", self._unload, methods=["POST"]),
            ]
        )

    async def _models(self, request: Request) -> Response:
        self.polls += 1
        while self.ignores_polls and not await request.is_disconnected():
            await asyncio.sleep(0.005)
        if self.listing is not None:
            return self.listing
        if self.key and request.headers.get("authorization") != f"Bearer {self.key}":
            return refusal(401, "Unauthorized")
        base = {
            "id": self.base,
            "object": "model",
            "parent": None,
            "max_model_len": self.context_length,
        }
        adapters = [{"id": name, "object": "model", "parent": self.base} for name in self.adapters]
        return JSONResponse({"object": "list", "data": [base, *adapters]})

    async def _tokenize(self, request: Request) -> Response:
        if self.encode is None:
            return refusal(404, "Not Found")
        body = await request.json()
        if self.llama:
            return JSONResponse({"tokens": list(self.encode(body.get("content", "")))})
        return JSONResponse({"tokens": list(self.encode(body["prompt"]))})

    async def _load(self, request: Request) -> Response:
        if not self.loads_adapters:
            return JSONResponse({"detail": "Not Found"}, 404)
        body = await request.json()
        if "lora_name" not in body:
            return refusal(400, "lora_name: Field required")
        if body["lora_name"].startswith("unreadable"):
            return refusal(404, f"No adapter found for {body['lora_path']}")
        if body["lora_name"].startswith("unfit"):
            self.load_requests.append(body)
            return refusal(500, "LoRA rank 64 is greater than max_lora_rank 16.")
        if body["lora_name"] in self.adapters:
            name = body["lora_name"]
            return refusal(400, f"The lora adapter '{name}' has already been loaded.")
        while self.finish_load is not None and not self.finish_load.is_set():
            await asyncio.sleep(0.005)
        self.load_requests.append(body)
        self.adapters.append(body["lora_name"])
        return Response("Success")

    async def _unload(self, request: Request) -> Response:
        name = (await request.json())["lora_name"]
        self.unloaded.append(name)
        self.adapters.remove(name)
        return Response("Success")

    async def _complete(self, request: Request) -> Response:
        body = await request.json()
        if not self.accepts_token_ids and not isinstance(body["prompt"], str):
            return refusal(422, "prompt: Input should be a valid string")
        if not body.get("stream"):  # a client tries whether ids are accepted
            return JSONResponse({"choices": [{"text": "x"}]})
        self.requests.append(body)
        self.headers.append(dict(request.headers))
        if self.refuse is not None:
            return self.refuse
        if body["model"] not in (self.base, *self.adapters):
            return refusal(404, f"The model `{body['model']}` does not exist.")
        return StreamingResponse(self._stream(body, request), media_type="text/event-stream")

    async def _stream(self, body: Json, request: Request) -> AsyncIterator[str]:
        ids = list(self.script(body))
        try:
            for at, token in enumerate(ids):
                while self.resume is not None and not self.resume.is_set():
                    await asyncio.sleep(0.005)
                if at == self.broken_after:
                    raise ConnectionResetError
                if await request.is_disconnected():
                    raise asyncio.CancelledError  # as Starlette does, if it notices first
                yield self._event(body, token, "stop" if at == len(ids) - 1 else None)
        except (asyncio.CancelledError, GeneratorExit):
            self.disconnects += 1
            raise
        usage = {"prompt_tokens": len(body["prompt"]), "completion_tokens": len(ids)}
        yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    def _event(self, body: Json, token: int, finish_reason: str | None) -> str:
        choice: Json = {"index": 0, "text": "", "finish_reason": finish_reason, "logprobs": None}
        if self.text:
            choice["text"] = self.text([token])
        else:
            choice["token_ids"] = [token]
        if body.get("logprobs") is not None and self.llama:
            top = [
                {"id": i, "token": t, "logprob": p} for i, t, p in ((1, "a", -0.5), (2, "b", -0.7))
            ]
            choice["logprobs"] = {
                "content": [{**top[0], "token": choice["text"], "top_logprobs": top}]
            }
        elif body.get("logprobs") is not None:
            choice["logprobs"] = {
                "tokens": [""], "token_logprobs": [-0.5],
                "top_logprobs": [self.top],
            }  # fmt: skip
        return f"data: {json.dumps({'choices': [choice]})}\n\n"


@contextmanager
def running(server: Server, port: int = 0) -> Iterator[str]:
    """Runs the server; yields the address where its API begins."""
    sock = bind("127.0.0.1", port)
    config = uvicorn.Config(
        server.app(),
        log_level="critical",
        log_config=None,
        timeout_graceful_shutdown=0,
        ws="none",
    )
    served = uvicorn.Server(config)
    thread = threading.Thread(target=served.run, kwargs={"sockets": [sock]}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}/v1"
    finally:
        served.should_exit = served.force_exit = True
        thread.join(20)
        sock.close()
