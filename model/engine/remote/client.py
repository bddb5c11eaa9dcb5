"""HTTP client of the model server: OpenAI's API, and vLLM's calls for adapters and tokens."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from model.errors import BusyError, EngineError, LinlyError, NotReadyError, RequestError

CONNECT_SECONDS = 5.0
RESPONSE_SECONDS = 15.0  # for a response that needs no model
LOAD_SECONDS = 300.0  # for a large adapter on a slow disk
STREAM_SECONDS = 600.0  # between two chunks of a reply: the queue or the prompt may be long
# How long an idle connection is reused. vLLM closes it after 5 seconds; a request that comes at
# that moment is lost, and has to be sent again.
KEEPALIVE_SECONDS = 2.0
MAX_IDLE = 100  # connections
MAX_SERVER_MESSAGE = 300  # characters of a server's message that are passed on

Json = dict[str, Any]


@dataclass(frozen=True)
class ServerModels:
    """The models that a server lists: bases, adapters, and for some of them the context length."""

    bases: tuple[str, ...]
    adapters: frozenset[str]
    context_lengths: Mapping[str, int] = field(default_factory=dict)


class UnknownOnServerError(RequestError):
    """The server knows no model of that name."""

    http_status = 404
    code = "model_not_found"


class OpenAIClient:
    """Sends requests to the server at `url`, which ends where its API begins (…/v1). For one event
    loop.

    Raises (from every request):
        NotReadyError: the server cannot be reached, or is not ready.
        BusyError: it has too much to do.
        RequestError: it refuses the request.
        EngineError: it has failed, or does not respond as OpenAI's API does.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.host = urlsplit(url).netloc
        self._url = url
        self._root = url.removesuffix("/v1")
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(RESPONSE_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=MAX_IDLE,
                keepalive_expiry=KEEPALIVE_SECONDS,
            ),
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> ServerModels:
        """Returns the models that the server serves now."""
        content = await self._request("GET", f"{self._url}/models")
        entries = content.get("data")
        if not isinstance(entries, list):
            raise EngineError("model_server_models_invalid")
        models = [e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)]
        lengths = {e["id"]: e["max_model_len"] for e in models if _is_size(e.get("max_model_len"))}
        bases = tuple(entry["id"] for entry in models if not entry.get("parent"))
        adapters = frozenset(entry["id"] for entry in models if entry.get("parent"))
        return ServerModels(bases, adapters, lengths)

    async def tokenize(self, model: str, text: str) -> list[int] | None:
        """Returns the server's token ids of a text, without special ones; None if it cannot."""
        bodies: tuple[Json, ...] = (
            {"model": model, "prompt": text, "add_special_tokens": False},  # vLLM's fields
            {"content": text, "add_special": False},  # llama.cpp's, which finds no text in those
        )
        for body in bodies:
            try:
                content = await self._request("POST", f"{self._root}/tokenize", body)
            except (RequestError, EngineError):
                continue
            tokens = content.get("tokens")
            if tokens and isinstance(tokens, list) and all(isinstance(t, int) for t in tokens):
                return tokens
        return None

    async def accepts_token_ids(self, model: str, ids: Sequence[int]) -> bool:
        """Whether the server accepts token ids as prompt; tries a completion of one token."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0}
        try:
            await self._request("POST", f"{self._url}/completions", body)
        except RequestError:
            return False
        return True

    async def can_load_adapters(self) -> bool:
        """Whether the server loads adapters at run time."""
        async with self._open("POST", f"{self._url}/load_lora_adapter", {}) as response:
            await response.aread()
            return response.status_code not in (404, 405)

    async def load_adapter(self, name: str, path: str, affinity: str = "") -> None:
        """Loads an adapter on the server from a folder that it can read, unless it has one of that
        name.

        Raises: as every request; with the server's message if it cannot load it.
        """
        body = {"lora_name": name, "lora_path": path}
        url = f"{self._url}/load_lora_adapter"
        headers = _session_header(affinity)
        async with self._open("POST", url, body, LOAD_SECONDS, headers) as response:
            message = _error_message(await response.aread())
            if "already been loaded" not in message:
                _check_status(response, message)

    async def unload_adapter(self, name: str) -> None:
        """Unloads an adapter on the server; an unknown name is no error."""
        url = f"{self._url}/unload_lora_adapter"
        async with self._open("POST", url, {"lora_name": name}) as response:
            await response.aread()

    @asynccontextmanager
    async def completion(
        self, body: Json, affinity: str = ""
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """Yields the chunks of a text completion. Leaving the context closes the connection, which
        ends the reply on the server.

        Args:
            body: of the HTTP request.
            affinity: the same for requests with the same beginning; a router in front of several
                servers sends them to the same one.
        """
        url = f"{self._url}/completions"
        headers = _session_header(affinity)
        async with self._open("POST", url, body, STREAM_SECONDS, headers) as response:
            if response.status_code != httpx.codes.OK:
                _check_status(response, _error_message(await response.aread()))
            yield self._chunks(response)

    async def _chunks(self, response: httpx.Response) -> AsyncIterator[Json]:
        try:
            async for line in response.aiter_lines():
                if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
                    yield _chunk(data)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _request(self, method: str, url: str, body: Json | None = None) -> Json:
        async with self._open(method, url, body) as response:
            content = await response.aread()
            _check_status(response, _error_message(content))
        try:
            parsed = json.loads(content)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict):
            raise EngineError("model_server_answer_invalid")
        return parsed

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        url: str,
        body: Json | None = None,
        seconds: float = RESPONSE_SECONDS,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        request = self._http.build_request(method, url, json=body, headers=headers, timeout=timeout)
        try:
            response = await self._send(request)
            try:
                yield response
            finally:
                await response.aclose()
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _send(self, request: httpx.Request) -> httpx.Response:
        """Sends a request; once more if it was lost on an idle connection, which the server has
        closed at that moment. On a new connection the loss has another reason."""
        is_new = False

        async def trace(event: str, _: Mapping[str, Any]) -> None:
            nonlocal is_new
            is_new = is_new or event == "connection.connect_tcp.started"

        request.extensions["trace"] = trace
        for _ in range(MAX_IDLE):
            try:
                return await self._http.send(request, stream=True)
            except (httpx.ReadError, httpx.WriteError, httpx.RemoteProtocolError):
                if is_new:
                    raise
        return await self._http.send(request, stream=True)

    def _unreachable(self, error: httpx.HTTPError) -> NotReadyError:
        reason = str(error).partition("\n")[0] or type(error).__name__
        return NotReadyError("model_server_unreachable", reason=reason)


def _session_header(affinity: str) -> dict[str, str]:
    """Returns the header that a router in front of several servers reads.

    An API client may choose any text as affinity, so characters that a header cannot have are
    replaced.
    """
    safe = "".join(c if c.isascii() and c.isprintable() else f"{ord(c):x}" for c in affinity)
    return {"X-Session-Id": safe.strip()} if safe.strip() else {}


def _check_status(response: httpx.Response, message: str) -> None:
    """Raises the error for a response's status, if it is an error status."""
    status = response.status_code
    if status < httpx.codes.BAD_REQUEST:
        return
    raise _status_error(status, message, response.headers.get("retry-after", ""))


