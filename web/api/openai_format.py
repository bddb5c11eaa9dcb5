"""Deltas as OpenAI's responses: whole ones, and chunks of a stream."""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from model.errors import EngineError, NotReadyError
from model.text.detokenizer import REPLACEMENT
from model.translations import LocalizedText
from model.types import Delta, FinishReason, Stats, TokenLogprob

Json = dict[str, Any]

MARK = "\uffff"  # no character, and so in no model's name
DONE = b"data: [DONE]\n\n"
# A comment, which readers of streams skip: says that somebody is there, in front of each proxy.
ALIVE = b": still at it\n\n"
ENDING = "The program is shutting down"


class ResponseFormatter(ABC):
    """Writes one response in OpenAI's words. Subclasses know chat or text completions.

    Args:
        request_id: what the response is known by.
        model: the name that was asked for.
        with_usage: whether a stream's chunks have the field `usage`, null but for the last.
        n: choices for each prompt.
        leads: for each choice, text that stands before what the model says.
    """

    kind: str
    chunk_kind: str
    prefix: str

    def __init__(
        self,
        request_id: str,
        model: str,
        with_usage: bool = False,
        n: int = 1,
        leads: Sequence[str] = (),
    ) -> None:
        self._head = {"id": self.prefix + request_id, "created": int(time.time()), "model": model}
        self._with_usage = with_usage
        self._n = n
        self._leads = leads
        self._frames: dict[int, tuple[bytes, bytes]] = {}
        self._written: Counter[int] = Counter()  # letters of the tokens told, by choice

    def whole(self, replies: Sequence[Sequence[Delta]]) -> Json:
        """The response to a request that does not stream, from the Deltas of each choice.

        Raises:
            NotReadyError: the program is ending.
            EngineError: a choice has failed.
        """
        for last in (deltas[-1] for deltas in replies):
            if last.finish_reason is FinishReason.ABORT:
                raise NotReadyError(last.error or "shutting_down")
            if last.error:
                raise EngineError(last.error)
        choices = [self._whole_choice(index, deltas) for index, deltas in enumerate(replies)]
        told = usage([deltas[-1].stats for deltas in replies], self._n)
        return {**self._head, "object": self.kind, "choices": choices, "usage": told}

    def opening(self, choices: int) -> bytes:
        """What a stream begins with."""
        return b"".join(map(self._opening_of, range(choices)))

    def events(self, index: int, deltas: Iterable[Delta]) -> bytes:
        """Their events in a stream, one for each that says something."""
        return b"".join(self._event_of(index, delta) for delta in deltas)

    def closing(self, stats: Sequence[Stats | None]) -> bytes:
        """What a stream ends with."""
        if not self._with_usage:
            return DONE
        return self._chunk([], usage(stats, self._n)) + DONE

    def _whole_choice(self, index: int, deltas: Sequence[Delta]) -> Json:
        text = self._lead(index) + "".join(delta.text for delta in deltas)
        logprobs = [entry for delta in deltas for entry in delta.logprobs]
        asked = any(delta.logprobs for delta in deltas)
        return {
            "index": index, **self._said(text),
            "logprobs": self._logprobs(index, logprobs) if asked else None,
            "finish_reason": deltas[-1].finish_reason,
        }  # fmt: skip

    def _event_of(self, index: int, delta: Delta) -> bytes:
        if delta.error or delta.finish_reason is FinishReason.ABORT:
            # An abort that somebody is there to read was not the reader's own: a shutdown.
            return failure(str(delta.error or LocalizedText("shutting_down")))
        if delta.finish_reason or delta.logprobs:
            return self._chunk([self._chunk_choice(index, delta)])
        before, after = self._frame(index)
        return before + _json(delta.text) + after if delta.text else b""

    def _frame(self, index: int) -> tuple[bytes, bytes]:
        """What stands before and behind the text of a choice's chunks: the same for each token."""
        if index not in self._frames:
            whole = self._chunk([self._chunk_choice(index, Delta(MARK))])
            before, after = whole.split(_json(MARK))
            self._frames[index] = before, after
        return self._frames[index]

    def _chunk_choice(self, index: int, delta: Delta) -> Json:
        return {
            "index": index, **self._added(delta.text),
            "logprobs": self._logprobs(index, delta.logprobs) if delta.logprobs else None,
            "finish_reason": delta.finish_reason,
        }  # fmt: skip

    def _chunk(self, choices: list[Json], told: Json | None = None) -> bytes:
        chunk = {**self._head, "object": self.chunk_kind, "choices": choices}
        return _event({**chunk, "usage": told} if self._with_usage else chunk)

    def _lead(self, index: int) -> str:
        return self._leads[index] if self._leads else ""

    @abstractmethod
    def _opening_of(self, index: int) -> bytes:
        """What a choice begins with."""

    @abstractmethod
    def _said(self, text: str) -> Json:
        """A choice's text."""

    @abstractmethod
    def _added(self, text: str) -> Json:
        """A piece of it."""

    @abstractmethod
    def _logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> Json: ...


