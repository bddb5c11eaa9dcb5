"""The server's side of the line: what it is asked over HTTP, and what its answers mean here."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

import httpx

from model.types import BusyError, EngineError, LinlyError, NotReadyError, RequestError

CONNECT_SECONDS = 5.0
ANSWER_SECONDS = 15.0  # to a question that takes no model
LOAD_SECONDS = 300.0  # for a large adapter on a slow disk
SILENT_SECONDS = 600.0  # within a reply; a queue may be long, and a prompt too
# For which a connection is used again. vLLM closes one after 5, and a question that is on its way
# then is lost: it would look as if the server could not be reached.
KEPT_SECONDS = 2.0
MAX_SERVER_MESSAGE = 300  # characters of a server's words that are passed on

Json = dict[str, Any]


@dataclass(frozen=True)
class ServerModels:
    """What a server lists: its models that are no adapters, its adapters, and how long a prompt
    and its reply may be together, where it tells."""

    bases: tuple[str, ...]
    adapters: frozenset[str]
    longest: Mapping[str, int] = field(default_factory=dict)


class UnknownThereError(RequestError):
    """The server knows no model of that name."""

    http_status = 404
    code = "model_not_found"


class OpenAIClient:
    """Asks the server at `url`, which ends where its API begins (…/v1). For one event loop.

    Raises (from every question):
        NotReadyError: it cannot be reached, or is not ready.
        BusyError: it has too much to do.
        RequestError: it refuses what was asked.
        EngineError: something is wrong there.
    """

    def __init__(self, url: str, key: str | None) -> None:
        self.place = urlsplit(url).netloc
        self._url = url
        self._root = url.removesuffix("/v1")
        self._http = httpx.AsyncClient(
            headers={"Authorization": f"Bearer {key}"} if key else {},
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(
                max_connections=None,
                max_keepalive_connections=100,
                keepalive_expiry=KEPT_SECONDS,
            ),
            follow_redirects=False,
        )

    async def close(self) -> None:
        await self._http.aclose()

    async def models(self) -> ServerModels:
        """What it serves now."""
        answer = await self._ask("GET", f"{self._url}/models")
        entries = answer.get("data")
        if not isinstance(entries, list):
            raise EngineError("model_server_models_invalid")
        known = [e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str)]
        longest = {e["id"]: e["max_model_len"] for e in known if _is_size(e.get("max_model_len"))}
        bases = tuple(entry["id"] for entry in known if not entry.get("parent"))
        adapters = frozenset(entry["id"] for entry in known if entry.get("parent"))
        return ServerModels(bases, adapters, longest)

    async def tokens(self, model: str, text: str) -> list[int] | None:
        """How it cuts a text into ids, without any that it adds; None if it does not tell."""
        bodies: tuple[Json, ...] = (
            {"model": model, "prompt": text, "add_special_tokens": False},  # vLLM's words
            {"content": text, "add_special": False},  # llama.cpp's, which finds no text in those
        )
        for body in bodies:
            try:
                answer = await self._ask("POST", f"{self._root}/tokenize", body)
            except (RequestError, EngineError):
                continue
            tokens = answer.get("tokens")
            if tokens and isinstance(tokens, list) and all(isinstance(t, int) for t in tokens):
                return tokens
        return None

    async def accepts_token_ids(self, model: str, ids: Sequence[int]) -> bool:
        """Whether it takes a prompt as token ids: tried with one token to say."""
        body = {"model": model, "prompt": list(ids), "max_tokens": 1, "temperature": 0}
        try:
            await self._ask("POST", f"{self._url}/completions", body)
        except RequestError:
            return False
        return True

    async def loads_adapters(self) -> bool:
        """Whether it reads adapters at run time."""
        async with self._opened("POST", f"{self._url}/load_lora_adapter", {}) as response:
            await response.aread()
            return response.status_code not in (404, 405)

    async def load_adapter(self, name: str, path: str, affinity: str = "") -> None:
        """Have it read an adapter from a folder that it can reach, unless it has one of that name.

        Raises: as every question; with its words if it cannot read it.
        """
        body = {"lora_name": name, "lora_path": path}
        url = f"{self._url}/load_lora_adapter"
        headers = _session(affinity)
        async with self._opened("POST", url, body, LOAD_SECONDS, headers) as response:
            said = _words(await response.aread())
            if "already been loaded" not in said:
                _check(response, said)

    async def unload_adapter(self, name: str) -> None:
        """Have it forget an adapter; one that it does not know is no error."""
        url = f"{self._url}/unload_lora_adapter"
        async with self._opened("POST", url, {"lora_name": name}) as response:
            await response.aread()

    @asynccontextmanager
    async def completion(
        self, body: Json, affinity: str = ""
    ) -> AsyncIterator[AsyncIterator[Json]]:
        """A text completion's chunks as they come; leaving it hangs up, which ends the reply there.

        Args:
            affinity: what requests have in common that begin alike, for a router before several
                servers.
        """
        url = f"{self._url}/completions"
        headers = _session(affinity)
        async with self._opened("POST", url, body, SILENT_SECONDS, headers) as response:
            if response.status_code != httpx.codes.OK:
                _check(response, _words(await response.aread()))
            yield self._chunks(response)

    async def _chunks(self, response: httpx.Response) -> AsyncIterator[Json]:
        try:
            async for line in response.aiter_lines():
                if line.startswith("data:") and (data := line[5:].strip()) != "[DONE]":
                    yield _chunk(data)
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    async def _ask(self, method: str, url: str, body: Json | None = None) -> Json:
        async with self._opened(method, url, body) as response:
            content = await response.aread()
            _check(response, _words(content))
        try:
            answer = json.loads(content)
        except ValueError:
            answer = None
        if not isinstance(answer, dict):
            raise EngineError("model_server_answer_invalid")
        return answer

    @asynccontextmanager
    async def _opened(
        self,
        method: str,
        url: str,
        body: Json | None = None,
        seconds: float = ANSWER_SECONDS,
        headers: Mapping[str, str] | None = None,
    ) -> AsyncIterator[httpx.Response]:
        timeout = httpx.Timeout(seconds, connect=CONNECT_SECONDS)
        try:
            async with self._http.stream(
                method, url, json=body, headers=headers, timeout=timeout
            ) as response:
                yield response
        except httpx.HTTPError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: httpx.HTTPError) -> NotReadyError:
        said = str(error).partition("\n")[0] or type(error).__name__
        return NotReadyError("model_server_unreachable", reason=said)


def _session(affinity: str) -> dict[str, str]:
    """What a router before several servers goes by. Of an API's client it may be anything."""
    safe = "".join(c if c.isascii() and c.isprintable() else f"{ord(c):x}" for c in affinity)
    return {"X-Session-Id": safe.strip()} if safe.strip() else {}


