"""One reply in the making: what is left to compute, its text so far, and when it ends."""

from __future__ import annotations

import sys
import time

import numpy as np

from model.engine.kv_cache import SequenceCache
from model.engine.prefix_cache import PrefixKey, Tokens
from model.engine.prompt_lookup import PromptLookup
from model.engine.sampler import Choice, Floats, Sampler
from model.engine.stop_strings import StopStrings
from model.layers.llama import SequenceSlice
from model.layers.lora import Lora
from model.translations import LocalizedText
from model.types import Delta, Emit, EngineRequest, FinishReason, Queued, Stats, TokenLogprob


class Sequence:
    """A request that the engine has taken. Only the engine's thread touches it.

    Args:
        request: what to continue.
        emit: where the reply goes.
        cache: empty keys and values of its own.
        lora: the adapter's weights, or None for the base.
        pieces: number of token ids that have text.
    """

    def __init__(
        self,
        request: EngineRequest,
        emit: Emit,
        cache: SequenceCache,
        lora: Lora | None,
        pieces: int,
    ) -> None:
        self.request = request
        self.key = _prefix_key(request)
        self.reason: FinishReason | None = None
        self.prefilling = True
        self.cache = cache
        self.tokens = list(request.prompt_ids)  # and what was chosen since
        self._emit = emit
        self._lora = lora
        self._sampler = Sampler(request.sampling, request.prompt_ids, request.eos_ids, pieces)
        self._stops = StopStrings(request.sampling.stop, request.so_far)
        self._pending = tuple(self.tokens)  # those that no forward has taken yet
        self._lookup = PromptLookup(self.tokens)
        self._guessed: tuple[int, ...] = ()  # what may follow the pending token
        self.completion_tokens = 0
        self._cached_tokens = 0
        self._submitted = self._first_token = time.perf_counter()
        self._begun: float | None = None
        self._told: tuple[int, str] | None = None

    @property
    def finished(self) -> bool:
        return self.reason is not None

    @property
    def read_only(self) -> bool:
        """Whether it is read ahead, and nobody waits for text."""
        return self.request.read_only

    @property
    def remaining_tokens(self) -> int:
        """Tokens that may still come."""
        return (self.request.sampling.max_tokens or sys.maxsize) - self.completion_tokens

    @property
    def seconds(self) -> float:
        """Since it first ran; 0 if it never did."""
        return time.perf_counter() - self._begun if self._begun else 0.0

    @property
    def pending(self) -> int:
        """Tokens that no forward has taken yet."""
        return len(self._pending)

    @property
    def guessed(self) -> int:
        """Tokens that the next span computes ahead."""
        return len(self._guessed)

    def token_array(self) -> Tokens:
        """The prompt and what was chosen since, int32."""
        return np.array(self.tokens, dtype=np.int32)

    def begin(self, cache: SequenceCache) -> None:
        """Start, or start over, with `cache`, which holds the first of the tokens."""
        # What is read ahead was interrupted, if it comes back: what it finds then is its own.
        if not (self.completion_tokens or (self.read_only and self._begun)):
            self._cached_tokens = cache.length
        self._begun = self._begun or time.perf_counter()
        self.cache = cache
        self.rewind()

    def copy_beginning(self, cache: SequenceCache, length: int) -> None:
        """Go on behind the first `length` tokens, which `cache` has computed for another."""
        if not self.completion_tokens:
            self._cached_tokens += length - self.cache.length
        self.cache.copy_from(cache, length)
        self.rewind()

    def rewind(self) -> None:
        """Take up where the cache ends, after a step that failed or one that others have made."""
        self._pending, self._guessed = tuple(self.tokens[self.cache.length :]), ()
        self.prefilling = self.prefilling or len(self._pending) > 1

    def propose_draft(self, most: int, least: int) -> None:
        """Have up to `most` likely tokens computed with the next one: see `PromptLookup`.

        Only where there is room for them already, and where they may still come.
        """
        room = self.cache.capacity - self.cache.length - 1
        self._guessed = self._lookup.propose(
            max(0, min(most, room, self.remaining_tokens - 1)), least
        )

    def next_span(self, most: int) -> SequenceSlice:
        """The next `most` tokens at the most, and what is guessed to follow, as a span to
        compute."""
        tokens, self._pending = self._pending[:most], self._pending[most:]
        guessed = () if self._pending else self._guessed
        return SequenceSlice(
            (*tokens, *guessed), self.cache, self._lora, self.request.adapter_scale
        )

    def accept_logits(self, logits: Floats) -> None:
        """Sample from the logits after the span last taken, unless more of the prompt is to come.

        Args:
            logits: [positions, vocab_size], which may be changed: after the last token that was
                pending, and after each that was guessed.
        """
        if self._pending:
            return
        self.prefilling = False
        if self.read_only:
            self._read()
            return
        guessed, self._guessed = self._guessed, ()
        for at, row in enumerate(logits):
            right = at == 0 or self.tokens[-1] == guessed[at - 1]
            if self.finished or not right:
                self.cache.rollback(len(logits) - at)
                return
            self._choose(row)

    def finish_cached(self) -> None:
        """End what is read ahead, as all of it has been computed before."""
        if self._begun is None:
            self._cached_tokens = len(self.tokens)
        self._read()

    def _read(self) -> None:
        self._first_token = time.perf_counter()
        self.finish(FinishReason.STOP)

    def _choose(self, logits: Floats) -> None:
        if not self.completion_tokens:
            self._first_token = time.perf_counter()
        choice = self._sampler.choose(logits)
        self.completion_tokens += 1
        if choice.token_id in self.request.eos_ids:
            self.finish(FinishReason.STOP)
        else:
            self.tokens.append(choice.token_id)
            self._pending = (choice.token_id,)
            self._write(choice)

    def emit_queue_position(self, place: Queued) -> None:
        """Tell where in the queue it stands, unless that has been told."""
        if (place.ahead, place.reason) != self._told:
            self._told = place.ahead, place.reason
            self._emit(Delta(queued=place))

    def finish(self, reason: FinishReason, error: LocalizedText | None = None) -> None:
        """End the reply with whatever text is still held back. A second call does nothing."""
        if self.finished:
            return
        text, _ = self._stops.push(self.request.detokenizer.flush())
        self._end(reason, text + self._stops.flush(), error=error)

    def _write(self, choice: Choice) -> None:
        text, stopped = self._stops.push(self.request.detokenizer.push(choice.token_id))
        logprobs = self._logprobs(choice)
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
        self.reason = reason
        self._emit(Delta(text, reason, self._stats(), logprobs=logprobs, error=error))

    def _stats(self) -> Stats:
        return Stats(
            prompt_tokens=len(self.request.prompt_ids),
            completion_tokens=self.completion_tokens,
            first_token_seconds=self._first_token - self._submitted,
            decode_seconds=time.perf_counter() - self._first_token,
            seed=self._sampler.seed,
            cached_tokens=self._cached_tokens,
            queue_seconds=(self._begun or time.perf_counter()) - self._submitted,
        )

    def _logprobs(self, choice: Choice) -> tuple[TokenLogprob, ...]:
        if choice.logprob is None:
            return ()
        piece = self.request.detokenizer.token_text
        top = tuple(TokenLogprob(piece(token_id), value) for token_id, value in choice.top)
        return (TokenLogprob(piece(choice.token_id), choice.logprob, top),)


def _prefix_key(request: EngineRequest) -> PrefixKey:
    """What, beside its tokens, a sequence's keys and values depend on."""
    if request.adapter is None or request.adapter_scale == 0:
        return "", 0.0
    return request.adapter.digest, request.adapter_scale
