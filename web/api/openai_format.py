"""Formats Deltas as OpenAI's responses: complete ones, and the events of a stream."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from model.errors import EngineError, NotReadyError
from model.translations import LocalizedText
from model.types import Delta, FinishReason, Stats, TokenLogprob

Json = dict[str, Any]

PLACEHOLDER = "\uffff"  # for a chunk's text; a noncharacter, which no model's name contains
DONE = b"data: [DONE]\n\n"
# A comment, which clients skip; it keeps proxies from closing a stream that has no text yet.
KEEP_ALIVE = b": still at it\n\n"


@dataclass(frozen=True)
class ResponseFormat:
    """What the request says about its response.

    `model` is the name in the request. `fingerprint` returns that of the model and its settings,
    when the first text is there: by then the adapter's files have been read. `n` counts the choices
    for each prompt. With `with_usage` a stream's chunks have the field `usage`, null except in the
    last. With `with_logprobs` each choice has the object `logprobs`, also for no tokens.
    """

    model: str
    fingerprint: Callable[[], str]
    n: int = 1
    with_usage: bool = False
    with_logprobs: bool = False


class ResponseFormatter(ABC):
    """Formats one response. The subclasses are for chat and for text completions.

    Args:
        request_id: the response's id, without its prefix.
        response_format: what the request says about it.
        echoes: for each choice, the prompt that comes before its text.
    """

    kind: str
    chunk_kind: str
    id_prefix: str

    def __init__(
        self, request_id: str, response_format: ResponseFormat, echoes: Sequence[str] = ()
    ) -> None:
        self._id = self.id_prefix + request_id
        self._created = int(time.time())
        self._format = response_format
        self._echoes = echoes
        self._frames: dict[int, tuple[bytes, bytes]] = {}

    @cached_property
    def _head(self) -> Json:
        return {
            "id": self._id, "created": self._created, "model": self._format.model,
            "system_fingerprint": self._format.fingerprint(),
        }  # fmt: skip

    def response(self, replies: Sequence[Sequence[Delta]]) -> Json:
        """Returns the response to a request that does not stream, from the Deltas of each choice.

        Raises:
            NotReadyError: the program is shutting down.
            EngineError: a choice has failed.
        """
        for last in (deltas[-1] for deltas in replies):
            if last.finish_reason is FinishReason.ABORT:
                raise NotReadyError(last.error or "shutting_down")
            if last.error:
                raise EngineError(last.error)
        choices = [self._choice(index, deltas) for index, deltas in enumerate(replies)]
        token_usage = usage([deltas[-1].stats for deltas in replies], self._format.n)
        return {**self._head, "object": self.kind, "choices": choices, "usage": token_usage}

    def opening(self, choices: int) -> bytes:
        """Returns the events at the start of a stream."""
        return b"".join(map(self._first_event, range(choices)))

    def events(self, index: int, deltas: Iterable[Delta]) -> bytes:
        """Returns the events of a choice's Deltas, one for each that is not empty."""
        return b"".join(self._event(index, delta) for delta in deltas)

    def closing(self, stats: Sequence[Stats | None]) -> bytes:
        """Returns the events at the end of a stream."""
        if not self._format.with_usage:
            return DONE
        return self._chunk([], usage(stats, self._format.n)) + DONE

    def _choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        text = self._echo(index) + "".join(delta.text for delta in deltas)
        logprobs = [entry for delta in deltas for entry in delta.logprobs]
        return {
            "index": index, **self._text_field(text),
            "logprobs": self._logprobs(logprobs) if self._format.with_logprobs else None,
            "finish_reason": deltas[-1].finish_reason,
        }  # fmt: skip

    def _event(self, index: int, delta: Delta) -> bytes:
        if delta.error or delta.finish_reason is FinishReason.ABORT:
            # The client is still reading, so it did not abort the reply: the program shuts down.
            return error_event(str(delta.error or LocalizedText("shutting_down")))
        if delta.finish_reason or delta.logprobs:
            return self._chunk([self._chunk_choice(index, delta)])
        before, after = self._frame(index)
        return before + _json(delta.text) + after if delta.text else b""

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """Returns what precedes and follows the text in a choice's chunks, the same for each
        token."""
        if index not in self._frames:
            chunk = self._chunk([self._chunk_choice(index, Delta(PLACEHOLDER))])
            before, after = chunk.split(_json(PLACEHOLDER))
            self._frames[index] = before, after
        return self._frames[index]

    def _chunk_choice(self, index: int, delta: Delta) -> Json:
        return {
            "index": index, **self._delta_field(delta.text),
            "logprobs": self._logprobs(delta.logprobs) if self._format.with_logprobs else None,
            "finish_reason": delta.finish_reason,
        }  # fmt: skip

    def _chunk(self, choices: list[Json], token_usage: Json | None = None) -> bytes:
        chunk = {**self._head, "object": self.chunk_kind, "choices": choices}
        return _sse({**chunk, "usage": token_usage} if self._format.with_usage else chunk)

    def _echo(self, index: int) -> str:
        return self._echoes[index] if self._echoes else ""

    @abstractmethod
    def _first_event(self, index: int) -> bytes:
        """Returns the event that begins a choice."""

    @abstractmethod
    def _text_field(self, text: str) -> Json:
        """Returns the field with a choice's full text."""

    @abstractmethod
    def _delta_field(self, text: str) -> Json:
        """Returns the field with the text that a chunk adds."""

    @abstractmethod
    def _logprobs(self, entries: Sequence[TokenLogprob]) -> Json: ...