def _status_error(status: int, message: str, retry_after: str) -> LinlyError:
    if status == httpx.codes.TOO_MANY_REQUESTS:
        seconds = float(retry_after) if retry_after.isdecimal() else 5.0
        return BusyError("model_server_busy", seconds=seconds, retry_after=seconds)
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return EngineError("model_server_key_refused")
    if status in (502, 503, 504):
        return NotReadyError("model_server_not_ready")
    if status == httpx.codes.NOT_FOUND:
        return UnknownOnServerError("model_server_unknown", reason=message)
    if status < httpx.codes.INTERNAL_SERVER_ERROR:
        return RequestError("model_server_refused", reason=message)
    return EngineError("model_server_failed", reason=message)


def _error_message(content: bytes) -> str:
    """Returns the error message of a response, in any of the formats that servers use."""
    text = content.decode("utf-8", "replace")
    try:
        error: Any = json.loads(text)
    except ValueError:
        error = text
    while isinstance(error, dict):
        error = next((error[name] for name in ("error", "message", "detail") if name in error), "")
    return str(error).strip().partition("\n")[0][:MAX_SERVER_MESSAGE] or "it gives no reason"


def _chunk(data: str) -> Json:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise EngineError("model_server_stream_invalid") from error
    if not isinstance(chunk, dict) or chunk.get("error"):
        raise EngineError("model_server_failed", reason=_error_message(data.encode()))
    return chunk


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
