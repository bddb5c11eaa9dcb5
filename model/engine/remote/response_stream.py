"""One reply as a server streams it, turned into Deltas: the counterpart of `engine.sequence`."""

from __future__ import annotations

import secrets
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from model.engine.stop_strings import StopStrings
from model.translations import LocalizedText
from model.types import (
    Delta,
    Emit,
    EngineRequest,
    FinishReason,
    LinlyError,
    Stats,
    TokenLogprob,
)

Json = dict[str, Any]

MAX_STOPS = 16  # that a server is told of; all are looked for here
REASONS = {"length": FinishReason.LENGTH}  # whatever else ends a reply by itself is a stop


class ResponseStream:
    """What has come of a request so far. Only the engine's loop touches it.

    Where the server tells token ids, their text is made here, as with the local engine; else its
    own text is taken, which has whole characters only.
    """

    def __init__(self, request: EngineRequest, emit: Emit) -> None:
        self.request = request
        self.reason: FinishReason | None = None
        self.begun = False  # to be asked for
        self.cancelled = False
        self.taken = False  # by the server
        self.spoke = False  # its first token is there
        self.cut = False  # by a stop string that is ours: the server would go on
        self._emit = emit
        self._stops = StopStrings(request.sampling.stop, request.so_far)
        self._submitted = self._first_token = time.perf_counter()
        self._tokens = 0
        self._usage: Json = {}
        self._refusal: LinlyError | None = None
        self._error: LocalizedText | None = None
        drawn = secrets.randbits(32) if request.sampling.seed is None else request.sampling.seed
        self._seed = drawn

    def body(self, model: str) -> Json:
        """What a server is asked for, in OpenAI's words and vLLM's."""
        request, wishes = self.request, self.request.sampling
        body: Json = {
            "model": model,
            "prompt": request.prompt_text or list(request.prompt_ids),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "max_tokens": wishes.max_tokens,
            "temperature": wishes.temperature,
            "seed": self._seed,
            "stop": [stop for stop in wishes.stop if _encodable(stop)][:MAX_STOPS],
        }
        if request.eos_ids and not wishes.ignore_eos:
            body["stop_token_ids"] = sorted(request.eos_ids)
        if wishes.logprobs is not None:
            body["logprobs"] = wishes.logprobs
        if wishes.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in wishes.logit_bias}
        # Servers that are no vLLM may not know all of these: they are sent where they matter.
        off = {"top_p": 1.0, "top_k": 0, "min_p": 0.0, "repetition_penalty": 1.0, "min_tokens": 0,
               "ignore_eos": False, "presence_penalty": 0.0, "frequency_penalty": 0.0}  # fmt: skip
        return body | {n: getattr(wishes, n) for n, v in off.items() if getattr(wishes, n) != v}

    def on_chunk(self, chunk: Json) -> None:
        """What the server says next; afterwards `reason` tells whether that was all."""
        usage, choices = chunk.get("usage"), chunk.get("choices")
        self._usage = usage if isinstance(usage, dict) else self._usage
        if isinstance(choices, list) and choices and self.reason is None:
            self._say(choices[0])

    def _say(self, choice: Json) -> None:
        ids, ended = choice.get("token_ids"), choice.get("finish_reason")
        if not self.spoke and (ids or choice.get("text") or ended):
            self.spoke, self._first_token = True, time.perf_counter()
        shown, stopped = self._stops.push(self._text(ids, choice.get("text")))
        logprobs = self._logprobs(choice.get("logprobs"), ids)
        if shown or logprobs:
            self._emit(Delta(shown, logprobs=logprobs))
        if stopped:
            self.reason, self.cut = FinishReason.STOP, not ended
        elif ended:
            self._end(REASONS.get(str(ended), FinishReason.STOP))

    def _text(self, ids: object, text: object) -> str:
        """By the ids, where the server tells them; else as it has written them."""
        if isinstance(ids, list):
            self._tokens += len(ids)
            push, eos = self.request.detokenizer.push, self.request.eos_ids
            return "".join(push(token) for token in ids if token not in eos)
        self._tokens += bool(text)
        return text if isinstance(text, str) else ""

    def _logprobs(self, told: object, ids: object) -> tuple[TokenLogprob, ...]:
        """A choice's logprobs, but for that of the end token. Tokens are named as here, where
        their ids are known: vLLM has no name for a part of a character."""
        entries = _read_logprobs(told, self.request.sampling.logprobs)
        if not isinstance(ids, list) or len(ids) != len(entries):
            return entries
        piece, eos = self.request.detokenizer.token_text, self.request.eos_ids
        pairs = zip(entries, ids, strict=True)
        return tuple(replace(one, token=piece(token)) for one, token in pairs if token not in eos)

    def skip(self) -> None:
        """It asks for no text."""
        self._end(FinishReason.STOP)
        self.emit_final()

    def abort(self) -> None:
        """It was ended from here."""
        self._end(FinishReason.ABORT)

    def on_connection_lost(self, error: LinlyError) -> None:
        """The line is down: as if it had never been asked, unless the server took it."""
        if self.taken:
            self.interrupt(error)
        else:
            self.on_error(error)

    def interrupt(self, error: LinlyError) -> None:
        """The server has gone: an end that nobody asked for."""
        self._end(FinishReason.ABORT, error=error.text)

    def on_error(self, error: LinlyError) -> None:
        """The server did not take it, or failed on the way."""
        self._end(FinishReason.ERROR, None if self.taken else error, error.text)

    def _end(
        self,
        reason: FinishReason,
        refusal: LinlyError | None = None,
        error: LocalizedText | None = None,
    ) -> None:
        """For this reason, unless it has ended already, with whatever text is still held back."""
        if self.reason is not None:
            return
        self.reason, self._refusal, self._error = reason, refusal, error
        rest, _ = self._stops.push(self.request.detokenizer.flush())
        rest += self._stops.flush()
        if rest:
            self._emit(Delta(rest))

    def emit_final(self) -> None:
        """Tell the end, now that the server has said how many tokens it took. Once."""
        self.abort()  # if nothing else has ended it
        self._emit(Delta("", self.reason, self._stats(), error=self._error, refusal=self._refusal))

    def _stats(self) -> Stats:
        counts, details = self._usage, self._usage.get("prompt_tokens_details")
        cached = details.get("cached_tokens") if isinstance(details, dict) else 0
        return Stats(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=max(counts.get("completion_tokens") or 0, self._tokens),
            first_token_seconds=self._first_token - self._submitted,
            decode_seconds=time.perf_counter() - self._first_token,
            seed=self._seed,
            cached_tokens=cached or 0,
        )