class ChatWriter(ResponseFormatter):
    """`chat.completion` and its chunks."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    id_prefix = "chatcmpl-"

    def _first_event(self, index: int) -> bytes:
        first = {"role": "assistant", "content": self._echo(index)}
        logprobs = self._logprobs(()) if self._format.with_logprobs else None
        choice = {"index": index, "delta": first, "logprobs": logprobs, "finish_reason": None}
        return self._chunk([choice])

    def _text_field(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _delta_field(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> Json:
        return {"content": [_chat_logprob(entry) for entry in entries], "refusal": None}


class TextWriter(ResponseFormatter):
    """`text_completion`, which is also the kind of its chunks."""

    kind = chunk_kind = "text_completion"
    id_prefix = "cmpl-"

    def _first_event(self, index: int) -> bytes:
        echo = self._echo(index)
        return self._chunk([self._chunk_choice(index, Delta(echo))]) if echo else b""

    def _text_field(self, text: str) -> Json:
        return {"text": text}

    _delta_field = _text_field

    def _logprobs(self, entries: Sequence[TokenLogprob]) -> Json:
        return {
            "tokens": [_name(entry) for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [_top_by_name(entry) for entry in entries],
            "text_offset": [entry.offset for entry in entries],
        }


def error_event(sentence: str) -> bytes:
    """Returns the event that ends a stream with an error."""
    error = {"message": sentence, "type": "server_error", "param": None, "code": None}
    return _sse({"error": error})


def usage(stats: Sequence[Stats | None], n: int = 1) -> Json:
    """Returns OpenAI's token counts over all choices; a prompt with `n` choices counts once."""
    prompts = [choice for choice in stats[::n] if choice]
    prompt = sum(choice.prompt_tokens for choice in prompts)
    completion = sum(choice.completion_tokens for choice in stats if choice)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(p.cached_tokens for p in prompts)},
    }


def _sse(data: Json) -> bytes:
    """Returns a server-sent event."""
    return b"data: " + _json(data) + b"\n\n"


def _json(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def _chat_logprob(entry: TokenLogprob) -> Json:
    return {**_token(entry), "top_logprobs": [_token(other) for other in entry.top]}


def _token(entry: TokenLogprob) -> Json:
    return {"token": entry.token, "logprob": entry.logprob, "bytes": list(entry.data)}


def _top_by_name(entry: TokenLogprob) -> dict[str, float]:
    """The likeliest tokens, and the chosen one, as at OpenAI, by names that are all different."""
    top: dict[str, float] = {}
    for other in (*entry.top, entry):
        name = _name(other)
        if name in top and top[name] != other.logprob:  # a byte that the vocabulary has as text too
            name = "bytes:" + "".join(f"\\x{byte:02x}" for byte in other.data)
        top.setdefault(name, other.logprob)
    return top


def _name(entry: TokenLogprob) -> str:
    """A token's text; of a part of a character its bytes, in OpenAI's form `bytes:\\xe4\\xb8`."""
    try:
        return entry.data.decode()
    except UnicodeDecodeError:
        return f"bytes:{entry.token}"