def _check(response: httpx.Response, said: str) -> None:
    """Raise what an answer's status means here."""
    status = response.status_code
    if status < httpx.codes.BAD_REQUEST:
        return
    raise _refusal(status, said, response.headers.get("retry-after", ""))


def _refusal(status: int, said: str, retry_after: str) -> LinlyError:
    if status == httpx.codes.TOO_MANY_REQUESTS:
        seconds = float(retry_after) if retry_after.isdecimal() else 5.0
        return BusyError(
            "model_server_busy",
            seconds=seconds,
            retry_after=seconds,
        )
    if status in (httpx.codes.UNAUTHORIZED, httpx.codes.FORBIDDEN):
        return EngineError(
            "model_server_key_refused",
        )
    if status in (502, 503, 504):
        return NotReadyError("model_server_not_ready")
    if status == httpx.codes.NOT_FOUND:
        return UnknownThereError("model_server_unknown", reason=said)
    if status < httpx.codes.INTERNAL_SERVER_ERROR:
        return RequestError("model_server_refused", reason=said)
    return EngineError("model_server_failed", reason=said)


def _words(content: bytes) -> str:
    """A server's own sentence, out of whatever form its error has."""
    text = content.decode("utf-8", "replace")
    try:
        told: Any = json.loads(text)
    except ValueError:
        told = text
    while isinstance(told, dict):
        told = next((told[name] for name in ("error", "message", "detail") if name in told), "")
    return str(told).strip().partition("\n")[0][:MAX_SERVER_MESSAGE] or "it gives no reason"


def _chunk(data: str) -> Json:
    try:
        chunk = json.loads(data)
    except ValueError as error:
        raise EngineError("model_server_stream_invalid") from error
    if not isinstance(chunk, dict) or chunk.get("error"):
        raise EngineError("model_server_failed", reason=_words(data.encode()))
    return chunk


def _is_size(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0
