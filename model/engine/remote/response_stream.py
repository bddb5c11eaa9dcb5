"""Turns the chunks of one streamed reply into Deltas: the counterpart of `engine.sequence`."""

from __future__ import annotations

import re
import secrets
import time
from codecs import getincrementaldecoder
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import accumulate
from typing import Any

from model.engine.stop_strings import StopStrings
from model.engine.token_offset import token_offset
from model.errors import LinlyError, RequestError
from model.sampling import SAMPLING_PARAMETERS
from model.translations import LocalizedText
from model.types import Delta, Emit, EngineRequest, FinishReason, Stats, TokenLogprob

Json = dict[str, Any]

MAX_STOPS = 16  # sent to the server; this program searches for all stop strings anyway
BYTES = "bytes:"  # OpenAI's mark of a token that is a part of a character: bytes:\xe4\xb8
FINISH_REASONS = {"length": FinishReason.LENGTH}  # all others count as a stop
# Fields that servers other than vLLM may not know: sent only with other values than these.
NEUTRAL_VALUES: Mapping[str, float] = {
    name: parameter.off
    for name, parameter in SAMPLING_PARAMETERS.items()
    if parameter.off is not None
} | {"ignore_eos": False}


class ResponseStream:
    """The reply to a request so far. Only the engine's loop uses it.

    Where the server sends token ids, the detokenizer makes their text, as with the local engine;
    else the server's text is used, which has full characters only.
    """

    def __init__(self, request: EngineRequest, emit: Emit) -> None:
        self.request = request
        self.finish_reason: FinishReason | None = None
        self.started = False  # its task runs
        self.cancelled = False
        self.accepted = False  # by the server
        self.has_output = False  # the first token has come
        self.stopped_early = False  # while the server would go on
        self._emit = emit
        self._stops = StopStrings(request.sampling.stop, request.so_far)
        self._submitted = self._first_token = time.perf_counter()
        self._tokens = 0
        self._decoder = getincrementaldecoder("utf-8")("replace")
        self._text_length = 0  # characters of the text so far, those held back included
        self._usage: Json = {}
        self._refusal: LinlyError | None = None
        self._error: LocalizedText | None = None
        seed = request.sampling.seed
        self._seed = secrets.randbits(32) if seed is None else seed

    def request_body(self, model: str) -> Json:
        """The JSON body of the HTTP request, with OpenAI's fields and vLLM's."""
        request, sampling = self.request, self.request.sampling
        body: Json = {
            "model": model,
            "prompt": request.prompt_text or list(request.prompt_ids),
            "stream": True,
            "stream_options": {"include_usage": True},
            "return_token_ids": True,
            "max_tokens": sampling.max_tokens,
            "temperature": sampling.temperature,
            "seed": self._seed,
            "stop": [stop for stop in sampling.stop if _encodable(stop)][:MAX_STOPS],
        }
        end_ids = sampling.stop_token_ids if sampling.ignore_eos else request.end_ids
        if end_ids:
            body["stop_token_ids"] = sorted(end_ids)
        if sampling.logprobs is not None:
            body["logprobs"] = sampling.logprobs
        if sampling.logit_bias:
            body["logit_bias"] = {str(token): bias for token, bias in sampling.logit_bias}
        values = {name: getattr(sampling, name) for name in NEUTRAL_VALUES}
        return body | {name: v for name, v in values.items() if v != NEUTRAL_VALUES[name]}

    def on_chunk(self, chunk: Json) -> None:
        """Process the server's next chunk; sets `finish_reason` if it was the last one."""
        usage, choices = chunk.get("usage"), chunk.get("choices")
        self._usage = usage if isinstance(usage, dict) else self._usage
        if isinstance(choices, list) and choices and self.finish_reason is None:
            self._emit_choice(choices[0])

    def _emit_choice(self, choice: Json) -> None:
        ids, ended = choice.get("token_ids"), choice.get("finish_reason")
        if self._lacks_stop_ids(choice):
            error = RequestError("model_server_stop_token_ids")
            self._end(FinishReason.ERROR, error, error.text)
            self.stopped_early = not ended
            return
        if not self.has_output and (ids or choice.get("text") or ended):
            self.has_output, self._first_token = True, time.perf_counter()
        texts = self._texts(ids, choice.get("text"))
        logprobs = self._logprobs(choice.get("logprobs"), ids, texts)
        text = "".join(texts)
        self._text_length += len(text)
        shown, stopped = self._stops.push(text)
        if shown or logprobs:
            self._emit(Delta(shown, logprobs=logprobs))
        if stopped:
            self.finish_reason, self.stopped_early = FinishReason.STOP, not ended
        elif ended:
            self._end(FINISH_REASONS.get(str(ended), FinishReason.STOP))

    def _lacks_stop_ids(self, choice: Json) -> bool:
        """Whether the reply should stop at token ids and the server sends text alone: such a
        server, for example llama.cpp's, may not know `stop_token_ids`."""
        has_ids = isinstance(choice.get("token_ids"), list)
        return bool(self.request.sampling.stop_token_ids and choice.get("text") and not has_ids)

    def _texts(self, ids: object, text: object) -> list[str]:
        """The text of each id, where the server sends them; else the server's text."""
        if isinstance(ids, list):
            self._tokens += len(ids)
            push, end_ids = self.request.detokenizer.push, self.request.end_ids
            return ["" if token in end_ids else push(token) for token in ids]
        self._tokens += bool(text)
        return [text] if isinstance(text, str) else []

    def _logprobs(
        self, data: object, ids: object, texts: Sequence[str]
    ) -> tuple[TokenLogprob, ...]:
        """A choice's logprobs; `texts` are those of its ids, which the server may not send."""
        entries = _read_logprobs(data, self.request.sampling.logprobs)
        if isinstance(ids, list) and len(ids) == len(entries):
            bytes_of = self.request.detokenizer.token_bytes
            entries = [replace(e, data=bytes_of(i)) for e, i in zip(entries, ids, strict=True)]
        else:
            texts = [self._decoder.decode(entry.data) for entry in entries]
        lengths = accumulate(map(len, texts), initial=self._text_length)
        return tuple(
            replace(entry, offset=token_offset(length, text, entry.data))
            for entry, text, length in zip(entries, texts, lengths, strict=False)
        )

    def skip(self) -> None:
        """End a prefill-only request, which has no reply."""
        self._end(FinishReason.STOP)
        self.emit_final()

    def abort(self) -> None:
        """End the reply because the caller aborts it, or the engine closes."""
        self._end(FinishReason.ABORT)

    def on_connection_lost(self, error: LinlyError) -> None:
        """Connection lost: refuse the request, or end it as interrupted if the server had accepted
        it."""
        if self.accepted:
            self._end(FinishReason.ABORT, error=error.text)
        else:
            self.on_error(error)

    def on_error(self, error: LinlyError) -> None:
        """The server refused the request, or failed while it replied."""
        self._end(FinishReason.ERROR, None if self.accepted else error, error.text)

    def _end(
        self,
        reason: FinishReason,
        refusal: LinlyError | None = None,
        error: LocalizedText | None = None,
    ) -> None:
        """Set the reason, unless the reply has ended already, and emit the text that was held
        back."""
        if self.finish_reason is not None:
            return
        self.finish_reason, self._refusal, self._error = reason, refusal, error
        text, _ = self._stops.push(self.request.detokenizer.flush())
        text += self._stops.flush()
        if text:
            self._emit(Delta(text))

    def emit_final(self) -> None:
        """Emit the last Delta, once, after the server has sent its token counts."""
        self.abort()  # if nothing else has ended it
        reason, stats = self.finish_reason, self._stats()
        self._emit(Delta("", reason, stats, error=self._error, refusal=self._refusal))

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
    """Whether a text has no lone surrogates: JSON can hold them, a reply cannot."""
    return text == text.encode("utf-8", "replace").decode()