def _encodable(text: str) -> bool:
    """Half of a character can stand in JSON, and in no reply."""
    return text == text.encode("utf-8", "replace").decode()


def _read_logprobs(told: object, count: int | None) -> tuple[TokenLogprob, ...]:
    """A choice's logprobs, `count` of the likeliest: vLLM puts the chosen one among them."""
    if count is None or not isinstance(told, dict):
        return ()
    if isinstance(told.get("content"), list):  # as chats have them: llama.cpp's way
        return tuple(_read_entry(entry, count) for entry in told["content"])
    tokens, values = told.get("tokens") or (), told.get("token_logprobs") or ()
    tops = told.get("top_logprobs") or [{}] * len(tokens)
    return tuple(
        TokenLogprob(token, value, _likeliest(top or {}, count))
        for token, value, top in zip(tokens, values, tops, strict=False)
    )


def _read_entry(entry: Json, count: int) -> TokenLogprob:
    top = tuple(_read_entry(one, 0) for one in (entry.get("top_logprobs") or ())[:count])
    return TokenLogprob(entry["token"], entry["logprob"], top)


def _likeliest(top: Mapping[str, float], count: int) -> tuple[TokenLogprob, ...]:
    ranked = sorted(top.items(), key=lambda pair: pair[1], reverse=True)
    return tuple(TokenLogprob(token, value) for token, value in ranked[:count])
