"""Deltas as OpenAI's responses: whole ones, and chunks of a stream."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Iterable
from functools import cached_property
from typing import Any

from model.types import Delta, EngineError, FinishReason, NotReadyError, Stats, TokenLogprob

Json = dict[str, Any]

MARK = "\uffff"  # no character, and so in no model's name


class Writer(ABC):
    """Writes one reply in OpenAI's words. Subclasses know chat or text completions."""

    kind: str
    prefix: str

    def __init__(self, request_id: str, model: str) -> None:
        self._id = self.prefix + request_id
        self._model = model
        self._created = int(time.time())

    def whole(self, deltas: Iterable[Delta]) -> Json:
        """The response to a request that does not stream."""
        collected = list(deltas)
        last = collected[-1]
        if last.finish_reason is FinishReason.ABORT:
            raise NotReadyError("The program is shutting down")
        if last.error:
            raise EngineError(last.error)
        text = "".join(delta.text for delta in collected)
        logprobs = [entry for delta in collected for entry in delta.logprobs]
        choice = self._choice(text, logprobs, last.finish_reason)
        return {**self._head(self.kind), "choices": [choice], "usage": usage(last.stats)}

    def opening(self) -> bytes:
        """What a stream begins with."""
        return b""

    def events(self, deltas: Iterable[Delta]) -> bytes:
        """Their events in a stream, one for each that says something."""
        return b"".join(map(self._event_of, deltas))

    def closing(self, stats: Stats | None) -> bytes:
        """What a stream ends with: `stats`, where `stream_options.include_usage` asks for them."""
        end = b"data: [DONE]\n\n"
        if stats is None:
            return end
        told = {**self._head(self._chunk_kind()), "choices": [], "usage": usage(stats)}
        return _event(told) + end

    def _event_of(self, delta: Delta) -> bytes:
        if delta.error or delta.finish_reason is FinishReason.ABORT:
            # An abort that somebody is there to read was not the reader's own: a shutdown.
            message = delta.error or "The program is shutting down"
            return _event({"error": {"message": message, "type": "server_error", "code": None}})
        if delta.finish_reason or delta.logprobs:
            return self._chunk(delta)
        return self._around[0] + _json(delta.text) + self._around[1] if delta.text else b""

    def _chunk(self, delta: Delta) -> bytes:
        return _event({**self._head(self._chunk_kind()), "choices": [self._chunk_choice(delta)]})

    @cached_property
    def _around(self) -> tuple[bytes, bytes]:
        """What stands before and behind the text of a chunk: the same for each token."""
        before, after = self._chunk(Delta(MARK)).split(_json(MARK))
        return before, after

    def _head(self, kind: str) -> Json:
        return {"id": self._id, "object": kind, "created": self._created, "model": self._model}

    def _chunk_kind(self) -> str:
        return self.kind

    @abstractmethod
    def _choice(
        self, text: str, logprobs: list[TokenLogprob], reason: FinishReason | None
    ) -> Json: ...

    @abstractmethod
    def _chunk_choice(self, delta: Delta) -> Json: ...


class ChatWriter(Writer):
    """`chat.completion` and its chunks."""

    kind = "chat.completion"
    prefix = "chatcmpl-"

    def opening(self) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}
        return _event({**self._head(self._chunk_kind()), "choices": [choice]})

    def _chunk_kind(self) -> str:
        return "chat.completion.chunk"

    def _choice(self, text: str, logprobs: list[TokenLogprob], reason: FinishReason | None) -> Json:
        message = {"role": "assistant", "content": text}
        content = {"content": [_chat_logprob(entry) for entry in logprobs]} if logprobs else None
        return {
            "index": 0, "message": message, "logprobs": content, "finish_reason": reason,
        }  # fmt: skip

    def _chunk_choice(self, delta: Delta) -> Json:
        choice: Json = {
            "index": 0,
            "delta": {"content": delta.text} if delta.text else {},
            "finish_reason": delta.finish_reason,
        }
        if delta.logprobs:
            choice["logprobs"] = {"content": [_chat_logprob(entry) for entry in delta.logprobs]}
        return choice


class TextWriter(Writer):
    """`text_completion`, whole and in chunks."""

    kind = "text_completion"
    prefix = "cmpl-"

    def _choice(self, text: str, logprobs: list[TokenLogprob], reason: FinishReason | None) -> Json:
        return {
            "index": 0, "text": text, "logprobs": _text_logprobs(logprobs),
            "finish_reason": reason,
        }  # fmt: skip

    def _chunk_choice(self, delta: Delta) -> Json:
        return self._choice(delta.text, list(delta.logprobs), delta.finish_reason)


def _event(data: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + _json(data) + b"\n\n"


def _json(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def usage(stats: Stats | None) -> Json:
    """Token counts in OpenAI's words."""
    prompt = stats.prompt_tokens if stats else 0
    completion = stats.completion_tokens if stats else 0
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": stats.cached_tokens if stats else 0},
    }


def _chat_logprob(entry: TokenLogprob) -> Json:
    return {**_token(entry), "top_logprobs": [_token(other) for other in entry.top]}


def _token(entry: TokenLogprob) -> Json:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.token.encode())}


def _text_logprobs(entries: list[TokenLogprob]) -> Json | None:
    if not entries:
        return None
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [entry.logprob for entry in entries],
        "top_logprobs": [{other.token: other.logprob for other in e.top} for e in entries],
    }