def _read_logprobs(data: object, count: int | None) -> list[TokenLogprob]:
    """A choice's logprobs, each with the `count` likeliest: vLLM adds the chosen one to them."""
    if count is None or not isinstance(data, dict):
        return []
    if isinstance(data.get("content"), list):  # llama.cpp has the form of chat completions
        return [_read_entry(entry, count) for entry in data["content"]]
    tokens, values = data.get("tokens") or (), data.get("token_logprobs") or ()
    tops = data.get("top_logprobs") or [{}] * len(tokens)
    return [
        TokenLogprob(_token_bytes(token), value, _likeliest(top or {}, count))
        for token, value, top in zip(tokens, values, tops, strict=False)
    ]


def _read_entry(entry: Json, count: int) -> TokenLogprob:
    top = tuple(_read_entry(other, 0) for other in (entry.get("top_logprobs") or ())[:count])
    data = entry.get("bytes")  # of a part of a character the text is wrong
    encoded = bytes(data) if isinstance(data, list) else entry["token"].encode(errors="replace")
    return TokenLogprob(encoded, entry["logprob"], top)


def _likeliest(top: Mapping[str, float], count: int) -> tuple[TokenLogprob, ...]:
    ranked = sorted(top.items(), key=lambda pair: pair[1], reverse=True)
    return tuple(TokenLogprob(_token_bytes(token), value) for token, value in ranked[:count])


def _token_bytes(token: str) -> bytes:
    if not token.startswith(BYTES):
        return token.encode(errors="replace")
    escaped = token.removeprefix(BYTES).encode(errors="replace")
    return re.sub(rb"\\x([0-9a-f]{2})", lambda found: bytes.fromhex(found[1].decode()), escaped)
