"""One request in the engine: its tokens to compute, its text so far, and when it ends."""

from __future__ import annotations

import sys
import time

import numpy as np

from model.engine.kv_cache import SequenceCache
from model.engine.prefix_cache import PrefixKey, Tokens
from model.engine.prompt_lookup import PromptLookup
from model.engine.sampler import Choice, Floats, Sampler
from model.engine.stop_strings import StopStrings
from model.engine.token_offset import token_offset
from model.layers.llama import SequenceSlice
from model.layers.lora import Lora
from model.translations import LocalizedText
from model.types import Delta, Emit, EngineRequest, FinishReason, Queued, Stats, TokenLogprob


class Sequence:
    """A request that the engine has accepted. Only the engine's thread uses it.

    Args:
        request: the tokens to continue, and how.
        emit: receives the reply.
        cache: empty keys and values of its own.
        lora: the adapter's weights, or None for the base.
        vocab_size: number of token ids that have text.
    """

    def __init__(
        self,
        request: EngineRequest,
        emit: Emit,
        cache: SequenceCache,
        lora: Lora | None,
        vocab_size: int,
    ) -> None:
        self.request = request
        self.prefix_key = _prefix_key(request)
        self.finish_reason: FinishReason | None = None
        self.prefilling = True
        self.cache = cache
        self.tokens = list(request.prompt_ids)  # and the tokens chosen since
        self._emit = emit
        self._lora = lora
        self._sampler = Sampler(request.sampling, request.prompt_ids, request.eos_ids, vocab_size)
        self._end_ids = request.end_ids
        self._stops = StopStrings(request.sampling.stop, request.so_far)
        self._pending = tuple(self.tokens)  # not in a forward yet
        self._lookup = PromptLookup(self.tokens)
        self._draft: tuple[int, ...] = ()  # may follow the pending token
        self.completion_tokens = 0
        self._text_length = 0  # characters of the text so far, those held back included
        self._cached_tokens = 0
        self._submitted = self._first_token = time.perf_counter()
        self._started: float | None = None
        self._queue_position: tuple[int, str] | None = None  # as last emitted

    @property
    def finished(self) -> bool:
        return self.finish_reason is not None

    @property
    def prefill_only(self) -> bool:
        """Whether only its keys and values are computed, for later requests."""
        return self.request.prefill_only

    @property
    def remaining_tokens(self) -> int:
        """Tokens that the reply may still have."""
        return (self.request.sampling.max_tokens or sys.maxsize) - self.completion_tokens

    @property
    def seconds(self) -> float:
        """Since it first ran; 0 if it never did."""
        return time.perf_counter() - self._started if self._started else 0.0

    @property
    def pending(self) -> int:
        """Number of tokens that were not in a forward yet."""
        return len(self._pending)

    @property
    def draft_length(self) -> int:
        """Number of draft tokens that the next slice computes."""
        return len(self._draft)

    def token_array(self) -> Tokens:
        """The prompt and the tokens chosen since, int32."""
        return np.array(self.tokens, dtype=np.int32)

    def start(self, cache: SequenceCache) -> None:
        """Start, or start over, with `cache`, which holds the first of the tokens."""
        # A preempted prefill-only sequence finds its own tokens in the cache: they do not count.
        if not (self.completion_tokens or (self.prefill_only and self._started)):
            self._cached_tokens = cache.length
        self._started = self._started or time.perf_counter()
        self.cache = cache
        self.rewind()

    def copy_prefix(self, cache: SequenceCache, length: int) -> None:
        """Copy the first `length` positions of `cache`, computed for another sequence; continue
        after them."""
        if not self.completion_tokens:
            self._cached_tokens += length - self.cache.length
        self.cache.copy_from(cache, length)
        self.rewind()

    def rewind(self) -> None:
        """Continue where the cache ends: after a step that failed, or a copied prefix."""
        self._pending, self._draft = tuple(self.tokens[self.cache.length :]), ()
        self.prefilling = self.prefilling or len(self._pending) > 1

    def propose_draft(self, max_tokens: int, min_match: int) -> None:
        """Have up to `max_tokens` draft tokens computed with the next one: see `PromptLookup`.

        Only where the cache has room for them already, and the reply may still have them.
        """
        room = self.cache.capacity - self.cache.length - 1
        self._draft = self._lookup.propose(
            max(0, min(max_tokens, room, self.remaining_tokens - 1)), min_match
        )

    def next_slice(self, max_tokens: int) -> SequenceSlice:
        """The next `max_tokens` pending tokens, or fewer; with the last of them, the draft."""
        tokens, self._pending = self._pending[:max_tokens], self._pending[max_tokens:]
        draft = () if self._pending else self._draft
        return SequenceSlice((*tokens, *draft), self.cache, self._lora, self.request.adapter_scale)

    def accept_logits(self, logits: Floats) -> None:
        """Sample from the logits of the last slice, unless more of the prompt is pending.

        Args:
            logits: [positions, vocab_size], which may be changed: after the last token that was
                pending, and after each draft token.
        """
        if self._pending:
            return
        self.prefilling = False
        if self.prefill_only:
            self._finish_prefill_only()
            return
        draft, self._draft = self._draft, ()
        for at, row in enumerate(logits):
            is_right = at == 0 or self.tokens[-1] == draft[at - 1]
            if self.finished or not is_right:
                self.cache.rollback(len(logits) - at)
                return
            self._choose(row)

    def finish_cached(self) -> None:
        """End a prefill-only sequence whose tokens are all cached."""
        if self._started is None:
            self._cached_tokens = len(self.tokens)
        self._finish_prefill_only()

    def _finish_prefill_only(self) -> None:
        self._first_token = time.perf_counter()
        self.finish(FinishReason.STOP)

    def _choose(self, logits: Floats) -> None:
        if not self.completion_tokens:
            self._first_token = time.perf_counter()
        choice = self._sampler.choose(logits)
        self.completion_tokens += 1
        if choice.token_id in self._end_ids:
            self.finish(FinishReason.STOP, choice=choice)
        else:
            self.tokens.append(choice.token_id)
            self._pending = (choice.token_id,)
            self._emit_token(choice)

    def emit_queue_position(self, position: Queued) -> None:
        """Emit the position in the queue, unless it is the one that was last emitted."""
        if (position.ahead, position.reason) != self._queue_position:
            self._queue_position = position.ahead, position.reason
            self._emit(Delta(queued=position))

    def finish(
        self,
        reason: FinishReason,
        error: LocalizedText | None = None,
        choice: Choice | None = None,
    ) -> None:
        """End the reply; emits the text that was held back, and the logprobs of `choice`, the token
        that ends it. A second call does nothing."""
        if self.finished:
            return
        try:
            text, _ = self._push(self.request.detokenizer.flush())
        except Exception:
            if reason not in (FinishReason.ABORT, FinishReason.ERROR):
                raise  # the caller ends this reply with an error
            text = ""
        logprobs = self._logprobs(choice) if choice else ()
        self._end(reason, text + self._stops.flush(), logprobs, error)

    def _push(self, text: str) -> tuple[str, bool]:
        """Returns what can be shown now, and whether a stop string has ended the reply."""
        self._text_length += len(text)
        return self._stops.push(text)

    def _emit_token(self, choice: Choice) -> None:
        new_text = self.request.detokenizer.push(choice.token_id)
        logprobs = self._logprobs(choice, new_text)
        text, stopped = self._push(new_text)
        if stopped:
            self._end(FinishReason.STOP, text, logprobs)
            return
        if text or logprobs:
            self._emit(Delta(text, logprobs=logprobs))
        if self.completion_tokens == self.request.sampling.max_tokens:
            self.finish(FinishReason.LENGTH)

    def _end(
        self,
        reason: FinishReason,
        text: str,
        logprobs: tuple[TokenLogprob, ...] = (),
        error: LocalizedText | None = None,
    ) -> None:
        self.finish_reason = reason
        self._emit(Delta(text, reason, self._stats(), logprobs=logprobs, error=error))

    def _stats(self) -> Stats:
        return Stats(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=self.completion_tokens,
            first_token_seconds=self._first_token - self._submitted,
            decode_seconds=time.perf_counter() - self._first_token,
            seed=self._sampler.seed,
            cached_tokens=self._cached_tokens,
            queue_seconds=(self._started or time.perf_counter()) - self._submitted,
        )

    def _logprobs(self, choice: Choice, new_text: str = "") -> tuple[TokenLogprob, ...]:
        if choice.logprob is None:
            return ()
        bytes_of = self.request.detokenizer.token_bytes
        top = tuple(TokenLogprob(bytes_of(token_id), value) for token_id, value in choice.top)
        data = bytes_of(choice.token_id)
        offset = token_offset(self._text_length, new_text, data)
        return (TokenLogprob(data, choice.logprob, top, offset),)


def _prefix_key(request: EngineRequest) -> PrefixKey:
    """What a sequence's keys and values depend on, beside its tokens."""
    if request.adapter is None or request.adapter_scale == 0:
        return "", 0.0
    return request.adapter.digest, request.adapter_scale