class ChatWriter(ResponseFormatter):
    """`chat.completion` and its chunks."""

    kind = "chat.completion"
    chunk_kind = "chat.completion.chunk"
    prefix = "chatcmpl-"

    def _opening_of(self, index: int) -> bytes:
        first = {"role": "assistant", "content": self._lead(index)}
        return self._chunk([{"index": index, "delta": first, "finish_reason": None}])

    def _said(self, text: str) -> Json:
        return {"message": {"role": "assistant", "content": text, "refusal": None}}

    def _added(self, text: str) -> Json:
        return {"delta": {"content": text} if text else {}}

    def _logprobs(self, _: int, entries: Sequence[TokenLogprob]) -> Json:
        return {"content": [_chat_logprob(entry) for entry in entries], "refusal": None}


class TextWriter(ResponseFormatter):
    """`text_completion`, whole and in chunks."""

    kind = chunk_kind = "text_completion"
    prefix = "cmpl-"

    def _opening_of(self, index: int) -> bytes:
        lead = self._lead(index)
        return self._chunk([self._chunk_choice(index, Delta(lead))]) if lead else b""

    def _said(self, text: str) -> Json:
        return {"text": text}

    _added = _said

    def _logprobs(self, index: int, entries: Sequence[TokenLogprob]) -> Json:
        offsets = []
        for entry in entries:
            offsets.append(self._written[index])
            self._written[index] += len(entry.token)
        return {
            "tokens": [entry.token for entry in entries],
            "token_logprobs": [entry.logprob for entry in entries],
            "top_logprobs": [{other.token: other.logprob for other in e.top} for e in entries],
            "text_offset": offsets,
        }


def failure(sentence: str) -> bytes:
    """The event with which a stream tells that it cannot go on."""
    told = {"message": sentence, "type": "server_error", "param": None, "code": None}
    return _event({"error": told})


def usage(stats: Sequence[Stats | None], n: int = 1) -> Json:
    """Token counts in OpenAI's words, over all choices; each prompt counts once for its `n`."""
    prompts = [one for one in stats[::n] if one]
    prompt = sum(one.prompt_tokens for one in prompts)
    completion = sum(one.completion_tokens for one in stats if one)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
        "prompt_tokens_details": {"cached_tokens": sum(one.cached_tokens for one in prompts)},
    }


def _event(data: Json) -> bytes:
    """A server-sent event."""
    return b"data: " + _json(data) + b"\n\n"


def _json(data: object) -> bytes:
    return json.dumps(data, ensure_ascii=False).encode()


def _chat_logprob(entry: TokenLogprob) -> Json:
    return {**_token(entry), "top_logprobs": [_token(other) for other in entry.top]}


def _token(entry: TokenLogprob) -> Json:
    torn = REPLACEMENT in entry.token  # a part of a character: its bytes are not known here
    encoded = None if torn else list(entry.token.encode())
    return {"token": entry.token, "logprob": entry.logprob, "bytes": encoded}
